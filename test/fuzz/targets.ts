import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { crc32 } from 'node:zlib';
import type { IncomingMessage } from 'node:http';
import { encode } from 'dns-packet';
import { FrameDecoder, encodeFrame, FRAME } from '../../src/api/frames.ts';
import { checkRequest } from '../../src/api/request.ts';
import { createHelloReader } from '../../src/checker/hello.ts';
import { createHeadReader } from '../../src/checker/request.ts';
import { helloOf, recordsOf, serverNameOf } from '../../src/checker/testing-hello.ts';
import { RingfenceError } from '../../src/core/errors.ts';
import { printable } from '../../src/core/text.ts';
import { FrameParser } from '../../src/engine/stream.ts';
import { encodeReply, parseQuery } from '../../src/gate/wire.ts';
import { parseListing } from '../../src/kernel/ipset.ts';
import { attribute, nested, netfilterMessage, parseAttributes, parseMessages } from '../../src/kernel/netlink.ts';
import { parseLogged } from '../../src/kernel/nflog.ts';
import { checkLine, encodeLine, faultOf, GENESIS, parseLine } from '../../src/ledger/line.ts';
import { parseProfile } from '../../src/profile/parse.ts';
import { resolveProfile } from '../../src/profile/resolve.ts';
import { parseRule } from '../../src/profile/rules.ts';
import { denialOfPacket, parseGateLine } from '../../src/warden/denials.ts';
import { createRandom, type Random } from '../simulation/random.ts';
import { neverAllowed, notAsWritten, wronglyJudged } from './egress-oracle.ts';
import { mutated, pieces } from './mutate.ts';

/** One parser of hostile bytes: where its inputs come from, and what must hold of what it makes of them. */
export type FuzzTarget = {
  readonly name: string;
  /** Of a hundred inputs so many are for this one. */
  readonly share: number;
  readonly corpus: readonly Buffer[];
  /** A sentence when something that must hold does not. What it throws is a crash, but for an error of the catalogue. */
  check(input: Buffer, random: Random): string | null | Promise<string | null>;
};

const ROOT = join(import.meta.dirname, '../..');
const texts = (...all: readonly string[]): Buffer[] => all.map((text) => Buffer.from(text));

function filesOf(folder: string): Buffer[] {
  const names = readdirSync(join(ROOT, folder)).filter((name) => name.endsWith('.yaml'));
  return names.map((name) => readFileSync(join(ROOT, folder, name)));
}

const AT = '2026-10-05T08:00:00.000Z';
const PLACE = { seq: 7, prev: GENESIS };
const LINE = Buffer.from(
  encodeLine(PLACE, AT, { kind: 'run.started', runId: 'r000000000000', profile: 'probe', pid: 1 }),
);

const profile: FuzzTarget = {
  name: 'profile',
  share: 6,
  corpus: [...filesOf('profiles'), ...filesOf('test/golden/profiles')].filter(({ length }) => length < 4_000),
  check: (input) => {
    const parsed = parseProfile({ text: input.toString('utf8'), file: 'fuzz.yaml' });
    if (!parsed.ok) return parsed.problems.length > 0 ? null : 'refused without a reason';
    const resolved = resolveProfile({ parsed, digest: `sha256:${'0'.repeat(64)}`, folder: '/profiles' });
    if (!resolved.ok) return resolved.problems.length > 0 ? null : 'refused without a reason';
    const { egress, limits, budget } = resolved.spec;
    const bounded = [limits.cpuMillis, limits.memoryBytesMax, limits.pidsMax, budget.wallMs];
    if (!bounded.every((value) => Number.isFinite(value) && value > 0)) return `bounds are ${bounded.join(', ')}`;
    return neverAllowed(egress) ?? firstOf([...egress.allow, ...egress.ask], notAsWritten);
  },
};

