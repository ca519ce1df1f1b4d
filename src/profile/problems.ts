import type { z } from 'zod';
import type { Problem } from '../core/errors.ts';
import { nearest, printable } from '../core/text.ts';
import type { Path, StrictDocument } from './document.ts';
import { at } from './written.ts';

/**
 * From what validation found to what a person reads: the place, the path, the rule, the value, the next thing to type.
 * Works for any strict document and its schema; the hints come from the defaults and examples of the schema.
 */
const PROBLEMS_MAX = 100;

/** JSON Schema of the document: the source of defaults, examples and known keys. */
export type SchemaNode = { readonly [keyword: string]: unknown };

type Issue = z.core.$ZodIssue;
type Context = {
  readonly document: StrictDocument;
  readonly schema: SchemaNode;
  readonly hidden: (path: Path) => boolean;
};

/** `hidden`: paths whose values are not repeated, as they may be secrets. */
export function problemsOf(issues: readonly Issue[], context: Context): readonly Problem[] {
  return narrowest(issues)
    .slice(0, PROBLEMS_MAX)
    .flatMap((issue) => problemsOfIssue(issue, [], context));
}

/** A whole number beyond what can be counted exactly is beyond its own bound as well: only the narrower rule is of use. */
function narrowest(issues: readonly Issue[]): readonly Issue[] {
  const bounds = new Map<string, number | bigint>();
  for (const issue of issues) {
    const bound = boundOf(issue);
    if (bound === null) continue;
    const known = bounds.get(bound.place);
    const narrower = known === undefined || (issue.code === 'too_big' ? bound.value < known : bound.value > known);
    if (narrower) bounds.set(bound.place, bound.value);
  }
  return issues.filter((issue) => {
    const bound = boundOf(issue);
    return bound === null || bound.value === bounds.get(bound.place);
  });
}

function boundOf(issue: Issue): { readonly place: string; readonly value: number | bigint } | null {
  if (issue.code !== 'too_big' && issue.code !== 'too_small') return null;
  const value = issue.code === 'too_big' ? issue.maximum : issue.minimum;
  return { place: `${issue.code} ${issue.path.join('.')}`, value };
}

/** In the order of the file, at most `PROBLEMS_MAX`, with a last line that says how many more there are. */
export function inOrder(problems: readonly Problem[]): readonly Problem[] {
  const sorted = problems.toSorted((left, right) => left.line - right.line || left.column - right.column);
  if (sorted.length <= PROBLEMS_MAX) return sorted;
  const shown = sorted.slice(0, PROBLEMS_MAX);
  const last = shown.at(-1);
  if (last === undefined) return shown;
  return [...shown, { ...last, path: '', message: `and ${sorted.length - shown.length} more.`, hint: null }];
}

const FILE_CHARS_MAX = 1024;

/** `coder.yaml:3:9 limits.pids: must be at least 1, got -4.` and, on a line of its own, the hint. */
export function formatProblem(problem: Problem): string {
  const place = `${printable(problem.file, FILE_CHARS_MAX)}:${problem.line}:${problem.column}`;
  const text = `${place} ${problem.path === '' ? '' : `${problem.path}: `}${problem.message}`;
  return problem.hint === null ? text : `${text}\nhint: ${problem.hint}`;
}

/** `egress.allow[3]`, `on.budget.cpu`. */
export function showPath(path: Path): string {
  let shown = '';
  for (const key of path) {
    if (typeof key === 'number') shown += `[${key}]`;
    else shown += `${shown === '' ? '' : '.'}${printable(key, 64)}`;
  }
  return shown;
}

/** A problem at a path; the message gets `, got VALUE.` where there is a value to show. */
export function problemAtPath(
  path: Path,
  { message, hint }: { readonly message: string; readonly hint: string | null },
  document: StrictDocument,
): Problem {
  return { file: document.file, ...document.locate(path), path: showPath(path), message: `${message}.`, hint };
}

