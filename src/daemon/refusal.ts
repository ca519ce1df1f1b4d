import { fail, RingfenceError, messageOf, type ErrorCode, type Problem } from '../core/errors.ts';
import type { Path, StrictDocument } from '../profile/document.ts';
import { formatProblem, problemAtPath } from '../profile/problems.ts';

/** A refusal that lists what is wrong, each with its place in the profile. */
export function refusalOf(code: ErrorCode, problems: readonly Problem[]): RingfenceError {
  return fail(code, { problems });
}

/** A refusal of one value of the profile: the sentence of `fail` becomes a problem at the place of the value. */
export function refusalAt(keys: Path, refused: RingfenceError, document: StrictDocument): RingfenceError {
  const { detail: _detail, hint: _hint, ...facts } = refused.facts;
  const problem = problemAtPath(keys, { message: refused.message, hint: refused.hint }, document);
  return fail(refused.code, { ...facts, problems: [problem] }, { cause: refused });
}

/** Does `work`, and gives a refusal from it the place in the profile that it is about. */
export async function placing<T>(keys: Path, document: StrictDocument, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw error instanceof RingfenceError && error.facts.problems === undefined && isAboutProfile(error)
      ? refusalAt(keys, error, document)
      : error;
  }
}

// A sick engine is not the fault of a line in a profile.
function isAboutProfile({ code }: RingfenceError): boolean {
  return !code.startsWith('ENGINE_') && code !== 'INTERNAL';
}

/** One text with everything that was wrong, for the record. */
export function describeRefusal(error: unknown): string {
  const problems = error instanceof RingfenceError ? (error.facts.problems ?? []) : [];
  return problems.length === 0 ? messageOf(error) : problems.map(formatProblem).join('\n');
}
