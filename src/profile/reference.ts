import type { SchemaNode } from './problems.ts';

/** The reference table of `docs/profile.md`, one line for each key, from the JSON Schema. */
export function referenceTable(schema: SchemaNode): string {
  const head = ['| Key | Value | Default | Meaning |', '|---|---|---|---|'];
  return `${[...head, ...rowsOf(schema, '')].join('\n')}\n`;
}

/** What stands between the two marks of a page is generated; the rest is written by hand and kept. */
export const GENERATED_START = '<!-- generated from src/profile/schema.ts by `npm run generate`: start -->';
const GENERATED_END = '<!-- generated: end -->';

/** The page with a new table between its marks, or null when the marks are not there. */
export function withTable(page: string, table: string): string | null {
  const start = page.indexOf(GENERATED_START);
  const end = page.indexOf(GENERATED_END);
  if (start === -1 || end < start) return null;
  return `${page.slice(0, start + GENERATED_START.length)}\n\n${table}\n${page.slice(end)}`;
}

function rowsOf(node: SchemaNode, prefix: string): readonly string[] {
  const properties = (node['properties'] ?? {}) as Readonly<Record<string, SchemaNode>>;
  const required = new Set(Array.isArray(node['required']) ? node['required'].map(String) : []);
  return Object.entries(properties).flatMap(([key, child]) => {
    const path = `${prefix}${key}`;
    const nested = objectsIn(child).flatMap(({ object, suffix }) => rowsOf(object, `${path}${suffix}.`));
    return [row(path, child, required.has(key)), ...nested];
  });
}

function row(path: string, node: SchemaNode, required: boolean): string {
  const cells = [`\`${path}\``, kindOf(node), defaultOf(node, required), meaningOf(node)];
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}

type Nested = { readonly object: SchemaNode; readonly suffix: string };

/** The objects whose keys get lines of their own: the value itself, an entry of a list, or one form of either. */
function objectsIn(node: SchemaNode): readonly Nested[] {
  const items = node['items'];
  const own = node['properties'] === undefined ? [] : [{ object: node, suffix: '' }];
  const listed = isNode(items) ? objectsIn(items).map(({ object }) => ({ object, suffix: '[]' })) : [];
  return [...own, ...listed, ...variants(node).flatMap(objectsIn)];
}

function kindOf(node: SchemaNode): string {
  if (typeof node['title'] === 'string') return node['title'];
  const forms = variants(node);
  if (forms.length > 0) return [...new Set(forms.map(kindOf))].join(', or ');
  if (typeof node['const'] === 'string') return `\`${node['const']}\``;
  if (Array.isArray(node['enum'])) return node['enum'].map((value) => `\`${String(value)}\``).join(', ');
  switch (node['type']) {
    case 'integer':
      return `whole number, ${String(node['minimum'])} to ${String(node['maximum'])}`;
    case 'number':
      return `number, ${String(node['minimum'])} to ${String(node['maximum'])}`;
    case 'boolean':
      return '`true`, `false`';
    case 'array':
      return `list of ${isNode(node['items']) ? kindOf(node['items']) : 'values'}, at most ${String(node['maxItems'])}`;
    case 'object':
      return 'mapping';
    default:
      return 'text';
  }
}

function defaultOf(node: SchemaNode, required: boolean): string {
  if (required) return '**required**';
  const value = node['default'];
  if (value === undefined) return 'none';
  if (value === '') return 'empty';
  return `\`${typeof value === 'string' ? value : JSON.stringify(value)}\``;
}

function meaningOf(node: SchemaNode): string {
  const description = typeof node['description'] === 'string' ? node['description'] : '';
  const examples = node['examples'];
  const example: unknown = Array.isArray(examples) ? examples[0] : undefined;
  if (example === undefined) return description;
  return `${description} Example: \`${typeof example === 'string' ? example : JSON.stringify(example)}\`.`.trimStart();
}

function variants(node: SchemaNode): readonly SchemaNode[] {
  return Array.isArray(node['anyOf']) ? node['anyOf'].filter(isNode) : [];
}

function isNode(value: unknown): value is SchemaNode {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