const rules: FuzzTarget = {
  name: 'rules',
  share: 15,
  corpus: texts(
    'api.openai.com',
    '*.pythonhosted.org:443',
    'github.com:22,443',
    '10.20.0.5/32:5432',
    'good.test:8000/udp,53/udp',
    '203.0.113.0/24:22/tcp',
    'xn--bcher-kva.example:80',
    'localhost',
    '169.254.169.254/32',
    '0.0.0.0/0',
    '*.com',
  ),
  check: (input, random) => {
    const text = input.toString('utf8');
    const list = random.pick(['allow', 'ask'] as const);
    const parsed = parseRule(text, {
      list,
      inspect: random.chance(0.2),
      check: random.pick([undefined, 'tls', 'off']),
    });
    if (!parsed.ok) return parsed.rule === '' ? 'refused without a reason' : null;
    const empty = { allow: [], ask: [] };
    return neverAllowed({ ...empty, [list]: [parsed.rule] }) ?? notAsWritten(parsed.rule);
  },
};

const names: FuzzTarget = {
  name: 'names',
  share: 15,
  corpus: texts(
    'good.test',
    'a.wild.test',
    'wild.test',
    'evil.test',
    'good.test.evil.test',
    'notgood.test',
    'GOOD.TEST.',
  ),
  check: (input) => wronglyJudged(input.toString('utf8')) ?? wronglyJudged(input.toString('latin1')),
};

const launchBody = JSON.stringify({
  profilePath: '/profiles/a.yaml',
  profileText: 'name: a',
  command: ['a'],
  labels: { a: 'b' },
  attach: false,
  tty: false,
  stdin: false,
});

const api: FuzzTarget = {
  name: 'api',
  share: 8,
  corpus: texts(
    `POST /v1/runs ${launchBody}`,
    'GET /v1/runs?all=true ',
    'GET /v1/runs/r000000000000 ',
    'POST /v1/runs/probe/stop ',
    'GET /v1/events?follow=true&sinceMs=5 ',
    'POST /v1/approvals/a0/approve {"forMs":null}',
    'POST /v1/profiles/probe/release ',
    'GET /v1/runs/..%2f..%2fetc ',
  ),
  check: async (input) => {
    const [, method = '', url = '/', body = ''] = /^(\S*) ?(\S*) ?(.*)$/s.exec(input.toString('latin1')) ?? [];
    const bytes = Buffer.from(body, 'latin1');
    const headers = {
      'content-type': 'application/json',
      ...(bytes.length > 0 ? { 'content-length': String(bytes.length) } : {}),
    };
    const request = Object.assign(Readable.from(bytes.length > 0 ? [bytes] : []), { method, url, headers });
    const checked = await checkRequest(request as unknown as IncomingMessage);
    return Object.hasOwn(Object.prototype, 'fuzzed') || typeof checked.name !== 'string'
      ? 'a request without a name'
      : null;
  },
};

const stream: FuzzTarget = {
  name: 'stream',
  share: 10,
  corpus: [1, 2, 0, 3].map((type) => {
    const payload = Buffer.from(`said by ${type}\n`);
    const header = Buffer.from([type, 0, 0, 0, 0, 0, 0, payload.length]);
    return Buffer.concat([header, payload, header, payload]);
  }),
  check: (input, random) => {
    const read = (chunks: readonly Buffer[]): string => {
      const parser = new FrameParser();
      const heard = { stdout: '', stderr: '' };
      let bytes = 0;
      let ended = 'whole';
      try {
        for (const chunk of chunks) {
          for (const { stream: from, bytes: said } of parser.push(chunk)) {
            heard[from] += Buffer.from(said).toString('latin1');
            bytes += said.length;
          }
        }
        parser.end();
      } catch (error) {
        if (!(error instanceof RingfenceError)) throw error;
        ended = 'refused';
      }
      if (bytes > input.length) throw new Error('more was heard than was said');
      // What comes before an error depends on how it was cut; whether there is one does not.
      return ended === 'refused' ? ended : `${heard.stdout}|${heard.stderr}`;
    };
    return read([input]) === read(pieces(random, input)) ? null : 'in pieces it says something else';
  },
};

