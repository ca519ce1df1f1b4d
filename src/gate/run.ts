import type { EgressRules } from '../policy/egress.ts';
import type { HeldNames } from './held.ts';
import type { LookupRun } from './lookup.ts';
import type { OpenedEntries } from './opened.ts';
import type { ShownNames } from './shown.ts';

/** What the gate knows of one run. A run that is revoked and granted anew is another one, though its address be the same. */
export type GateRun = LookupRun & {
  readonly address: string;
  /** Swapped whole by a change of the profile. */
  rules: EgressRules;
  readonly ownAddresses: readonly string[];
  readonly held: HeldNames;
  readonly opened: OpenedEntries;
  readonly shown: ShownNames;
};