function problemsOfIssue(issue: Issue, parent: Path, context: Context): readonly Problem[] {
  const path: Path = [...parent, ...(issue.path as (string | number)[])];
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.slice(0, PROBLEMS_MAX).map((key) => unknownKey(path, key, context));
  }
  if (issue.code === 'invalid_key') {
    const message = `${issue.issues[0]?.message ?? 'must be a name'}, got ${showValue(path.at(-1))}`;
    const place = context.document.locateKey(path);
    return [{ file: context.document.file, ...place, path: showPath(path), message: `${message}.`, hint: null }];
  }
  if (issue.code === 'invalid_union') {
    const branch = issue.errors.find((issues) => issues.length > 0 && !issues.some(isWrongKind));
    if (branch !== undefined) return branch.flatMap((inner) => problemsOfIssue(inner, path, context));
  }
  const value = at(context.document.value, path);
  const node = schemaAt(context.schema, path);
  if (value === undefined) {
    return [problemAtPath(path, { message: 'is required', hint: exampleHint(path, node) }, context.document)];
  }
  const hidden = context.hidden(path);
  const got = hidden ? '' : `, got ${showValue(value)}`;
  const hint = givenHint(issue) ?? (hidden ? HIDDEN_HINT : valueHint(path, value, node));
  return [
    problemAtPath(path, { message: `${issue.message}${suggestion(issue, value)}${got}`, hint }, context.document),
  ];
}

const HIDDEN_HINT = 'write numbers, true and false in quotes';

function isWrongKind(issue: Issue): boolean {
  return issue.path.length === 0 && (issue.code === 'invalid_type' || issue.code === 'invalid_value');
}

function unknownKey(path: Path, key: string, { document, schema }: Context): Problem {
  const known = Object.keys(propertiesOf(schemaAt(schema, path)));
  const near = nearest(key, known);
  const place = document.locateKey([...path, key]);
  const message = `is an unknown key${near === null ? '' : `; did you mean ${near}?`}`;
  const hint = `known here: ${known.join(', ')}`;
  return {
    file: document.file,
    ...place,
    path: showPath([...path, key]),
    message: near === null ? `${message}.` : message,
    hint,
  };
}

function suggestion(issue: Issue, value: unknown): string {
  if (issue.code !== 'invalid_value' || typeof value !== 'string') return '';
  const near = nearest(
    value,
    issue.values.filter((known) => typeof known === 'string'),
  );
  return near === null || issue.values.length === 1 ? '' : ` (did you mean ${near}?)`;
}

const TYPE_WORDS: Readonly<Record<string, string>> = {
  string: 'text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'a mapping of keys to values',
  record: 'a mapping of names to values',
};

/** The sentence for each kind of issue whose schema does not bring its own. */
export function ruleOf(issue: z.core.$ZodRawIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return `must be ${TYPE_WORDS[issue.expected] ?? issue.expected}`;
    case 'invalid_value':
      return `must be ${issue.values
        .map(String)
        .join(', ')
        .replace(/, ([^,]*)$/, ' or $1')}`;
    case 'too_small':
      if (issue.origin === 'string' || issue.origin === 'array') return 'must not be empty';
      return `must be at least ${issue.minimum}`;
    case 'too_big':
      if (issue.origin === 'string') return `must be at most ${issue.maximum} characters long`;
      if (issue.origin === 'array') return `must have at most ${issue.maximum} entries`;
      return `must be at most ${issue.maximum}`;
    default:
      return 'is not valid';
  }
}

const SHOWN_CHARS_MAX = 60;

/** A value of the file in few, harmless characters. */
function showValue(value: unknown): string {
  if (value === null) return 'nothing';
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : 'a list';
  if (typeof value === 'object') return 'a mapping';
  if (typeof value === 'string') return value === '' ? 'empty text' : `"${printable(value, SHOWN_CHARS_MAX)}"`;
  return printable(JSON.stringify(value) ?? typeof value, SHOWN_CHARS_MAX);
}

