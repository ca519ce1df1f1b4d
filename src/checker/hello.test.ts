import { once } from 'node:events';
import { connect as tlsConnect } from 'node:tls';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { execa } from 'execa';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createHelloReader, HELLO_BYTES_MAX } from './hello.ts';
import type { HelloResult } from './hello.ts';
import { helloOf, recordsOf, serverNameOf } from './testing-hello.ts';

function read(...chunks: readonly Uint8Array[]): HelloResult {
  const reader = createHelloReader();
  let result: HelloResult = { kind: 'more' };
  for (const chunk of chunks) {
    result = reader.feed(chunk);
    if (result.kind !== 'more') break;
  }
  return result;
}

const refusal = (rule: string) => ({ kind: 'refuse', rule, explanation: expect.any(String) as string });

/** What a real client sends first, taken from a socket. */
async function firstBytesOf(start: (port: number) => void): Promise<Buffer> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const bytes = new Promise<Buffer>((resolve) => {
    server.once('connection', (socket) => {
      const chunks: Buffer[] = [];
      socket.on('error', () => undefined);
      socket.on('data', (chunk: Buffer) => {
        chunks.push(chunk);
        const all = Buffer.concat(chunks);
        if (all.length < 5 || all.length < 5 + all.readUInt16BE(3)) return;
        socket.destroy();
        resolve(all);
      });
    });
  });
  start(port);
  const all = await bytes;
  server.close();
  return all;
}

const byNode = async (options: object): Promise<Buffer> =>
  await firstBytesOf((port) => {
    tlsConnect({ host: '127.0.0.1', port, ...options }).on('error', () => undefined);
  });
const byOpenssl = async (args: readonly string[]): Promise<Buffer> =>
  await firstBytesOf((port) => {
    void execa('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, ...args], {
      reject: false,
      timeout: 10_000,
      input: '',
    });
  });

describe('a hello of a real client', () => {
  test.each([
    ['Node.js', async () => await byNode({ servername: 'good.test' })],
    [
      'Node.js with TLS 1.2 and ALPN',
      async () => await byNode({ servername: 'good.test', maxVersion: 'TLSv1.2', ALPNProtocols: ['h2', 'http/1.1'] }),
    ],
    ['openssl s_client', async () => await byOpenssl(['-servername', 'good.test'])],
    ['openssl s_client with TLS 1.2', async () => await byOpenssl(['-servername', 'GOOD.test', '-tls1_2'])],
  ])('shows its name, whole and byte by byte: %s', async (_, make) => {
    const hello = await make();
    const expected = { kind: 'hello', name: 'good.test', bytes: hello.length };
    expect(read(hello)).toEqual(expected);
    expect(read(...[...hello].map((byte) => Uint8Array.of(byte)))).toEqual(expected);
  });

  test.each([
    ['Node.js', async () => await byNode({})],
    ['openssl s_client', async () => await byOpenssl(['-noservername'])],
  ])('without a name is refused: %s', async (_, make) => {
    expect(read(await make())).toEqual(refusal('check.no-name'));
  });
});

describe('a hello in pieces', () => {
  const hello = helloOf({ extensions: [serverNameOf('good.test')] });
  const whole = recordsOf(hello, [hello.length]);

  test('is read when it is cut at every position', () => {
    for (let cut = 0; cut <= whole.length; cut += 1) {
      const result = read(whole.subarray(0, cut), whole.subarray(cut));
      expect(result).toEqual({ kind: 'hello', name: 'good.test', bytes: whole.length });
    }
  });

  test('is read when it comes in three records cut at every pair of positions', () => {
    for (let first = 1; first < hello.length - 1; first += 1) {
      for (let second = first + 1; second < hello.length; second += 7) {
        const records = recordsOf(hello, [first, second - first, hello.length - second]);
        expect(read(records)).toEqual({ kind: 'hello', name: 'good.test', bytes: records.length });
      }
    }
  });

  test('is read when every byte has a record and a segment of its own', () => {
    const records = recordsOf(
      hello,
      Array.from({ length: hello.length }, () => 1),
    );
    expect(read(...[...records].map((byte) => Uint8Array.of(byte)))).toMatchObject({
      kind: 'hello',
      name: 'good.test',
    });
  });

  test('is not confused with what follows in the next record', () => {
    const early = Buffer.concat([whole, Buffer.from('17030300050102030405', 'hex')]);
    expect(read(early)).toEqual({ kind: 'hello', name: 'good.test', bytes: whole.length });
  });

  test('waits for the last byte', () => {
    expect(read(whole.subarray(0, -1))).toEqual({ kind: 'more' });
  });
});

