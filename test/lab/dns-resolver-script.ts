import { decode, encode } from 'dns-packet';
import type { Answer, Packet } from 'dns-packet';
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';

/**
 * A resolver that answers as badly as one can: what it says depends on the name that is asked. It writes a line for
 * each question.
 */
const ADDRESS = process.argv[2] ?? '';
const GOOD = '198.51.100.10';
const FLAG_TRUNCATED = 0x200;
const counts = new Map<string, number>();

const a = (name: string, ...addresses: string[]): Answer[] =>
  addresses.map((data) => ({ type: 'A', name, ttl: 0, data }));
const alias = (name: string, data: string): Answer => ({ type: 'CNAME', name, ttl: 0, data });

function answersOf(name: string, time: number): Answer[] {
  switch (name) {
    case 'rebind.test':
      return a(name, time === 1 ? GOOD : '10.99.0.5');
    case 'metadata.test':
      return a(name, '169.254.169.254');
    case 'mixed.test':
      return a(name, '127.0.0.1', '224.0.0.1', '169.254.169.254', '0.0.0.0', '255.255.255.255', '10.213.0.1', GOOD);
    case 'alias.test':
      return [alias(name, 'unlisted.test')];
    case 'circle.test':
      return [alias(name, 'circle.other.test'), alias('circle.other.test', name)];
    case 'stranger.test':
      return a('unlisted.test', GOOD);
    case 'long.test':
    case 'endless.test':
      return a(
        name,
        ...Array.from({ length: name === 'long.test' ? 300 : 1_200 }, (_, i) => `198.51.${100 + (i >> 8)}.${i & 255}`),
      );
    default:
      return a(name, GOOD);
  }
}

function answer(bytes: Buffer, transport: 'udp' | 'tcp'): Buffer {
  const query: Packet = decode(bytes);
  const [question] = query.questions ?? [];
  const name = question?.name ?? '';
  const time = (counts.get(name) ?? 0) + 1;
  counts.set(name, time);
  process.stdout.write(`${JSON.stringify({ name, type: question?.type, transport })}\n`);
  // The name of the answer points at itself.
  if (name === 'pointer.test') return Buffer.concat([header(query, 1), bytes.subarray(12, 30), loopRecord()]);
  if (name === 'guess.test')
    return encode({ ...reply(query), id: ((query.id ?? 0) + 1) & 0xffff, answers: a(name, GOOD) });
  const answers = answersOf(name, time);
  if (transport === 'udp' && answers.length > 20) return encode({ ...reply(query), flags: FLAG_TRUNCATED });
  return encode({ ...reply(query), answers });
}

function reply(query: Packet): Packet {
  return { type: 'response', id: query.id ?? 0, questions: query.questions ?? [] };
}

function header(query: Packet, answers: number): Buffer {
  const bytes = Buffer.from(encode(reply({ ...query, questions: [] })));
  bytes.writeUInt16BE(1, 4);
  bytes.writeUInt16BE(answers, 6);
  return bytes;
}

function loopRecord(): Buffer {
  // A pointer at offset 30, where it stands itself; then type A, class IN, no lifetime, four bytes.
  return Buffer.from('c01e00010001000000000004c633640a', 'hex');
}

const datagrams = createSocket('udp4');
datagrams.on('message', (message, peer) => datagrams.send(answer(message, 'udp'), peer.port, peer.address));
await new Promise<void>((resolve) => datagrams.bind(53, ADDRESS, () => resolve()));
await new Promise<void>((resolve) =>
  createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.once('data', (chunk: Buffer) => {
      const bytes = answer(chunk.subarray(2), 'tcp');
      const length = Buffer.alloc(2);
      length.writeUInt16BE(bytes.length);
      socket.end(Buffer.concat([length, bytes]));
    });
  }).listen(53, ADDRESS, () => resolve()),
);
process.stdout.write('ready\n');
