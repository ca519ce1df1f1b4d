import { canonicaliseName } from '../policy/egress.ts';
import type { Framing } from './body.ts';
import type { Refusal } from './hello.ts';

/**
 * Reads the head of an HTTP/1.1 or 1.0 request (RFC 9112), stricter than any server: what two readers could take in two
 * ways is refused, since the second reader is a server that would see another request, or another number of them.
 */
export type RequestHead = {
  readonly method: string;
  /** Canonical; from the one Host header, and the same in an absolute target. */
  readonly name: string;
  /** The port the client believes in, or null when it shows none. */
  readonly port: number | null;
  readonly framing: Framing;
  /** Asks for WebSocket. Other upgrades are taken out of the head, so that no server can agree to them. */
  readonly upgrade: boolean;
  /** What goes upstream: the bytes that were judged, without the lines of an upgrade that is not offered. */
  readonly bytes: Buffer;
};

export type HeadResult =
  | { readonly kind: 'more' }
  /** `taken`: how many bytes of the last chunk belong to the head. */
  | { readonly kind: 'head'; readonly head: RequestHead; readonly taken: number }
  /** `answerable`: the client speaks HTTP/1, so a 403 can be said. */
  | (Refusal & { readonly answerable: boolean });

export type HeadReader = {
  /** Feeds what came next. Not called again after anything but `more`. */
  feed(chunk: Buffer): HeadResult;
};

/** Servers stop between 8 and 64 KiB. */
export const HEAD_BYTES_MAX = 32 * 1024;
const FIELDS_MAX = 128;
const METHOD_CHARS_MAX = 32;
const LENGTH_DIGITS_MAX = 15;