const REFUSED = { rcode: 5, addresses: [], ttlSeconds: 1, extended: { code: 15, text: 'egress' } };

const dns: FuzzTarget = {
  name: 'dns',
  share: 10,
  corpus: (['A', 'AAAA', 'TXT', 'PTR'] as const).map((type) =>
    Buffer.from(
      encode({
        type: 'query',
        id: 77,
        flags: 256,
        questions: [{ type, name: 'good.test' }],
        ...(type === 'A'
          ? {}
          : { additionals: [{ type: 'OPT', name: '.', udpPayloadSize: 4_096, flags: 0, options: [] }] as never }),
      }),
    ),
  ),
  check: (input) => {
    const parsed = parseQuery(input);
    if (!parsed.ok) return null;
    const { query } = parsed;
    if (query.labels.some((label) => label.length < 1 || label.length > 63)) return 'a label of no length or too much';
    if (query.labels.join('.').length > 253) return 'a name that is too long';
    const wire = Buffer.concat(
      query.labels.flatMap((label) => [Buffer.of(label.length), Buffer.from(label, 'latin1')]),
    );
    if (!query.questionBytes.subarray(0, wire.length).equals(wire)) return 'labels that do not stand in the question';
    const reply = encodeReply(query, REFUSED, 'udp');
    return reply.readUInt16BE(0) === query.id ? wronglyJudged(query.labels.join('.')) : 'an answer to something else';
  },
};

const hello: FuzzTarget = {
  name: 'hello',
  share: 10,
  corpus: ['good.test', 'evil.test', 'a.wild.test'].flatMap((name) => {
    const message = helloOf({
      extensions: [{ type: 10, data: Buffer.from('000200 1d'.replace(' ', ''), 'hex') }, serverNameOf(name)],
    });
    return [recordsOf(message, [message.length]), recordsOf(message, [40, 7, message.length - 47])];
  }),
  check: (input, random) => {
    const read = (chunks: readonly Buffer[]) => {
      const reader = createHelloReader();
      for (const chunk of chunks) {
        const result = reader.feed(chunk);
        if (result.kind !== 'more') return result;
      }
      return { kind: 'more' as const };
    };
    const whole = read([input]);
    const cut = read(pieces(random, input));
    if (whole.kind !== cut.kind) return `whole it is ${whole.kind}, in pieces ${cut.kind}`;
    if (whole.kind !== 'hello' || cut.kind !== 'hello') return null;
    if (whole.name !== cut.name || whole.bytes !== cut.bytes) return 'in pieces it names something else';
    if (whole.bytes > input.length) return 'a hello that is longer than what was sent';
    // Record headers may stand inside the name, so what is between them is looked at.
    const letters = Buffer.concat(input.length < 65_536 ? withoutRecords(input) : [])
      .toString('latin1')
      .toLowerCase();
    return letters.includes(whole.name) ? wronglyJudged(whole.name) : `${whole.name} is not in the hello`;
  },
};

function withoutRecords(input: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  for (let at = 0; at + 5 <= input.length;) {
    const length = input.readUInt16BE(at + 3);
    parts.push(input.subarray(at + 5, at + 5 + length));
    at += 5 + length;
  }
  return parts;
}

