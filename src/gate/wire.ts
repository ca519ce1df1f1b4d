/**
 * The agent's side of DNS on the wire (RFC 1035, 6891, 8914). A question is read strictly, byte by byte, because its
 * sender is hostile; an answer repeats the bytes of the question, so that nothing here depends on decoding them.
 */
export type Query = {
  readonly id: number;
  readonly opcode: number;
  readonly recursionDesired: boolean;
  /** Name, type and class as they came, to be repeated in the answer. */
  readonly questionBytes: Buffer;
  /** Labels as Latin-1 text: a byte is a character, so that no byte can hide behind another. */
  readonly labels: readonly string[];
  readonly type: number;
  readonly class: number;
  /** What the client takes over UDP, by EDNS; 512 without. */
  readonly udpBytesMax: number;
  readonly edns: boolean;
};

export type ParsedQuery =
  | { readonly ok: true; readonly query: Query }
  /** `id` is there when an error can be answered; otherwise the bytes were no question at all. */
  | { readonly ok: false; readonly id: number | null; readonly problem: string };

export const TYPE = { A: 1, PTR: 12, AAAA: 28, OPT: 41, SVCB: 64, HTTPS: 65 } as const;
export const CLASS_IN = 1;
export const RCODE = { ok: 0, formatError: 1, serverFailure: 2, nameError: 3, notImplemented: 4, refused: 5 } as const;

const TYPE_NAMES: Readonly<Record<number, string>> = {
  1: 'A',
  2: 'NS',
  5: 'CNAME',
  6: 'SOA',
  10: 'NULL',
  12: 'PTR',
  13: 'HINFO',
  15: 'MX',
  16: 'TXT',
  28: 'AAAA',
  33: 'SRV',
  35: 'NAPTR',
  48: 'DNSKEY',
  64: 'SVCB',
  65: 'HTTPS',
  251: 'IXFR',
  252: 'AXFR',
  255: 'ANY',
  257: 'CAA',
};

export function typeName(type: number): string {
  return TYPE_NAMES[type] ?? `TYPE${type}`;
}

const HEADER_BYTES = 12;
const NAME_BYTES_MAX = 255;
const UDP_BYTES_DEFAULT = 512;
/** More than this is fragmented on the way (DNS flag day 2020), whatever the client claims to take. */
const UDP_BYTES_MAX = 1_232;

export function parseQuery(bytes: Buffer): ParsedQuery {
  if (bytes.length < HEADER_BYTES) return { ok: false, id: null, problem: 'is shorter than a DNS header' };
  const id = bytes.readUInt16BE(0);
  const flags = bytes.readUInt16BE(2);
  // Answering an answer would start a loop between two servers.
  if ((flags & 0x8000) !== 0) return { ok: false, id: null, problem: 'is an answer, not a question' };
  const [questions, answers, authorities, additionals] = [4, 6, 8, 10].map((offset) => bytes.readUInt16BE(offset));
  if (questions !== 1) return { ok: false, id, problem: `has ${questions} questions, not one` };
  if (answers !== 0 || authorities !== 0) return { ok: false, id, problem: 'brings answers of its own' };
  const name = readLabels(bytes, HEADER_BYTES);
  if (name === null || name.end + 4 > bytes.length) return { ok: false, id, problem: 'has no whole question' };
  const edns = readEdns(bytes.subarray(name.end + 4), additionals ?? 0);
  if (edns === null) return { ok: false, id, problem: 'has more behind its question than an EDNS record' };
  return {
    ok: true,
    query: {
      id,
      opcode: (flags >> 11) & 0xf,
      recursionDesired: (flags & 0x100) !== 0,
      questionBytes: bytes.subarray(HEADER_BYTES, name.end + 4),
      labels: name.labels,
      type: bytes.readUInt16BE(name.end),
      class: bytes.readUInt16BE(name.end + 2),
      ...edns,
    },
  };
}

/** No compression: a question has nothing before it to point at. */
function readLabels(bytes: Buffer, start: number): { readonly labels: string[]; readonly end: number } | null {
  const labels: string[] = [];
  let offset = start;
  while (offset < bytes.length && offset - start < NAME_BYTES_MAX) {
    const length = bytes[offset] ?? 0;
    offset += 1;
    if (length === 0) return { labels, end: offset };
    if (length > 63 || offset + length > bytes.length) return null;
    labels.push(bytes.toString('latin1', offset, offset + length));
    offset += length;
  }
  return null;
}

