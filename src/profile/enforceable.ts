import type { Problem } from '../core/errors.ts';
import type { Path } from './document.ts';
import type { ParsedProfile } from './parse.ts';
import { inOrder, problemAtPath, showPath } from './problems.ts';
import type { Spec } from './spec.ts';

/**
 * What a valid profile may say and this version does not enforce yet. A launch refuses all of it: a bound that is
 * written and not held would be worse than none.
 */
export type Unenforceable = { readonly path: string; readonly keys: Path; readonly why: string };

export function unenforceable(spec: Spec): readonly Unenforceable[] {
  const found: Unenforceable[] = [];
  const refuse = (keys: Path, why: string): void => {
    found.push({ path: showPath(keys), keys, why });
  };
  const { limits, budget } = spec;
  if (limits.ioBytesPerSecond !== null) refuse(['limits', 'io'], 'nothing limits the rate of the disks');
  if (limits.gpu !== null) refuse(['limits', 'gpu'], 'no GPU is granted or measured');
  if (budget.gpuMs !== null) refuse(['budget', 'gpu'], 'no GPU is measured');
  spec.mounts.forEach((mount, index) => {
    if (mount.sizeBytesMax !== null) refuse(['mounts', index, 'size'], 'the size of a mount is not limited');
  });
  return found;
}

/** The same as problems with their places in the file; empty when the profile may be launched. */
export function unenforceableProblems(parsed: ParsedProfile, spec: Spec): readonly Problem[] {
  const problems = unenforceable(spec).map(({ keys, why }) =>
    problemAtPath(keys, { message: `not enforceable by this version: ${why}`, hint: TAKE_OUT }, parsed.document),
  );
  return inOrder(problems);
}

const TAKE_OUT = 'take it out of the profile; nothing that a profile says is ever ignored';