const http: FuzzTarget = {
  name: 'http',
  share: 10,
  corpus: texts(
    'GET / HTTP/1.1\r\nHost: good.test\r\nAccept: */*\r\n\r\n',
    'POST http://good.test:80/a?b HTTP/1.1\r\nHost: good.test:80\r\nContent-Length: 3\r\n\r\nabc',
    'GET /chat HTTP/1.1\r\nHost: a.wild.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
    'PUT / HTTP/1.1\r\nHost: evil.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'GET / HTTP/1.0\r\nHost: good.test\r\n\r\n',
  ),
  check: (input, random) => {
    const read = (chunks: readonly Buffer[]) => {
      const reader = createHeadReader();
      for (const chunk of chunks) {
        const result = reader.feed(Buffer.from(chunk));
        if (result.kind !== 'more') return result;
      }
      return { kind: 'more' as const };
    };
    const whole = read([input]);
    const cut = read(pieces(random, input));
    if (whole.kind !== cut.kind) return `whole it is ${whole.kind}, in pieces ${cut.kind}`;
    if (whole.kind !== 'head' || cut.kind !== 'head') return null;
    const { name, bytes } = whole.head;
    if (cut.head.name !== name || !cut.head.bytes.equals(bytes)) return 'in pieces it asks for something else';
    const shown = bytes.toString('latin1');
    // As another reader would look: one Host, and every way in which it could be read is the name that was judged.
    const hosts = shown.split(/\r\n|\r|\n/).filter((line) => /^\s*host\s*:/i.test(line));
    if (hosts.length !== 1) return `${hosts.length} hosts go upstream`;
    if (
      hosts[0]
        ?.replace(/^host:\s*/i, '')
        .replace(/:\d+\s*$/, '')
        .trim()
        .toLowerCase()
        .replace(/\.$/, '') !== name
    )
      return `${hosts[0]} goes upstream for ${name}`;
    if (!shown.endsWith('\r\n\r\n')) return 'a head without an end goes upstream';
    return wronglyJudged(name);
  },
};

const packetBytes = Buffer.from('450000280004000040060000c0000201cb00710a0a1b0016000000000000000050020000', 'hex');

const netlink: FuzzTarget = {
  name: 'netlink',
  share: 8,
  corpus: [
    netfilterMessage({
      type: 0x400,
      flags: 0,
      sequence: 1,
      family: 2,
      resource: 5,
      attributes: [
        attribute(10, Buffer.from('rf:deny\0')),
        attribute(9, packetBytes),
        attribute(12, Buffer.from([0, 0, 0, 7])),
        attribute(4, Buffer.from([0, 0, 0, 3])),
      ],
    }),
    netfilterMessage({
      type: 0x60c,
      flags: 2,
      sequence: 1,
      family: 2,
      resource: 0,
      attributes: [
        nested(8, [
          nested(7, [
            nested(1, [attribute(1, Buffer.from([10, 213, 0, 2]))]),
            attribute(4, Buffer.from([1, 187])),
            attribute(7, Buffer.from([6])),
            nested(20, [attribute(1, Buffer.from([192, 0, 2, 1]))]),
            attribute(6, Buffer.from([0, 0, 0, 60])),
            attribute(24, Buffer.alloc(8, 1)),
          ]),
        ]),
      ],
    }),
  ],
  check: (input) => {
    for (const { body } of parseMessages(input)) {
      parseAttributes(body);
      parseListing(body);
      const packet = parseLogged(body.subarray(4));
      const { destination, protocol, port } = denialOfPacket(packet, AT);
      if (printable(`${destination}${protocol}`) !== `${destination}${protocol}`)
        return 'a denial that cannot be shown';
      if (port !== null && (port < 0 || port > 65_535)) return `port ${port}`;
    }
    return null;
  },
};

const ledger: FuzzTarget = {
  name: 'ledger',
  share: 8,
  corpus: [LINE],
  check: (input) => {
    parseLine(input);
    const { fault } = checkLine(input, PLACE);
    if ((fault === null) !== input.equals(LINE)) return `a line that was changed is found ${fault?.kind ?? 'well'}`;
    // Who changes a line can make its checksum fit: the quick look must not miss what the careful one sees.
    const forged = withChecksum(input);
    const [quick, careful] = [checkLine(forged, PLACE).fault, faultOf(forged, PLACE)];
    return quick?.why === careful?.why
      ? null
      : `quickly: ${quick?.why ?? 'well'}; carefully: ${careful?.why ?? 'well'}`;
  },
};