describe('is refused', () => {
  const good = serverNameOf('good.test');
  const oneRecord = (hello: Buffer): Buffer => recordsOf(hello, [hello.length]);
  const hex = (text: string): Buffer => Buffer.from(text, 'hex');

  test.each<[string, string, Buffer]>([
    ['an SSH banner', 'check.protocol', Buffer.from('SSH-2.0-OpenSSH_9.2\r\n')],
    ['plain HTTP', 'check.protocol', Buffer.from('GET / HTTP/1.1\r\nHost: good.test\r\n\r\n')],
    ['a hello of SSL 2', 'check.protocol', hex('802e0100020015000000100100800200800300800400800500800600400700c0')],
    ['an alert', 'check.protocol', hex('15030300020228')],
    ['a record of version 2', 'check.protocol', hex('16020000050100000100')],
    ['an empty record', 'check.protocol', hex('1603010000')],
    ['a record above 16,384 bytes', 'check.protocol', hex('16030140010100')],
    ['another handshake message', 'check.protocol', hex('160301000402000000')],
    ['a hello that announces 16 MiB', 'check.size', hex('160301000401ffffff')],
    [
      'a hello whose first record is followed by an alert',
      'check.protocol',
      Buffer.concat([recordsOf(helloOf({ extensions: [good] }), [20]), hex('15030300020228')]),
    ],
    ['no extensions at all', 'check.no-name', oneRecord(helloOf({ extensions: null }))],
    [
      'no extension with a name',
      'check.no-name',
      oneRecord(helloOf({ extensions: [{ type: 43, data: hex('020304') }] })),
    ],
    [
      'two extensions with names',
      'check.protocol',
      oneRecord(helloOf({ extensions: [good, serverNameOf('evil.test')] })),
    ],
    [
      'any extension twice',
      'check.protocol',
      oneRecord(helloOf({ extensions: [good, { type: 43, data: hex('020304') }, { type: 43, data: hex('020303') }] })),
    ],
    [
      'two names in one extension',
      'check.name',
      oneRecord(helloOf({ extensions: [serverNameOf('good.test', 'evil.test')] })),
    ],
    [
      'a name of another type',
      'check.name',
      oneRecord(helloOf({ extensions: [{ type: 0, data: hex('0007010004676f6f64') }] })),
    ],
    ['an empty list of names', 'check.protocol', oneRecord(helloOf({ extensions: [{ type: 0, data: hex('0000') }] }))],
    ['an empty extension', 'check.protocol', oneRecord(helloOf({ extensions: [{ type: 0, data: hex('') }] }))],
    [
      'bytes behind the list of names',
      'check.protocol',
      oneRecord(helloOf({ extensions: [{ type: 0, data: Buffer.concat([good.data, hex('00')]) }] })),
    ],
    [
      'a length beyond the extension',
      'check.protocol',
      oneRecord(helloOf({ extensions: [{ type: 0, data: hex('000c0000ff676f6f642e74657374') }] })),
    ],
    ['bytes behind the extensions', 'check.protocol', oneRecord(helloOf({ extensions: [good], behind: hex('00') }))],
    [
      'a session id of 33 bytes',
      'check.protocol',
      oneRecord(helloOf({ extensions: [good], sessionId: Buffer.alloc(33) })),
    ],
    ['half a cipher suite', 'check.protocol', oneRecord(helloOf({ extensions: [good], suites: hex('130113') }))],
    ['no compression method', 'check.protocol', oneRecord(helloOf({ extensions: [good], compression: hex('') }))],
    [
      'a second message in the record',
      'check.protocol',
      oneRecord(Buffer.concat([helloOf({ extensions: [good] }), helloOf({ extensions: [serverNameOf('evil.test')] })])),
    ],
    [
      'half a message behind it in the record',
      'check.protocol',
      recordsOf(Buffer.concat([helloOf({ extensions: [good] }), hex('01')]), [
        helloOf({ extensions: [good] }).length + 1,
      ]),
    ],
  ])('%s', (_, rule, bytes) => {
    expect(read(bytes)).toEqual(refusal(rule));
  });

  test.each([
    ['', 'check.name'],
    ['.', 'check.name'],
    ['good.test.', 'check.name'],
    ['good..test', 'check.name'],
    ['good.test\0', 'check.name'],
    ['good.test\0.evil.test', 'check.name'],
    ['good.test\r\nx', 'check.name'],
    ['good .test', 'check.name'],
    ['good_test', 'check.name'],
    ['gööd.test', 'check.name'],
    ['*.test', 'check.name'],
    ['203.0.113.7', 'check.name'],
    ['0x7f000001', 'check.name'],
    ['[::1]', 'check.name'],
    ['a@good.test', 'check.name'],
    ['good.test:443', 'check.name'],
    [`${'a'.repeat(64)}.test`, 'check.name'],
    [`${'a.'.repeat(130)}test`, 'check.name'],
  ])('the name %j', (name, rule) => {
    expect(read(oneRecord(helloOf({ extensions: [serverNameOf(name)] })))).toEqual(refusal(rule));
  });

  test('a hello larger than its bound, and not one just below it', () => {
    const padded = (bytes: number): Buffer =>
      oneRecord(helloOf({ extensions: [good, { type: 21, data: Buffer.alloc(bytes) }] }));
    const rest = HELLO_BYTES_MAX - padded(0).length;
    expect(read(padded(rest))).toMatchObject({ kind: 'hello', name: 'good.test' });
    expect(read(padded(rest + 1))).toEqual(refusal('check.size'));
  });

  test('a hello that hides its size in thousands of records', () => {
    const hello = helloOf({ extensions: [good, { type: 21, data: Buffer.alloc(8_000) }] });
    const records = recordsOf(
      hello,
      Array.from({ length: hello.length }, () => 1),
    );
    expect(read(records)).toEqual(refusal('check.size'));
  });
});

