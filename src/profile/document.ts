import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument, type YAMLError } from 'yaml';
import type { Problem } from '../core/errors.ts';
import { printable } from '../core/text.ts';

/**
 * A strict subset of YAML 1.2 as a plain value, with the place of every part of it: one document; no aliases, anchors,
 * tags, directives, merge keys, duplicate keys or tabs. Whatever comes in, the answer is a value or problems, and the
 * time is proportional to the length.
 */
export type Source =
  | { readonly file: string; readonly text: string }
  | { readonly file: string; readonly bytes: Uint8Array };

export type Path = readonly (string | number)[];
export type Place = { readonly line: number; readonly column: number };

export type StrictDocument = {
  readonly file: string;
  readonly value: unknown;
  /** Where the value at this path is; for what is not there, where its nearest parent is. */
  readonly locate: (path: Path) => Place;
  readonly locateKey: (path: Path) => Place;
  /** What is wrong although the value could be read: duplicate keys, anchors, tags. */
  readonly problems: readonly Problem[];
};

export type ReadDocument =
  | ({ readonly ok: true } & StrictDocument)
  | { readonly ok: false; readonly problems: readonly Problem[] };

export const FILE_BYTES_MAX = 256 * 1024;
const LINES_MAX = 10_000;
const NODES_MAX = 10_000;
const DEPTH_MAX = 16;
// Each of these can become a node or an error of the YAML library, which costs it microseconds.
const MARKS_MAX = 20_000;
const SYNTAX_PROBLEMS_MAX = 20;

export function readDocument(source: Source): ReadDocument {
  const decoded = decode(source);
  if (!decoded.ok) return { ok: false, problems: [decoded.problem] };
  const { text } = decoded;
  const refused = refusedText(source.file, text);
  if (refused !== null) return { ok: false, problems: [refused] };
  const lines = new LineCounter();
  const document = parse(text, lines);
  if (document === null) {
    return { ok: false, problems: [problemAt(source.file, FILE_START, 'is nested too deeply to be read.', null)] };
  }
  const place = (offset: number): Place => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  };
  if (document.errors.length > 0) {
    const endOffset = text.trimEnd().length;
    // One place has one cause; what the library says about it next follows from the first.
    const byPlace = new Map(document.errors.toReversed().map((error) => [Math.min(error.pos[0], endOffset), error]));
    const shown = [...byPlace].toSorted(([left], [right]) => left - right).slice(0, SYNTAX_PROBLEMS_MAX);
    const problems = shown.map(([offset, error]) => {
      const isLastLine = text.indexOf('\n', offset) === -1 || text.indexOf('\n', offset) >= endOffset;
      const cutOff = offset === endOffset || (isLastLine && error.code === 'MISSING_CHAR');
      const sentence = cutOff ? HALF_WRITTEN : sentenceOf(error);
      const hint = error.code === 'BAD_ALIAS' ? 'write "*.example.com" in quotes' : null;
      return problemAt(source.file, place(offset), `${sentence}.`, hint);
    });
    return { ok: false, problems };
  }
  const reading: Reading = { file: source.file, place, problems: [], nodes: 0, exhausted: false };
  if (document.directives.yaml.explicit === true || /^%/m.test(text.slice(0, document.contents?.range?.[0] ?? 0))) {
    reading.problems.push(
      problemAt(source.file, FILE_START, 'must have no % directive: it is read as YAML 1.2.', null),
    );
  }
  const root: Branch = { keyOffset: 0, valueOffset: 0, children: new Map() };
  const value = convert(document.contents, root, { reading, depth: 0, path: '' });
  if (value === null && reading.problems.length === 0) {
    return { ok: false, problems: [problemAt(source.file, FILE_START, 'is empty.', EMPTY_HINT)] };
  }
  if (reading.exhausted) return { ok: false, problems: reading.problems };
  return {
    ok: true,
    file: source.file,
    value,
    locate: (path) => place(find(root, path).offset),
    locateKey: (path) => place(find(root, path).keyOffset),
    problems: reading.problems,
  };
}

const FILE_START: Place = { line: 1, column: 1 };

type Decoded = { readonly ok: true; readonly text: string } | { readonly ok: false; readonly problem: Problem };

