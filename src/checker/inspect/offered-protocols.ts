/** What inspection speaks, as clients name it in ALPN. */
export type Protocol = 'h2' | 'http/1.1';

const RECORD_HEADER_BYTES = 5;
const HANDSHAKE_HEADER_BYTES = 4;
const VERSION_AND_RANDOM_BYTES = 2 + 32;
const EXTENSION_ALPN = 16;

/**
 * The protocols that a ClientHello offers, of those that inspection speaks, in the client's order; null when it offers
 * none at all, as many clients of HTTP/1.1 do. The checker has judged the hello before, so what does not fit here ends
 * the reading and is no offer.
 */
export function offeredProtocols(head: Buffer): readonly Protocol[] | null {
  const offer = extensionOf(messageOf(head), EXTENSION_ALPN);
  if (offer === null || offer.length < 2) return null;
  const protocols: Protocol[] = [];
  for (let at = 2; at < offer.length;) {
    const length = offer[at] ?? 0;
    const name = offer.toString('latin1', at + 1, at + 1 + length);
    if (name === 'h2' || name === 'http/1.1') protocols.push(name);
    at += 1 + length;
  }
  return protocols;
}

/** The handshake message without the headers of the records that it came in. */
function messageOf(head: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at + RECORD_HEADER_BYTES <= head.length;) {
    const length = head.readUInt16BE(at + 3);
    parts.push(head.subarray(at + RECORD_HEADER_BYTES, at + RECORD_HEADER_BYTES + length));
    at += RECORD_HEADER_BYTES + length;
  }
  const message = Buffer.concat(parts);
  if (message.length < HANDSHAKE_HEADER_BYTES) return message;
  // Behind the hello may be what an impatient client sent after it.
  return message.subarray(0, HANDSHAKE_HEADER_BYTES + message.readUIntBE(1, 3));
}

function extensionOf(message: Buffer, wanted: number): Buffer | null {
  let at = HANDSHAKE_HEADER_BYTES + VERSION_AND_RANDOM_BYTES;
  const number = (size: number): number => {
    if (at + size > message.length) return 0;
    at += size;
    return message.readUIntBE(at - size, size);
  };
  // Session id, cipher suites, compression methods; then the length of all extensions.
  for (const size of [1, 2, 1]) {
    const length = number(size);
    at += length;
  }
  number(2);
  while (at + 4 <= message.length) {
    const type = number(2);
    const length = number(2);
    if (type === wanted) return message.subarray(at, at + length);
    at += length;
  }
  return null;
}