function givenHint(issue: Issue): string | null {
  const hint: unknown = issue.code === 'custom' ? issue.params?.['hint'] : null;
  return typeof hint === 'string' ? hint : null;
}

// What turns the value into a right one comes first, then what the default does, then an example.
function valueHint(path: Path, value: unknown, node: SchemaNode | null): string | null {
  const kinds = kindsOf(node);
  if (kinds.includes('string') && (typeof value === 'number' || typeof value === 'boolean')) {
    const pattern = patternOf(node);
    if (typeof value === 'number' && pattern.startsWith('^[0-9]+'))
      return `write the unit: ${unitExamples(value, pattern)}`;
    const text = node?.['enum'] === undefined && pattern === '' && !kinds.includes('integer');
    if (text) return `write it in quotes: "${String(value)}"`;
  }
  if (kinds.includes('integer') || kinds.includes('number')) {
    if (typeof value === 'string' && /^-?[0-9.]+$/.test(value)) return `write it without quotes: ${value}`;
  }
  const fallback = node?.['default'];
  if (typeof fallback === 'string' || typeof fallback === 'number' || typeof fallback === 'boolean') {
    return `leave it out to use the default ${fallback === '' ? '(empty)' : fallback}`;
  }
  return exampleHint(path, node);
}

function unitExamples(value: number, pattern: string): string {
  if (pattern.includes('bit')) return `${value}Mbit/s or ${value}MiB/s`;
  if (pattern.endsWith('/s$')) return `${value}MiB/s`;
  return pattern.includes('iB') ? `${value}MiB or ${value}GiB` : `${value}s, ${value}m or ${value}h`;
}

function exampleHint(path: Path, node: SchemaNode | null): string | null {
  const key = path.findLast((part) => typeof part === 'string') ?? '';
  const examples = node?.['examples'];
  const example: unknown = Array.isArray(examples) ? examples[0] : undefined;
  if (example !== undefined) return `for example \`${key}: ${inline(example)}\``;
  const required = node?.['required'];
  if (Array.isArray(required) && required.length > 0) return `it needs ${required.map(String).join(', ')}`;
  return null;
}

function inline(example: unknown): string {
  if (Array.isArray(example)) return `[${example.map(inline).join(', ')}]`;
  if (typeof example !== 'object' || example === null) return String(example);
  const entries = Object.entries(example).map(([key, value]) => `${key}: ${inline(value)}`);
  return entries.length === 0 ? '{}' : `{ ${entries.join(', ')} }`;
}

function kindsOf(node: SchemaNode | null): readonly string[] {
  if (node === null) return [];
  return [node, ...variantsOf(node)].map((variant) => (typeof variant['type'] === 'string' ? variant['type'] : ''));
}

function patternOf(node: SchemaNode | null): string {
  const variants = node === null ? [] : [node, ...variantsOf(node)];
  return variants.map((variant) => variant['pattern']).find((pattern) => typeof pattern === 'string') ?? '';
}

function variantsOf(node: SchemaNode): readonly SchemaNode[] {
  return Array.isArray(node['anyOf']) ? (node['anyOf'] as readonly SchemaNode[]) : [];
}

function propertiesOf(node: SchemaNode | null): Readonly<Record<string, SchemaNode>> {
  if (node === null) return {};
  const holder = [node, ...variantsOf(node)].find((variant) => variant['properties'] !== undefined);
  return (holder?.['properties'] ?? {}) as Readonly<Record<string, SchemaNode>>;
}

function schemaAt(schema: SchemaNode, path: Path): SchemaNode | null {
  let node: SchemaNode | null = schema;
  for (const key of path) {
    const variants: readonly SchemaNode[] = node === null ? [] : [node, ...variantsOf(node)];
    const next: unknown =
      typeof key === 'number'
        ? variants.find((variant) => variant['items'] !== undefined)?.['items']
        : (propertiesOf(node)[key] ??
          variants.find((variant) => variant['additionalProperties'])?.['additionalProperties']);
    node = typeof next === 'object' && next !== null ? (next as SchemaNode) : null;
  }
  return node;
}
