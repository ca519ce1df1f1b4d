import { decode, encode, RECURSION_DESIRED } from 'dns-packet';
import type { DecodedPacket } from 'dns-packet';
import { randomInt } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import { canonicaliseName } from '../policy/egress.ts';
import { ALIASES_MAX, walkAnswer } from './answer.ts';
import type { Walk } from './answer.ts';

/** One `address:port` of a resolver that the operator chose. */
export type Upstream = { readonly address: string; readonly port: number };

export type Resolution =
  | Extract<Walk, { kind: 'addresses' }>
  | { readonly kind: 'no-such-name'; readonly ttlSeconds: number }
  | { readonly kind: 'failed'; readonly why: string };

const UDP_ATTEMPT_MS = 1_000;
const TCP_ATTEMPT_MS = 2_000;
/** Inside the patience of the resolvers in containers (5 s a try). */
const RESOLVE_DEADLINE_MS = 4_500;
const ROUNDS_MAX = 2;
const QUESTIONS_MAX = 4;
const UDP_PAYLOAD_BYTES = 1_232;
const TCP_MESSAGE_BYTES_MAX = 16_384;
const NEGATIVE_TTL_SECONDS = 5;
const FLAG_TRUNCATED = 0x200;

/** Asks first whoever answered last: a resolver that is down costs one question its time, not every one. */
export function createResolver(upstreams: readonly Upstream[]): (name: string) => Promise<Resolution> {
  let inOrder = upstreams;
  return async (name) =>
    await resolveName(name, inOrder, (answered) => {
      if (inOrder[0] !== answered) inOrder = [answered, ...upstreams.filter((upstream) => upstream !== answered)];
    });
}

/**
 * Asks for the addresses of a canonical name that a rule lists. The query is made from nothing: a random id from a
 * random port, that name, type A. Upstreams are tried in order, twice.
 */
export async function resolveName(
  name: string,
  upstreams: readonly Upstream[],
  onAnswered: (upstream: Upstream) => void = () => undefined,
): Promise<Resolution> {
  const deadline = performance.now() + RESOLVE_DEADLINE_MS;
  let target = name;
  let ttlSeconds: number | null = null;
  for (let question = 0; question < Math.min(QUESTIONS_MAX, ALIASES_MAX); question += 1) {
    const packet = await askUpstreams({ name: target, upstreams, deadline, onAnswered });
    if (packet === null) return { kind: 'failed', why: 'no upstream resolver answers' };
    if (packet.rcode === 'NXDOMAIN') return { kind: 'no-such-name', ttlSeconds: NEGATIVE_TTL_SECONDS };
    const walk = walkAnswer(packet, target);
    if (walk.kind === 'loop') return { kind: 'failed', why: `more than ${ALIASES_MAX} aliases` };
    ttlSeconds = ttlSeconds === null ? walk.ttlSeconds : Math.min(ttlSeconds, walk.ttlSeconds);
    if (walk.kind === 'addresses') return { ...walk, ttlSeconds };
    // An alias of an alias that no answer covered: only a well-formed name is asked for.
    const canonical = canonicaliseName(walk.target);
    if (!canonical.ok) return { kind: 'failed', why: 'an alias is not a host name' };
    target = canonical.name;
  }
  return { kind: 'failed', why: `more than ${QUESTIONS_MAX} questions for one name` };
}

async function askUpstreams(options: {
  readonly name: string;
  readonly upstreams: readonly Upstream[];
  readonly deadline: number;
  readonly onAnswered: (upstream: Upstream) => void;
}): Promise<RcodePacket | null> {
  for (let round = 0; round < ROUNDS_MAX; round += 1) {
    for (const upstream of options.upstreams) {
      const left = options.deadline - performance.now();
      if (left <= 0) return null;
      const packet = await askOne(options.name, upstream, left);
      // A server that fails or refuses says nothing about the name: the next one may know.
      if (packet === null || (packet.rcode !== 'NOERROR' && packet.rcode !== 'NXDOMAIN')) continue;
      options.onAnswered(upstream);
      return packet;
    }
  }
  return null;
}

