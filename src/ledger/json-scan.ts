/**
 * Whether bytes are one JSON text, without making anything of it: a million lines are looked at to check a ledger, and
 * most of the time went into objects that nobody used. Says yes only to JSON as the ledger writes it: no space between
 * its parts, and no deeper than a record is. On a no, `JSON.parse` has the last word.
 */
const DEPTH_MAX = 32;
const QUOTE = 0x22;
const COMMA = 0x2c;
const MINUS = 0x2d;
const DOT = 0x2e;
const ZERO = 0x30;
const NINE = 0x39;
const COLON = 0x3a;
const OPEN_LIST = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_LIST = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const UNICODE_ESCAPE = 0x75;
const FIRST_PRINTABLE = 0x20;
const ESCAPES = new Set(Buffer.from('"\\/bfnrt'));
const LITERALS: readonly Buffer[] = ['true', 'false', 'null'].map((word) => Buffer.from(word));
/** What is returned instead of the place after a part that is none. */
const NOWHERE = -1;

export function isPlainJson(bytes: Uint8Array): boolean {
  return afterValue(bytes, 0, 0) === bytes.length;
}

function afterValue(bytes: Uint8Array, at: number, depth: number): number {
  switch (bytes[at]) {
    case QUOTE:
      return afterString(bytes, at + 1);
    case OPEN_OBJECT:
      return depth === DEPTH_MAX ? NOWHERE : afterObject(bytes, at + 1, depth + 1);
    case OPEN_LIST:
      return depth === DEPTH_MAX ? NOWHERE : afterList(bytes, at + 1, depth + 1);
    default:
      return afterScalar(bytes, at);
  }
}

function afterObject(bytes: Uint8Array, start: number, depth: number): number {
  if (bytes[start] === CLOSE_OBJECT) return start + 1;
  let at = start;
  for (;;) {
    if (bytes[at] !== QUOTE) return NOWHERE;
    at = afterString(bytes, at + 1);
    if (at === NOWHERE || bytes[at] !== COLON) return NOWHERE;
    at = afterValue(bytes, at + 1, depth);
    if (at === NOWHERE) return NOWHERE;
    if (bytes[at] === CLOSE_OBJECT) return at + 1;
    if (bytes[at] !== COMMA) return NOWHERE;
    at += 1;
  }
}

function afterList(bytes: Uint8Array, start: number, depth: number): number {
  if (bytes[start] === CLOSE_LIST) return start + 1;
  let at = start;
  for (;;) {
    at = afterValue(bytes, at, depth);
    if (at === NOWHERE) return NOWHERE;
    if (bytes[at] === CLOSE_LIST) return at + 1;
    if (bytes[at] !== COMMA) return NOWHERE;
    at += 1;
  }
}

/** From behind the opening quotation mark. Bytes of UTF-8 pass as they are: a decoder makes some character of each. */
function afterString(bytes: Uint8Array, start: number): number {
  for (let at = start; at < bytes.length; at += 1) {
    const byte = bytes[at] ?? 0;
    if (byte === QUOTE) return at + 1;
    if (byte < FIRST_PRINTABLE) return NOWHERE;
    if (byte !== BACKSLASH) continue;
    at += 1;
    const escaped = bytes[at] ?? 0;
    if (escaped === UNICODE_ESCAPE) {
      for (let digit = 1; digit <= 4; digit += 1) if (!isHexDigit(bytes[at + digit] ?? 0)) return NOWHERE;
      at += 4;
    } else if (!ESCAPES.has(escaped)) return NOWHERE;
  }
  return NOWHERE;
}

function afterScalar(bytes: Uint8Array, at: number): number {
  const byte = bytes[at] ?? 0;
  if (byte === MINUS || isDigit(byte)) return afterNumber(bytes, at);
  const literal = LITERALS.find((word) => word[0] === byte);
  if (literal === undefined) return NOWHERE;
  for (let index = 1; index < literal.length; index += 1) if (bytes[at + index] !== literal[index]) return NOWHERE;
  return at + literal.length;
}

/** `-0`, `12.5`; exponents are left to `JSON.parse`. */
function afterNumber(bytes: Uint8Array, start: number): number {
  let at = bytes[start] === MINUS ? start + 1 : start;
  if (bytes[at] === ZERO) at += 1;
  else {
    const end = afterDigits(bytes, at);
    if (end === at) return NOWHERE;
    at = end;
  }
  if (bytes[at] !== DOT) return at;
  const end = afterDigits(bytes, at + 1);
  return end === at + 1 ? NOWHERE : end;
}

function afterDigits(bytes: Uint8Array, start: number): number {
  let at = start;
  while (isDigit(bytes[at] ?? 0)) at += 1;
  return at;
}

function isDigit(byte: number): boolean {
  return byte >= ZERO && byte <= NINE;
}

function isHexDigit(byte: number): boolean {
  return isDigit(byte) || (byte >= 0x41 && byte <= 0x46) || (byte >= 0x61 && byte <= 0x66);
}
