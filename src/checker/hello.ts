import { canonicaliseName } from '../policy/egress.ts';
import type { CheckRule } from './messages.ts';

/**
 * Reads the name out of a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3), which may come in any number of segments and
 * records. Strict: a length that does not fit exactly is refused, because a server might read on where this stopped.
 *
 * Encrypted ClientHello (extension 0xfe0d) is judged by the outer name alone: browsers send a dummy one to everybody,
 * and only the outer name's host has a key for a real one. docs/name-check.md says what that leaves open.
 */
export type HelloResult =
  | { readonly kind: 'more' }
  | {
      readonly kind: 'hello';
      /** Canonical. */
      readonly name: string;
      /** How many of the bytes fed so far are the hello; what follows belongs to the rest of the connection. */
      readonly bytes: number;
    }
  | Refusal;

export type Refusal = { readonly kind: 'refuse'; readonly rule: CheckRule; readonly explanation: string };

export type HelloReader = {
  /** Feeds what came next. Not called again after anything but `more`. */
  feed(chunk: Uint8Array): HelloResult;
};

/** Real hellos have 200 to 2,500 bytes; the key of a post-quantum exchange takes 1,200 of them. Record headers count. */
export const HELLO_BYTES_MAX = 16 * 1024;

const RECORD_HEADER_BYTES = 5;
const RECORD_BYTES_MAX = 16_384;
const RECORD_ALERT = 21;
const RECORD_HANDSHAKE = 22;
const HANDSHAKE_HEADER_BYTES = 4;
const CLIENT_HELLO = 1;
const VERSION_MAJOR = 3;
const RANDOM_BYTES = 32;
const SESSION_ID_BYTES_MAX = 32;
const EXTENSION_SERVER_NAME = 0;
const NAME_TYPE_HOST = 0;

/** Thrown and caught in this file only: one exit for the many lengths that can be wrong. */
class HelloError extends Error {
  readonly rule: CheckRule;

  constructor(rule: CheckRule, message: string) {
    super(message);
    this.rule = rule;
  }
}

export function createHelloReader(): HelloReader {
  const header = Buffer.alloc(RECORD_HEADER_BYTES);
  let headerFilled = 0;
  let recordLeft = 0;
  let bytes = 0;
  let message = Buffer.alloc(1024);
  let messageFilled = 0;
  /** Known once the four bytes of the handshake header are there. */
  let messageBytes: number | null = null;

  function append(part: Uint8Array): void {
    if (messageFilled + part.length > message.length) {
      const grown = Buffer.alloc(Math.max(message.length * 2, messageFilled + part.length));
      message.copy(grown, 0, 0, messageFilled);
      message = grown;
    }
    message.set(part, messageFilled);
    messageFilled += part.length;
  }

  function readHeader(chunk: Uint8Array, from: number): number {
    const taken = chunk.subarray(from, from + RECORD_HEADER_BYTES - headerFilled);
    header.set(taken, headerFilled);
    headerFilled += taken.length;
    checkHeader(header.subarray(0, headerFilled));
    if (headerFilled === RECORD_HEADER_BYTES) recordLeft = header.readUInt16BE(3);
    return from + taken.length;
  }

  function readBody(chunk: Uint8Array, from: number): number {
    const taken = chunk.subarray(from, from + recordLeft);
    append(taken);
    recordLeft -= taken.length;
    if (recordLeft === 0) headerFilled = 0;
    if (messageFilled > 0 && message[0] !== CLIENT_HELLO) {
      throw new HelloError('check.protocol', 'the first TLS message is not a ClientHello');
    }
    if (messageBytes === null && messageFilled >= HANDSHAKE_HEADER_BYTES) {
      messageBytes = HANDSHAKE_HEADER_BYTES + message.readUIntBE(1, 3);
      if (messageBytes > HELLO_BYTES_MAX) throw tooLarge();
    }
    return from + taken.length;
  }

  function feed(chunk: Uint8Array): HelloResult {
    let at = 0;
    while (at < chunk.length) {
      const before = at;
      at = headerFilled < RECORD_HEADER_BYTES ? readHeader(chunk, at) : readBody(chunk, at);
      bytes += at - before;
      if (bytes > HELLO_BYTES_MAX) throw tooLarge();
      if (messageBytes !== null && messageFilled >= messageBytes) {
        // A message behind the hello in one record: RFC 8446, 5.1 forbids it, and nobody knows who would read it.
        if (messageFilled > messageBytes || recordLeft > 0) {
          throw new HelloError('check.protocol', 'the record of the ClientHello goes on behind it');
        }
        const name = nameOf(message.subarray(HANDSHAKE_HEADER_BYTES, messageBytes));
        return { kind: 'hello', name, bytes };
      }
    }
    return { kind: 'more' };
  }

  return {
    feed: (chunk) => {
      try {
        return feed(chunk);
      } catch (error) {
        if (!(error instanceof HelloError)) throw error;
        return { kind: 'refuse', rule: error.rule, explanation: error.message };
      }
    },
  };
}

