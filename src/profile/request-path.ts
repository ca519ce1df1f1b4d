/**
 * Paths of requests, made canonical once: the rule of a profile and the request of an agent are compared, and the
 * request is sent on, only in this form. What servers are known to read in two ways is refused, not repaired, because
 * the server behind the rule decides which reading counts.
 */
export const PATH_CHARS_MAX = 4_096;

export type CanonicalPath =
  | { readonly ok: true; readonly path: string }
  | { readonly ok: false; readonly rule: string };

// RFC 3986 pchar and the slash, and what browsers leave unescaped in a path although they should not.
const PATH_CHARS = /^[A-Za-z0-9\-._~!$&'()*+,;=:@%/|[\]^]*$/;
const UNRESERVED = /^[A-Za-z0-9\-_~]$/;

/** `raw` is everything before the question mark. `rule` repeats nothing of it, so it is fit to show. */
export function canonicalisePath(raw: string): CanonicalPath {
  if (raw.length > PATH_CHARS_MAX) return refused(`must be at most ${PATH_CHARS_MAX} characters long`);
  if (!raw.startsWith('/')) return refused('must start with a slash');
  if (raw.includes('\\')) return refused('must have no backslash');
  if (!PATH_CHARS.test(raw)) return refused('must have no character that a path needs to escape');
  const escapes = canonicaliseEscapes(raw);
  if (!escapes.ok) return escapes;
  const { path } = escapes;
  const segments = path.split('/').slice(1);
  for (const [index, segment] of segments.entries()) {
    const rule = segmentRefusal(segment, index === segments.length - 1);
    if (rule !== null) return refused(rule);
  }
  return { ok: true, path };
}

function canonicaliseEscapes(raw: string): CanonicalPath {
  let rule: string | null = null;
  const path = raw.replace(/%(.{0,2})/g, (written, digits: string) => {
    if (!/^[0-9A-Fa-f]{2}$/.test(digits)) {
      rule ??= 'must have two hexadecimal digits after each %';
      return written;
    }
    const code = Number.parseInt(digits, 16);
    const char = String.fromCharCode(code);
    if (char === '/' || char === '\\') rule ??= 'must have no escaped slash or backslash';
    if (char === '.') rule ??= 'must have no escaped dot';
    if (code < 0x20 || code === 0x7f) rule ??= 'must have no escaped control character';
    return UNRESERVED.test(char) ? char : `%${digits.toUpperCase()}`;
  });
  // A server that decodes twice would see what is hidden below.
  if (/%25[0-9A-Fa-f]{2}/.test(path)) rule ??= 'must have no escape of an escape';
  return rule === null ? { ok: true, path } : refused(rule);
}

// Some servers cut a segment at its semicolon before they follow dots, and some fold wide letters into narrow ones.
function segmentRefusal(segment: string, last: boolean): string | null {
  if (segment === '') return last ? null : 'must have no empty segment (two slashes in a row)';
  let decoded: string;
  try {
    decoded = decodeURIComponent(segment);
  } catch {
    return 'must have escapes of UTF-8 only';
  }
  const folded = decoded.normalize('NFKC');
  if (/[/\\]/.test(folded)) return 'must have no letter that some servers read as a slash';
  const name = folded.split(';', 1)[0] ?? '';
  if (/^\.+$/.test(name)) return 'must have no segment of dots';
  if (name === '') return 'must have no segment that is empty before its semicolon';
  return null;
}

function refused(rule: string): CanonicalPath {
  return { ok: false, rule };
}