type Edns = Pick<Query, 'edns' | 'udpBytesMax'>;

/** At most one OPT record with the root name; its options are nobody's business and go nowhere. */
function readEdns(rest: Buffer, additionals: number): Edns | null {
  if (additionals === 0) return rest.length === 0 ? { edns: false, udpBytesMax: UDP_BYTES_DEFAULT } : null;
  if (additionals > 1 || rest.length < 11 || rest[0] !== 0 || rest.readUInt16BE(1) !== TYPE.OPT) return null;
  if (rest.readUInt16BE(9) !== rest.length - 11) return null;
  const claimed = rest.readUInt16BE(3);
  return { edns: true, udpBytesMax: Math.min(Math.max(claimed, UDP_BYTES_DEFAULT), UDP_BYTES_MAX) };
}

export type Reply = {
  readonly rcode: number;
  readonly addresses: readonly string[];
  readonly ttlSeconds: number;
  /** RFC 8914: shown by clients that ask with EDNS. */
  readonly extended: { readonly code: number; readonly text: string } | null;
};

const EXTENDED_TEXT_BYTES_MAX = 200;

/** The answer to a question; over UDP it is cut to what the client takes, with the truncation flag set. */
export function encodeReply(query: Query, reply: Reply, transport: 'udp' | 'tcp'): Buffer {
  const whole = assemble(query, reply, false);
  if (transport === 'tcp' || whole.length <= query.udpBytesMax) return whole;
  return assemble(query, { ...reply, addresses: [], extended: null }, true);
}

function assemble(query: Query, reply: Reply, truncated: boolean): Buffer {
  const answers = reply.addresses.map((address) => encodeAddress(address, reply.ttlSeconds));
  const opt = query.edns ? [encodeOpt(reply.extended)] : [];
  const header = encodeHeader(query.id, {
    flags: (query.opcode << 11) | (truncated ? 0x200 : 0) | (query.recursionDesired ? 0x100 : 0) | reply.rcode,
    questions: 1,
    answers: answers.length,
    additionals: opt.length,
  });
  return Buffer.concat([header, query.questionBytes, ...answers, ...opt]);
}

/** The answer to what could not be read: nothing of it is repeated but its id. */
export function encodeFormatError(id: number): Buffer {
  return encodeHeader(id, { flags: RCODE.formatError, questions: 0, answers: 0, additionals: 0 });
}

function encodeHeader(
  id: number,
  fields: {
    readonly flags: number;
    readonly questions: number;
    readonly answers: number;
    readonly additionals: number;
  },
): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt16BE(id, 0);
  // An answer, from a server that resolves for others.
  header.writeUInt16BE(0x8080 | fields.flags, 2);
  header.writeUInt16BE(fields.questions, 4);
  header.writeUInt16BE(fields.answers, 6);
  header.writeUInt16BE(fields.additionals, 10);
  return header;
}

function encodeAddress(address: string, ttlSeconds: number): Buffer {
  const record = Buffer.alloc(16);
  // The name is a pointer to the question, which always starts behind the header.
  record.writeUInt16BE(0xc000 | HEADER_BYTES, 0);
  record.writeUInt16BE(TYPE.A, 2);
  record.writeUInt16BE(CLASS_IN, 4);
  record.writeUInt32BE(ttlSeconds, 6);
  record.writeUInt16BE(4, 10);
  record.set(address.split('.').map(Number), 12);
  return record;
}

const OPTION_EXTENDED_ERROR = 15;

function encodeOpt(extended: Reply['extended']): Buffer {
  const text = Buffer.from(extended?.text ?? '', 'utf8').subarray(0, EXTENDED_TEXT_BYTES_MAX);
  const optionBytes = extended === null ? 0 : 6 + text.length;
  const record = Buffer.alloc(11 + optionBytes);
  record.writeUInt16BE(TYPE.OPT, 1);
  record.writeUInt16BE(UDP_BYTES_MAX, 3);
  record.writeUInt16BE(optionBytes, 9);
  if (extended === null) return record;
  record.writeUInt16BE(OPTION_EXTENDED_ERROR, 11);
  record.writeUInt16BE(2 + text.length, 13);
  record.writeUInt16BE(extended.code, 15);
  record.set(text, 17);
  return record;
}
