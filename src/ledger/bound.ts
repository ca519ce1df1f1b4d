import type { RecordDraft } from '../core/ports/record.ts';

/** A line of the ledger is never longer, its end of line not counted; a reader may rely on it. */
export const LINE_BYTES_MAX = 64 * 1024;
/** Room for `seq`, `at`, `prev` and the checksum. */
const ENVELOPE_BYTES_MAX = 256;

type Bounds = { readonly stringChars: number; readonly items: number; readonly depth: number };

/** Tried in order: the first that makes the record fit is taken, so that little is lost of one that is little too long. */
const STEPS: readonly Bounds[] = [
  { stringChars: 16_384, items: 256, depth: 8 },
  { stringChars: 2_048, items: 64, depth: 8 },
  { stringChars: 256, items: 16, depth: 6 },
  { stringChars: 64, items: 8, depth: 3 },
];

/**
 * The JSON of a record without its envelope: `{"kind":…}`. Never fails and never longer than a line may be: what does
 * not fit is cut and `truncated` says how long it was; what is no JSON at all (our own bug) is replaced by its kind.
 */
export function encodeDraft(draft: RecordDraft): string {
  const text = stringify(draft);
  if (text === null) return JSON.stringify({ ...identity(draft), unserializable: true });
  if (fits(text)) return text;
  const truncated = { bytes: Buffer.byteLength(text) };
  for (const bounds of STEPS) {
    const shorter = stringify({ ...(shrink(draft, bounds) as object), truncated });
    if (shorter !== null && fits(shorter)) return shorter;
  }
  return JSON.stringify({ ...identity(draft), truncated });
}

function fits(text: string): boolean {
  const bytesMax = LINE_BYTES_MAX - ENVELOPE_BYTES_MAX;
  // Three bytes a character is the most that UTF-8 takes for one UTF-16 unit: most records need no exact count.
  return text.length * 3 <= bytesMax || Buffer.byteLength(text) <= bytesMax;
}

/** `kind` comes first, and a field may not stand in for the envelope's own. */
function stringify(draft: object): string | null {
  try {
    const { kind, seq: _seq, at: _at, prev: _prev, crc: _crc, ...fields } = draft as Record<string, unknown>;
    const text = JSON.stringify(fields);
    // By hand, because JSON.stringify puts names that look like numbers before all others.
    return `{"kind":${JSON.stringify(String(kind))}${text === '{}' ? '}' : `,${text.slice(1)}`}`;
  } catch {
    return null;
  }
}

function identity(draft: RecordDraft): Record<string, string> {
  const { kind, runId, profile } = draft;
  const kept: Record<string, string> = { kind: cut(kind, 64) };
  if (typeof runId === 'string') kept['runId'] = cut(runId, 64);
  if (typeof profile === 'string') kept['profile'] = cut(profile, 64);
  return kept;
}

function shrink(value: unknown, bounds: Bounds, depth = 0): unknown {
  if (typeof value === 'string') return cut(value, bounds.stringChars);
  if (typeof value !== 'object' || value === null) return value;
  if (depth >= bounds.depth) return '…';
  if (Array.isArray(value)) return value.slice(0, bounds.items).map((item) => shrink(item, bounds, depth + 1));
  const entries = Object.entries(value)
    .slice(0, bounds.items)
    .map(([key, item]) => [cut(key, bounds.stringChars), shrink(item, bounds, depth + 1)]);
  return Object.fromEntries(entries);
}

function cut(text: string, charsMax: number): string {
  return text.length > charsMax ? `${text.slice(0, charsMax)}…` : text;
}
