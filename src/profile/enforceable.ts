import type { Problem } from '../core/errors.ts';
import type { Path } from './document.ts';
import type { ParsedProfile } from './parse.ts';
import { inOrder, problemAtPath } from './problems.ts';
import type { Spec } from './spec.ts';

/**
 * What a valid profile may say and this version does not enforce yet. A launch refuses all of it: a bound that is
 * written and not held would be worse than none.
 */
export type Unenforceable = { readonly path: string; readonly keys: Path; readonly why: string };

/** Nothing of version 1 of the format; what a host cannot hold is refused by the host. */
export function unenforceable(_spec: Spec): readonly Unenforceable[] {
  return [];
}

/** The same as problems with their places in the file; empty when the profile may be launched. */
export function unenforceableProblems(parsed: ParsedProfile, spec: Spec): readonly Problem[] {
  const problems = unenforceable(spec).map(({ keys, why }) =>
    problemAtPath(keys, { message: `not enforceable by this version: ${why}`, hint: TAKE_OUT }, parsed.document),
  );
  return inOrder(problems);
}

const TAKE_OUT = 'take it out of the profile; nothing that a profile says is ever ignored';
