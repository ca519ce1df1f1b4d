import type { Problem } from '../core/errors.ts';
import { findContradictions } from './checks.ts';
import { readDocument, type Path, type Place, type Source, type StrictDocument } from './document.ts';
import { inOrder, problemAtPath, problemsOf, ruleOf, type SchemaNode } from './problems.ts';
import { profileJsonSchema, profileSchema, type Profile } from './schema.ts';

export { formatProblem } from './problems.ts';

/** A valid profile, and where each part of it stands in the file, for what is found wrong with it later. */
export type ParsedProfile = {
  readonly ok: true;
  readonly profile: Profile;
  readonly document: StrictDocument;
  readonly locate: (path: Path) => Place;
  /** What may not have been meant, in the order of the file. None of it keeps the profile from running. */
  readonly warnings: readonly Problem[];
};

export type ParseResult = ParsedProfile | { readonly ok: false; readonly problems: readonly Problem[] };

/** Every problem of the file at once, in its order. Never throws, whatever the text or the bytes are. */
export function parseProfile(source: Source): ParseResult {
  const document = readDocument(source);
  if (!document.ok) return { ok: false, problems: document.problems };
  const checked = profileSchema.safeParse(document.value, { error: ruleOf });
  const findings = findContradictions(document.value, (path) => document.locate(path).line);
  // What could not be read at all has no value that the schema could judge.
  const unread = new Set(document.problems.map(({ path }) => path));
  const judged = [
    ...(checked.success ? [] : problemsOf(checked.error.issues, { document, schema: schema(), hidden: isEnvValue })),
    ...findings.errors.map((finding) => problemAtPath(finding.path, finding, document)),
  ];
  const problems = [...document.problems, ...judged.filter(({ path }) => !unread.has(path))];
  if (!checked.success || problems.length > 0) return { ok: false, problems: inOrder(problems) };
  const warnings = inOrder(findings.warnings.map((finding) => problemAtPath(finding.path, finding, document)));
  return { ok: true, profile: checked.data, document, locate: document.locate, warnings };
}

// Somebody will put a secret there although there is a place for secrets.
function isEnvValue(path: Path): boolean {
  return path[0] === 'env' && path.length > 1;
}

let schemaOnce: SchemaNode | null = null;
function schema(): SchemaNode {
  schemaOnce ??= profileJsonSchema();
  return schemaOnce;
}