function decode(source: Source): Decoded {
  const size = 'bytes' in source ? source.bytes.length : source.text.length;
  if (size > FILE_BYTES_MAX) {
    const message = `must be at most ${FILE_BYTES_MAX / 1024} KiB, got ${Math.ceil(size / 1024)} KiB.`;
    const hint = 'a profile is a few kilobytes; is this the right file?';
    return { ok: false, problem: problemAt(source.file, FILE_START, message, hint) };
  }
  if ('text' in source) return { ok: true, text: source.text.replace(/^\uFEFF/, '') };
  try {
    return { ok: true, text: new TextDecoder('utf-8', { fatal: true }).decode(source.bytes) };
  } catch {
    const message = 'must be text in UTF-8; this line has bytes that are not.';
    const place = { line: firstBrokenLine(source.bytes), column: 1 };
    return { ok: false, problem: problemAt(source.file, place, message, 'save the file as UTF-8') };
  }
}

// No UTF-8 sequence has a line feed in it, so a broken one breaks its own line.
function firstBrokenLine(bytes: Uint8Array): number {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let line = 1;
  for (let start = 0; start < bytes.length; line += 1) {
    const end = bytes.indexOf(10, start);
    const next = end === -1 ? bytes.length : end + 1;
    try {
      decoder.decode(bytes.subarray(start, next));
    } catch {
      return line;
    }
    start = next;
  }
  return line;
}

// Characters that make a reader see another file than the parser does: control characters, line breaks that only
// some editors show (a lone CR, NEL, LS, PS), directions, halves of characters; and tabs, which the format refuses.
const HIDDEN =
  // oxlint-disable-next-line no-control-regex -- the control characters are what is looked for
  /[\u0000-\u0009\u000b\u000c\u000e-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]|\r(?!\n)|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