async function askOne(name: string, upstream: Upstream, leftMs: number): Promise<RcodePacket | null> {
  const datagram = await askByUdp(name, upstream, Math.min(UDP_ATTEMPT_MS, leftMs));
  if (datagram === null || ((datagram.flags ?? 0) & FLAG_TRUNCATED) === 0) return datagram;
  return await askByTcp(name, upstream, Math.min(TCP_ATTEMPT_MS, leftMs));
}

type RcodePacket = DecodedPacket & { readonly rcode?: string };

function encodeQuestion(name: string): { readonly id: number; readonly bytes: Buffer } {
  const id = randomInt(0x1_0000);
  const bytes = encode({
    type: 'query',
    id,
    flags: RECURSION_DESIRED,
    questions: [{ type: 'A', class: 'IN', name }],
    additionals: [
      {
        type: 'OPT',
        name: '.',
        udpPayloadSize: UDP_PAYLOAD_BYTES,
        extendedRcode: 0,
        ednsVersion: 0,
        flags: 0,
        flag_do: false,
        options: [],
      },
    ],
  });
  return { id, bytes };
}

/** The answer to exactly this question, or null: anything else may come from somebody who guesses. */
function decodeAnswer(bytes: Buffer, asked: { readonly id: number; readonly name: string }): RcodePacket | null {
  try {
    const packet: RcodePacket = decode(bytes);
    const [question, ...more] = packet.questions ?? [];
    if (packet.type !== 'response' || packet.id !== asked.id || question === undefined || more.length > 0) return null;
    if (question.type !== 'A' || (question.class ?? 'IN') !== 'IN') return null;
    return question.name.toLowerCase() === asked.name ? packet : null;
  } catch {
    // Bytes that are no DNS message are no answer; the time-out or the next upstream decides.
    return null;
  }
}

function askByUdp(name: string, upstream: Upstream, timeoutMs: number): Promise<RcodePacket | null> {
  const { id, bytes } = encodeQuestion(name);
  return new Promise((resolve) => {
    const socket = createSocket('udp4');
    const finish = (packet: RcodePacket | null): void => {
      clearTimeout(timer);
      socket.removeAllListeners();
      // After this point an error of the closing socket has nobody to tell.
      socket.on('error', () => undefined);
      socket.close();
      resolve(packet);
    };
    const timer = setTimeout(() => finish(null), timeoutMs);
    socket.on('error', () => finish(null));
    socket.on('message', (message) => {
      const packet = decodeAnswer(message, { id, name });
      if (packet !== null) finish(packet);
    });
    // Connected, so the kernel drops datagrams from any other address and reports a closed port at once.
    socket.connect(upstream.port, upstream.address, () => socket.send(bytes));
  });
}

function askByTcp(name: string, upstream: Upstream, timeoutMs: number): Promise<RcodePacket | null> {
  const { id, bytes } = encodeQuestion(name);
  return new Promise((resolve) => {
    const socket = connect({ host: upstream.address, port: upstream.port });
    let received = Buffer.alloc(0);
    const finish = (packet: RcodePacket | null): void => {
      clearTimeout(timer);
      socket.removeAllListeners();
      socket.on('error', () => undefined);
      socket.destroy();
      resolve(packet);
    };
    const timer = setTimeout(() => finish(null), timeoutMs);
    socket.on('error', () => finish(null));
    socket.on('close', () => finish(null));
    socket.on('connect', () => {
      const length = Buffer.alloc(2);
      length.writeUInt16BE(bytes.length);
      socket.write(Buffer.concat([length, bytes]));
    });
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (received.length > TCP_MESSAGE_BYTES_MAX) finish(null);
      else if (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
        finish(decodeAnswer(received.subarray(2, 2 + received.readUInt16BE(0)), { id, name }));
      }
    });
  });
}