describe('of random bytes', () => {
  test('no name is ever read', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 20 }), (chunks) => {
        expect(read(...chunks).kind).not.toBe('hello');
      }),
      { numRuns: 2_000 },
    );
  });

  test('no name is read when they follow the header of a hello', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 43, maxLength: 400 }), (body) => {
        const message = Buffer.concat([Buffer.from([1, 0, body.length >> 8, body.length & 0xff]), body]);
        expect(['more', 'refuse']).toContain(read(recordsOf(message, [message.length])).kind);
      }),
      { numRuns: 2_000 },
    );
  });

  test('a hello with some bytes changed shows a canonical name or none, however it is cut', () => {
    const hello = helloOf({
      extensions: [serverNameOf('good.test'), { type: 43, data: Buffer.from('020304', 'hex') }],
    });
    const whole = recordsOf(hello, [hello.length]);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        fc.nat(whole.length),
        (changes, cut) => {
          const mutated = Buffer.from(whole);
          for (const [at, value] of changes) mutated[at] = value;
          const result = read(mutated);
          expect(read(mutated.subarray(0, cut), mutated.subarray(cut))).toEqual(result);
          if (result.kind === 'hello') expect(result.name).toMatch(/^[a-z0-9.-]+$/);
        },
      ),
      { numRuns: 5_000 },
    );
  });
});