const CR = 0x0d;
const LF = 0x0a;
const SPACE = 0x20;
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** Visible ASCII without `#`, which never is part of a request's target. */
const TARGET = /^[!"$-~]+$/;
/** Visible characters, spaces and tabs, and the upper half of Latin-1. */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const ABSOLUTE = /^http:\/\/([^/?]*)(?:[/?].*)?$/i;
const AUTHORITY = /^([^:]*)(?::([0-9]{1,5}))?$/;
/** Fields that decide where a request goes and where it ends; none of them may be called hop-by-hop. */
const DECIDING = new Set(['host', 'content-length', 'transfer-encoding']);

class HeadError extends Error {
  readonly refusal: Refusal & { readonly answerable: boolean };

  constructor(refusal: Omit<Refusal, 'kind'>, answerable = true) {
    super(refusal.explanation);
    this.refusal = { kind: 'refuse', ...refusal, answerable };
  }
}

type Field = { readonly name: string; readonly value: string; readonly line: Buffer };

export function createHeadReader(): HeadReader {
  let bytes = 0;
  let partial: Buffer = Buffer.alloc(0);
  let start: StartLine | null = null;
  const fields: Field[] = [];

  function feed(chunk: Buffer): HeadResult {
    let at = 0;
    while (at < chunk.length) {
      const end = chunk.indexOf(LF, at);
      const next = end < 0 ? chunk.length : end + 1;
      bytes += next - at;
      const line = partial.length === 0 ? chunk.subarray(at, next) : Buffer.concat([partial, chunk.subarray(at, next)]);
      if (start === null) checkMethod(line);
      if (bytes > HEAD_BYTES_MAX) throw new HeadError(tooLarge());
      at = next;
      if (end < 0) {
        partial = line;
        break;
      }
      partial = Buffer.alloc(0);
      const text = textOf(line);
      if (start === null) start = startLineOf(line, text);
      else if (text === '') return { kind: 'head', head: headOf(start, fields), taken: at };
      else fields.push(fieldOf(line, text));
      if (fields.length > FIELDS_MAX) throw new HeadError(tooLarge());
    }
    return { kind: 'more' };
  }

  return {
    feed: (chunk) => {
      try {
        return feed(chunk);
      } catch (error) {
        if (!(error instanceof HeadError)) throw error;
        return error.refusal;
      }
    },
  };
}

function tooLarge(): Omit<Refusal, 'kind'> {
  return {
    rule: 'check.size',
    explanation: `the head of the request has more than ${HEAD_BYTES_MAX} bytes or ${FIELDS_MAX} fields`,
  };
}

function malformed(why: string): HeadError {
  return new HeadError({ rule: 'check.request', explanation: `the request is malformed: ${why}` });
}

function notHttp(): HeadError {
  return new HeadError({ rule: 'check.protocol', explanation: 'the first bytes are not an HTTP/1 request' }, false);
}

/** Tells at the first wrong byte that this is no request: an SSH banner has no space where a method ends. */
function checkMethod(line: Buffer): void {
  const space = line.indexOf(SPACE);
  const method = line.toString('latin1', 0, Math.min(space < 0 ? line.length : space, METHOD_CHARS_MAX + 1));
  if (method.length > METHOD_CHARS_MAX || !TOKEN.test(method)) throw notHttp();
}

/** The line without its CR LF. A CR or LF alone ends a line for some readers and not for others. */
function textOf(line: Buffer): string {
  if (line.length < 2 || line[line.length - 2] !== CR) throw malformed('a line ends with a bare LF');
  const text = line.toString('latin1', 0, line.length - 2);
  if (text.includes('\r')) throw malformed('a bare CR');
  return text;
}

type StartLine = {
  readonly method: string;
  readonly target: string;
  readonly version: '1.0' | '1.1';
  readonly line: Buffer;
};

function startLineOf(line: Buffer, text: string): StartLine {
  const [method = '', target = '', protocol = '', ...more] = text.split(' ');
  // `GET /` alone is HTTP/0.9; `PRI * HTTP/2.0` is the preface of HTTP/2.
  if (more.length > 0 || target === '' || (protocol !== 'HTTP/1.1' && protocol !== 'HTTP/1.0')) {
    const version = /^HTTP\/[0-9.]{1,8}$/.test(protocol) ? protocol : 'no version of HTTP/1';
    throw new HeadError(
      {
        rule: 'check.protocol',
        explanation: `the request line shows ${version}; only HTTP/1.1 and 1.0 can be checked`,
      },
      protocol === '',
    );
  }
  if (method === 'CONNECT') {
    throw new HeadError({
      rule: 'check.request',
      explanation: 'CONNECT asks for a tunnel through a proxy; none is here',
    });
  }
  if (!TARGET.test(target)) throw malformed('the target holds characters that must be percent-encoded');
  const known = target.startsWith('/') || (target === '*' && method === 'OPTIONS') || ABSOLUTE.test(target);
  if (!known) throw malformed('the target is neither a path nor an http:// address');
  return { method, target, version: protocol === 'HTTP/1.1' ? '1.1' : '1.0', line };
}

function fieldOf(line: Buffer, text: string): Field {
  if (text.startsWith(' ') || text.startsWith('\t')) throw malformed('a header is folded over two lines');
  const colon = text.indexOf(':');
  const name = text.slice(0, Math.max(0, colon));
  if (!TOKEN.test(name)) throw malformed('a header without a proper name before its colon');
  const value = text.slice(colon + 1);
  if (!VALUE.test(value)) throw malformed('a control character in a header');
  return { name: name.toLowerCase(), value: value.replace(/^[\t ]+|[\t ]+$/g, ''), line };
}

function headOf(start: StartLine, fields: readonly Field[]): RequestHead {
  const valuesOf = (name: string): readonly string[] =>
    fields.filter((field) => field.name === name).map(({ value }) => value);
  const tokens = valuesOf('connection').flatMap((value) => value.split(',').map((token) => token.trim().toLowerCase()));
  if (tokens.some((token) => DECIDING.has(token))) throw malformed('Connection names a header that may not be dropped');
  const host = hostOf(valuesOf('host'));
  checkAbsolute(start.target, host);
  const framing = framingOf(start.version, valuesOf('content-length'), valuesOf('transfer-encoding'));
  const [upgrade, ...moreUpgrades] = valuesOf('upgrade');
  const websocket =
    upgrade?.toLowerCase() === 'websocket' &&
    moreUpgrades.length === 0 &&
    tokens.includes('upgrade') &&
    start.method === 'GET' &&
    start.version === '1.1' &&
    framing.kind === 'none';
  const lines = fields
    .filter(({ name }) => websocket || (name !== 'upgrade' && name !== 'http2-settings'))
    .map(({ line }) => line);
  return {
    method: start.method,
    name: host.name,
    port: host.port,
    framing,
    upgrade: websocket,
    bytes: Buffer.concat([start.line, ...lines, Buffer.from('\r\n')]),
  };
}

type Authority = { readonly name: string; readonly port: number | null };

function hostOf(values: readonly string[]): Authority {
  const [value, ...more] = values;
  if (value === undefined || value === '') {
    throw new HeadError({ rule: 'check.no-name', explanation: 'the request shows no Host' });
  }
  if (more.length > 0) {
    throw new HeadError({ rule: 'check.request', explanation: 'the request shows more than one Host' });
  }
  return authorityOf(value);
}

function authorityOf(text: string): Authority {
  const [, raw, port] = AUTHORITY.exec(text) ?? [];
  if (raw === undefined) throw new HeadError({ rule: 'check.name', explanation: 'the Host is not a name and a port' });
  // The dot would be the same name to the resolver and another one to many servers.
  if (raw.endsWith('.')) throw new HeadError({ rule: 'check.name', explanation: 'the Host ends with a dot' });
  const canonical = canonicaliseName(raw);
  if (!canonical.ok) throw new HeadError({ rule: 'check.name', explanation: `the Host ${canonical.rule}` });
  return { name: canonical.name, port: port === undefined ? null : Number(port) };
}

/** An absolute target outranks Host (RFC 9112, 3.2.2), so both must say the same. */
function checkAbsolute(target: string, host: Authority): void {
  if (target.startsWith('/') || target === '*') return;
  const authority = authorityOf(ABSOLUTE.exec(target)?.[1] ?? '');
  if (authority.name !== host.name || authority.port !== host.port) {
    throw new HeadError({ rule: 'check.request', explanation: 'the target of the request and its Host differ' });
  }
}

/** Where the body ends. One length or one `chunked`, in one spelling; everything else is how requests are smuggled. */
function framingOf(version: '1.0' | '1.1', lengths: readonly string[], encodings: readonly string[]): Framing {
  if (encodings.length > 0) {
    if (lengths.length > 0) throw malformed('both Content-Length and Transfer-Encoding');
    if (version === '1.0') throw malformed('Transfer-Encoding in HTTP/1.0');
    if (encodings.length > 1 || encodings[0]?.toLowerCase() !== 'chunked') {
      throw malformed('a Transfer-Encoding other than chunked');
    }
    return { kind: 'chunked' };
  }
  const [length, ...more] = lengths;
  if (length === undefined) return { kind: 'none' };
  if (more.length > 0 || !/^[0-9]+$/.test(length) || length.length > LENGTH_DIGITS_MAX) {
    throw malformed('a Content-Length that is not one number');
  }
  return Number(length) === 0 ? { kind: 'none' } : { kind: 'length', bytes: Number(length) };
}