function tooLarge(): HelloError {
  return new HelloError('check.size', `the ClientHello is larger than ${HELLO_BYTES_MAX} bytes`);
}

/** Judges as much of a record header as there is, so that a client of another protocol is told at its first byte. */
function checkHeader(header: Buffer): void {
  const type = header[0];
  if (type !== RECORD_HANDSHAKE) {
    throw new HelloError(
      'check.protocol',
      type === RECORD_ALERT ? 'a TLS alert came before a ClientHello' : 'the first bytes are not a TLS handshake',
    );
  }
  if (header.length > 1 && header[1] !== VERSION_MAJOR) {
    throw new HelloError('check.protocol', 'the first bytes are not a TLS handshake');
  }
  if (header.length < RECORD_HEADER_BYTES) return;
  const length = header.readUInt16BE(3);
  if (length === 0 || length > RECORD_BYTES_MAX) {
    throw new HelloError('check.protocol', 'a TLS record of the ClientHello has an impossible length');
  }
}

/** The one host name of a ClientHello's body, canonical. */
function nameOf(body: Buffer): string {
  const hello = cursorOf(body);
  if (hello.number(1) !== VERSION_MAJOR) throw wrongLength('version');
  hello.skip(1 + RANDOM_BYTES);
  if (hello.vector(1).length > SESSION_ID_BYTES_MAX) throw wrongLength('session id');
  const suites = hello.vector(2).length;
  if (suites === 0 || suites % 2 !== 0) throw wrongLength('list of cipher suites');
  if (hello.vector(1).length === 0) throw wrongLength('list of compression methods');
  if (hello.atEnd()) throw noName();
  const extensions = cursorOf(hello.vector(2));
  hello.end('extensions');
  const seen = new Set<number>();
  let serverName: Buffer | null = null;
  while (!extensions.atEnd()) {
    const type = extensions.number(2);
    const data = extensions.vector(2);
    // Of any type: what one reader takes from the first and another from the second is two hellos in one.
    if (seen.has(type)) throw new HelloError('check.protocol', `the ClientHello has extension ${type} twice`);
    seen.add(type);
    if (type === EXTENSION_SERVER_NAME) serverName = data;
  }
  if (serverName === null) throw noName();
  return hostNameOf(serverName);
}

function hostNameOf(extension: Buffer): string {
  const outer = cursorOf(extension);
  const list = cursorOf(outer.vector(2));
  outer.end('server name');
  if (list.number(1) !== NAME_TYPE_HOST) throw new HelloError('check.name', 'the server name is not a host name');
  const raw = list.vector(2);
  if (!list.atEnd()) throw new HelloError('check.name', 'the ClientHello shows more than one server name');
  // RFC 6066: without a trailing dot. Latin-1 keeps every byte a character, so that no two spellings fall together.
  const shown = raw.toString('latin1');
  if (shown.endsWith('.')) throw new HelloError('check.name', 'the server name ends with a dot');
  const canonical = canonicaliseName(shown);
  if (!canonical.ok) throw new HelloError('check.name', `the server name ${canonical.rule}`);
  return canonical.name;
}

function noName(): HelloError {
  return new HelloError('check.no-name', 'the ClientHello shows no server name');
}

function wrongLength(what: string): HelloError {
  return new HelloError('check.protocol', `the ClientHello is malformed: ${what}`);
}

/** Reads forward through bytes and never beyond them. */
function cursorOf(bytes: Buffer): {
  number(size: 1 | 2): number;
  vector(lengthSize: 1 | 2): Buffer;
  skip(count: number): void;
  atEnd(): boolean;
  end(what: string): void;
} {
  let at = 0;
  const take = (count: number): Buffer => {
    if (at + count > bytes.length) throw wrongLength('a length reaches beyond its end');
    at += count;
    return bytes.subarray(at - count, at);
  };
  const number = (size: 1 | 2): number => take(size).readUIntBE(0, size);
  return {
    number,
    vector: (lengthSize) => take(number(lengthSize)),
    skip: (count) => void take(count),
    atEnd: () => at === bytes.length,
    end: (what) => {
      if (at !== bytes.length) throw wrongLength(`bytes behind the ${what}`);
    },
  };
}