function refusedText(file: string, text: string): Problem | null {
  const hidden = HIDDEN.exec(text);
  if (hidden !== null) {
    const place = placeIn(text, hidden.index);
    if (hidden[0] === '\t')
      return problemAt(file, place, 'must have no tab.', 'indent with spaces; in quotes write \\t');
    const code = hidden[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, '0');
    const hint =
      code === '0000' ? 'is this a text file?' : 'delete it; in double quotes it can be written as an escape';
    return problemAt(file, place, `must have no hidden character, got U+${code}.`, hint);
  }
  if (count(text, /\n/g, LINES_MAX)) return problemAt(file, FILE_START, `must have at most ${LINES_MAX} lines.`, null);
  if (count(text, /[,\\]/g, MARKS_MAX) || count(text, /[[\]{},:*&!%?"'-](?=[[\]{},:*&!%?"'\s-]|$)/g, MARKS_MAX)) {
    return problemAt(file, FILE_START, 'has too many marks of YAML to be a profile.', null);
  }
  return null;
}
const EMPTY_HINT = '`ringfence schema` shows the form; profiles/offline.yaml is a short example';

function count(text: string, pattern: RegExp, max: number): boolean {
  let found = 0;
  for (const match of text.matchAll(pattern)) {
    void match;
    found += 1;
    if (found > max) return true;
  }
  return false;
}

function placeIn(text: string, offset: number): Place {
  const before = text.slice(0, offset).split('\n');
  return { line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
}

function parse(text: string, lineCounter: LineCounter) {
  try {
    // Duplicate keys are looked for below: the library compares every key of a map with every other. With the log level
    // `silent` it would also be silent about a second document.
    const options = { version: '1.2', strict: true, uniqueKeys: false, stringKeys: true, prettyErrors: false } as const;
    return parseDocument(text, { ...options, lineCounter, logLevel: 'error' });
  } catch {
    // The library recurses; beyond its own bound on depth it may run out of stack.
    return null;
  }
}

const HALF_WRITTEN = 'ends too early: a quote, bracket or colon is missing, or the file is half-written';
const SYNTAX: Readonly<Record<string, string>> = {
  BLOCK_AS_IMPLICIT_KEY: 'has two "KEY: VALUE" on one line, or a value that needs quotes',
  MISSING_CHAR: 'is missing a quote, bracket, comma or colon',
  MULTIPLE_DOCS: 'must be one document: a second one starts here',
  BAD_INDENT: 'is indented differently from its neighbours',
  BAD_ALIAS: 'must have no alias (*); text that starts with * needs quotes',
  RESOURCE_EXHAUSTION: 'is nested too deeply to be read',
};

function sentenceOf(error: YAMLError): string {
  return SYNTAX[error.code] ?? `is not YAML: ${printable(error.message, 160).replace(/\.$/, '')}`;
}

function problemAt(file: string, place: Place, message: string, hint: string | null): Problem {
  return { file, line: place.line, column: place.column, path: '', message, hint };
}

type Branch = { keyOffset: number; valueOffset: number; children: Map<string | number, Branch> };

function find(root: Branch, path: Path): { readonly offset: number; readonly keyOffset: number } {
  let branch = root;
  for (const key of path) {
    const child = branch.children.get(key);
    // What is missing belongs to its parent: point at the parent's key, not at its first entry.
    if (child === undefined) return { offset: branch.keyOffset, keyOffset: branch.keyOffset };
    branch = child;
  }
  return { offset: branch.valueOffset, keyOffset: branch.keyOffset };
}

type Reading = {
  readonly file: string;
  readonly place: (offset: number) => Place;
  readonly problems: Problem[];
  nodes: number;
  exhausted: boolean;
};
type Position = { readonly reading: Reading; readonly depth: number; readonly path: string };

function convert(node: unknown, branch: Branch, position: Position): unknown {
  const { reading, depth, path } = position;
  const refuse = (message: string, hint: string | null = null): void => {
    const { line, column } = reading.place(branch.valueOffset);
    reading.problems.push({ file: reading.file, line, column, path, message, hint });
  };
  reading.nodes += 1;
  if (reading.exhausted) return null;
  if (depth > DEPTH_MAX || reading.nodes > NODES_MAX) {
    reading.exhausted = true;
    refuse(depth > DEPTH_MAX ? `must be at most ${DEPTH_MAX} levels deep.` : `must have at most ${NODES_MAX} entries.`);
    return null;
  }
  if (isAlias(node)) {
    refuse('must not be an alias (*): write the value itself.', 'text that starts with * needs quotes');
    return null;
  }
  if (!isMap(node) && !isSeq(node) && !isScalar(node)) return null;
  if (node.anchor !== undefined) refuse('must have no anchor (&).', 'text that starts with & needs quotes');
  if (node.tag !== undefined) refuse('must have no tag (!).', 'text that starts with ! needs quotes');
  if (isScalar(node)) {
    // `010` is ten here and eight elsewhere; `1e3`, `0x10` and `.inf` are no numbers that a reviewer should meet.
    if (typeof node.value === 'number' && !PLAIN_NUMBER.test(node.source ?? '')) {
      refuse(`must be a number in plain decimals, got ${printable(node.source ?? '', 24)}.`, 'text needs quotes');
    }
    return node.value;
  }
  if (isMap(node)) return convertMap(node.items, branch, position);
  return node.items.map((item, index) => {
    const offset = startOf(item) ?? branch.valueOffset;
    const child: Branch = { keyOffset: offset, valueOffset: offset, children: new Map() };
    branch.children.set(index, child);
    return convert(item, child, { reading, depth: depth + 1, path: `${path}[${index}]` });
  });
}

const PLAIN_NUMBER = /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?$/;

type Pair = { readonly key: unknown; readonly value: unknown };

function convertMap(items: readonly Pair[], branch: Branch, { reading, depth, path }: Position): unknown {
  // Without a prototype, so that no key of the file can reach one.
  const result = Object.create(null) as Record<string, unknown>;
  for (const { key, value } of items) {
    if (!isScalar(key) || typeof key.value !== 'string') continue;
    const name = key.value;
    const keyOffset = startOf(key) ?? branch.valueOffset;
    const below = `${path === '' ? '' : `${path}.`}${printable(name, 64)}`;
    const refuse = (message: string, hint: string | null): void => {
      const { line, column } = reading.place(keyOffset);
      reading.problems.push({ file: reading.file, line, column, path: below, message, hint });
    };
    if (key.anchor !== undefined || key.tag !== undefined) refuse('must have no anchor (&) and no tag (!).', null);
    const first = branch.children.get(name);
    if (first !== undefined) {
      refuse(`is there twice; the first is in line ${reading.place(first.keyOffset).line}.`, 'delete one of them');
      continue;
    }
    // Validation would skip this one key without a word.
    if (name === '__proto__') refuse('is an unknown key.', null);
    if (name === '<<') refuse('must not be a merge key: write the values themselves.', null);
    const child: Branch = { keyOffset, valueOffset: startOf(value) ?? keyOffset, children: new Map() };
    branch.children.set(name, child);
    const converted = convert(value, child, { reading, depth: depth + 1, path: below });
    if (name !== '__proto__' && name !== '<<') result[name] = converted;
  }
  return result;
}

// A value left out (`limits:`) has an empty range; its key says more about where it is.
function startOf(node: unknown): number | null {
  if (!isMap(node) && !isSeq(node) && !isScalar(node) && !isAlias(node)) return null;
  if (isScalar(node) && node.source === '' && node.value === null) return null;
  return node.range?.[0] ?? null;
}
