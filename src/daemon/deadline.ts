import { fail } from '../core/errors.ts';

/** The answer, or a rejection when it does not come in time. The work itself goes on unheard. */
export async function withDeadline<Value>(work: Promise<Value>, msMax: number): Promise<Value> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(fail('INTERNAL', { detail: `no answer within ${msMax} ms` })), msMax);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
