import { printable } from '../core/text.ts';

/**
 * What an agent was given as a secret must not come back out through what is said about it: in a name it asks for, on a
 * command line, in a line of its output. The values of a run are known, so they are looked for as they are and in the
 * forms in which text travels; any other encoding is the agent's to choose and cannot be found.
 */
export type SecretWords = {
  readonly names: readonly string[];
  /** One group for each name; null without anything to look for. */
  readonly pattern: RegExp | null;
  /** For texts that were cut in the middle of a value. */
  readonly starts: readonly { readonly name: string; readonly text: string }[];
};

/** Shorter values are words like any other: hiding them would hide everything. */
const VALUE_CHARS_MIN = 6;
/** A key of many lines is also known by each of them. */
const LINE_CHARS_MIN = 16;
/** A cut value is known from so many characters on. */
const START_CHARS_MIN = 8;
/** A name is split into labels, so dots are passed over in what is short enough to be in one. */
const DOTTED_CHARS_MAX = 256;
const DEPTH_MAX = 12;
const CUT_MARK = /… \(\d+ characters\)$/;

export function secretWords(secrets: readonly { readonly name: string; readonly value: Uint8Array }[]): SecretWords {
  const known = secrets
    .map(({ name, value }) => ({ name, forms: formsOf(value) }))
    .filter(({ forms }) => forms.length > 0);
  const groups = known.map(({ forms }) => `(${forms.map(patternOf).join('|')})`);
  return {
    names: known.map(({ name }) => name),
    pattern: groups.length === 0 ? null : new RegExp(groups.join('|'), 'gi'),
    starts: known.flatMap(({ name, forms }) =>
      forms.filter((form) => form.length > START_CHARS_MIN).map((text) => ({ name, text: text.toLowerCase() })),
    ),
  };
}

/** The same value with every secret in its texts replaced by its name; the very same when there is none. */
export function hideSecrets<Value>(value: Value, words: SecretWords): Value {
  return words.pattern === null ? value : (hidden(value, words, 0) as Value);
}

export function holdsSecret(text: string, words: SecretWords): boolean {
  return hideSecrets(text, words) !== text;
}

function hidden(value: unknown, words: SecretWords, depth: number): unknown {
  if (typeof value === 'string') return hiddenText(value, words);
  if (typeof value !== 'object' || value === null || depth > DEPTH_MAX) return value;
  if (Array.isArray(value)) {
    const items = value.map((item) => hidden(item, words, depth + 1));
    return items.some((item, index) => item !== value[index]) ? items : value;
  }
  const entries = Object.entries(value).map(([key, item]) => [key, hidden(item, words, depth + 1)] as const);
  const fields = value as Readonly<Record<string, unknown>>;
  return entries.some(([key, item]) => item !== fields[key]) ? Object.fromEntries(entries) : value;
}

function hiddenText(text: string, words: SecretWords): string {
  if (words.pattern === null || text.length < VALUE_CHARS_MIN) return text;
  const replaced = text.replace(words.pattern, (_match, ...rest: readonly unknown[]) => {
    const index = words.names.findIndex((_name, at) => rest[at] !== undefined);
    return marked(words.names[index] ?? '');
  });
  return withoutCutValue(replaced, words);
}

function withoutCutValue(text: string, words: SecretWords): string {
  const mark = CUT_MARK.exec(text)?.[0] ?? '';
  const whole = mark === '' ? text : text.slice(0, -mark.length);
  const lower = whole.toLowerCase();
  for (const { name, text: form } of words.starts) {
    for (let chars = Math.min(form.length - 1, lower.length); chars >= START_CHARS_MIN; chars -= 1) {
      if (lower.endsWith(form.slice(0, chars))) return `${whole.slice(0, -chars)}${marked(name)}${mark}`;
    }
  }
  return text;
}

function marked(name: string): string {
  return `«secret ${name}»`;
}

function formsOf(value: Uint8Array): readonly string[] {
  const text = new TextDecoder().decode(value).trim();
  if (text.length < VALUE_CHARS_MIN) return [];
  const bytes = new TextEncoder().encode(text);
  const lines = text.split(/\r?\n/).filter((line) => line.trim().length >= LINE_CHARS_MIN);
  const encoded = [0, 1, 2].map((offset) => base64Within(bytes, offset));
  const forms = [
    text,
    printable(text, text.length),
    JSON.stringify(text).slice(1, -1),
    encodeURIComponent(text.toWellFormed()),
    ...lines.map((line) => line.trim()),
    ...encoded,
    ...encoded.map((form) => form.replaceAll('+', '-').replaceAll('/', '_')),
    [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(''),
  ];
  // The longest first, so that what holds another form is replaced whole.
  return [...new Set(forms)].filter((form) => form.length >= VALUE_CHARS_MIN).toSorted((a, b) => b.length - a.length);
}

/** The characters of base64 that depend on these bytes alone, when `offset` others come before them. */
function base64Within(bytes: Uint8Array, offset: number): string {
  const padded = new Uint8Array(offset + bytes.length);
  padded.set(bytes, offset);
  let binary = '';
  for (const byte of padded) binary += String.fromCharCode(byte);
  const whole = btoa(binary).replace(/=+$/, '');
  const first = Math.ceil((offset * 8) / 6);
  return whole.slice(first, Math.floor((padded.length * 8) / 6));
}

function patternOf(form: string): string {
  const chars = Array.from(form, (char) => char.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&'));
  return form.length > DOTTED_CHARS_MAX ? chars.join('') : chars.join('\\.?');
}