function withChecksum(line: Buffer): Buffer {
  const body = line.subarray(0, Math.max(0, line.length - ',"crc":"01234567"}'.length));
  return Buffer.concat([body, Buffer.from(`,"crc":"${crc32(body).toString(16).padStart(8, '0')}"}`)]);
}

const gateLines: FuzzTarget = {
  name: 'gate-lines',
  share: 4,
  corpus: texts(
    `{"kind":"resolved","address":"10.213.0.2","name":"good.test","addresses":["192.0.2.1"]}`,
    `{"address":"10.213.0.2","suppressed":0,"denial":{"kind":"name","at":"${AT}","destination":"evil.test","port":null,"protocol":"dns","rule":"egress","explanation":"no"}}`,
  ),
  check: (input) => {
    const line = parseGateLine(input.toString('utf8'));
    if (line?.kind !== 'denied') return null;
    const { destination, rule, explanation } = line.denial;
    return isShowable(destination) && isShowable(rule) && isShowable(explanation)
      ? null
      : 'a denial that cannot be shown';
  },
};

const frames: FuzzTarget = {
  name: 'frames',
  share: 4,
  corpus: Object.values(FRAME).map((type) => Buffer.from(encodeFrame(type, Buffer.from('{"a":1}')))),
  check: (input, random) => {
    const read = (chunks: readonly Buffer[]): string => {
      const decoder = new FrameDecoder();
      try {
        return chunks
          .flatMap((chunk) => decoder.push(chunk))
          .map(({ type, payload }) => `${type} ${Buffer.from(payload).toString('hex')}`)
          .join();
      } catch (error) {
        if (error instanceof RingfenceError) return 'refused';
        throw error;
      }
    };
    return read([input]) === read(pieces(random, input)) ? null : 'in pieces it says something else';
  },
};

const shown: FuzzTarget = {
  name: 'shown',
  share: 4,
  corpus: texts('agent', '\u001b]0;title\u0007', '\u202etxt.exe', 'line\nline', '<!channel> @here', 'naïve \u{1f600}'),
  check: (input) => (isShowable(printable(input.toString('utf8'))) ? null : 'what is shown steers a terminal'),
};

export const TARGETS: readonly FuzzTarget[] = [
  profile,
  rules,
  names,
  api,
  stream,
  dns,
  hello,
  http,
  netlink,
  ledger,
  gateLines,
  frames,
  shown,
];

function isShowable(text: string): boolean {
  // oxlint-disable-next-line no-control-regex -- the control characters are what is looked for
  return text.length <= 8_192 && !/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/.test(text);
}

function firstOf<Item>(items: readonly Item[], find: (item: Item) => string | null): string | null {
  for (const item of items) {
    const found = find(item);
    if (found !== null) return found;
  }
  return null;
}

const RANDOM_SHARE = 0.1;
const RANDOM_BYTES_MAX = 400;

/** The input with this number, and whatever else the check chooses, from the number alone. */
export async function tryInput(
  target: FuzzTarget,
  number: number,
): Promise<{ readonly input: Buffer; readonly found: string | null }> {
  const random = createRandom(number * 64 + TARGETS.indexOf(target));
  const input = random.chance(RANDOM_SHARE)
    ? random.bytes(random.below(RANDOM_BYTES_MAX))
    : mutated(random, target.corpus);
  return { input, found: await verdictOn(target, input, random) };
}

export async function verdictOn(target: FuzzTarget, input: Buffer, random: Random): Promise<string | null> {
  try {
    const checked = target.check(input, random);
    return checked instanceof Promise ? await checked : checked;
  } catch (error) {
    // A refusal with a code is an answer; anything else is a crash.
    if (error instanceof RingfenceError && error.code === 'REQUEST_INVALID') return null;
    return `crash: ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`;
  }
}
