import type { Log } from '../core/ports/log.ts';
import type { Ledger } from '../core/ports/record.ts';
import { messageOf } from '../core/errors.ts';
import type { Resolution } from '../gate/upstream.ts';
import type { Spec } from '../profile/spec.ts';

/** A profile may list a thousand names; what is said of a few is warning enough. */
const NAMES_LOOKED_UP_MAX = 32;

export type UnresolvedOptions = {
  readonly ledger: Pick<Ledger, 'subscribe' | 'append'>;
  readonly specOf: (runId: string) => Spec | undefined;
  readonly resolve: (name: string) => Promise<Resolution>;
  readonly log: Log;
};

/**
 * Says of each run that was admitted which of its exact names do not resolve: most often a typing error, and the agent
 * would only see that nothing is there. It is a warning, since a name may come into being later; nothing waits for it.
 */
export function warnOfUnresolvedNames({ ledger, specOf, resolve, log }: UnresolvedOptions): () => void {
  const look = async (runId: string): Promise<void> => {
    const spec = specOf(runId);
    if (spec === undefined) return;
    const rules = [...spec.egress.allow, ...spec.egress.ask];
    const exact = rules.flatMap((rule) => (rule.kind === 'name' && !rule.wildcard ? [rule.name] : []));
    const names = [...new Set(exact)].slice(0, NAMES_LOOKED_UP_MAX);
    const found = await Promise.all(names.map(async (name) => ({ name, resolution: await resolve(name) })));
    const missing = found.flatMap(({ name, resolution }) => {
      if (resolution.kind === 'failed') return [{ name, why: resolution.why }];
      const none = resolution.kind === 'no-such-name' || resolution.addresses.length === 0;
      return none ? [{ name, why: 'no such name, or no IPv4 address' }] : [];
    });
    if (missing.length === 0) return;
    const draft = { kind: 'egress.unresolved' as const, runId, profile: spec.name, names: missing };
    ledger.append(draft).flushed.catch(() => undefined);
  };
  return ledger.subscribe((record) => {
    if (record.kind !== 'run.admitted' || typeof record.runId !== 'string') return;
    look(record.runId).catch((error: unknown) => log.warn({ error: messageOf(error) }, 'names could not be looked up'));
  });
}
