import type { Bound, Breach, Denial, EndTimes, Outcome, Reason, Usage } from '../core/outcome.ts';
import type { RecordDraft } from '../core/ports/record.ts';
import type { Spec } from '../profile/spec.ts';
import type { Preparation } from './state.ts';

/** When an event happened: UTC for people, milliseconds since boot for arithmetic. */
export type Stamp = { readonly at: string; readonly atMs: number };

/** Everything that can happen to a run. Kernel and container events outrank requests in the driver's queue. */
export type RunEvent = Stamp &
  (
    | { readonly kind: 'launch' }
    /** The container of an earlier daemon is to be taken over: by this one, as it is. */
    | {
        readonly kind: 'adopt';
        readonly containerId: string;
        readonly pid: number | null;
        readonly startedAt: string;
        readonly startedAtMs: number;
      }
    | { readonly kind: 'adopted' }
    | { readonly kind: 'prepared'; readonly preparation: Preparation }
    | { readonly kind: 'container-created'; readonly containerId: string }
    | {
        readonly kind: 'container-started';
        readonly pid: number | null;
        readonly startedAt: string;
        /** Where the clock of the run begins, in milliseconds since boot: before the engine was asked to start it. */
        readonly startedAtMs?: number;
      }
    | { readonly kind: 'verified'; readonly bounds: readonly Bound[]; readonly note: string | null }
    | { readonly kind: 'mismatched'; readonly mismatches: readonly Mismatch[] }
    | { readonly kind: 'effect-failed'; readonly effect: RunEffect['kind']; readonly failure: EffectFailure }
    | { readonly kind: 'sampled'; readonly usage: Usage }
    | { readonly kind: 'denied'; readonly denial: Denial; readonly suppressed: number }
    | {
        readonly kind: 'warned';
        readonly rule: string;
        readonly measured: number;
        readonly limit: number;
        readonly unit: string;
        readonly fraction: number;
      }
    | { readonly kind: 'breached'; readonly breach: Breach; readonly usage: Usage; readonly times: EndTimes }
    | { readonly kind: 'emptied'; readonly usage: Usage; readonly times: EndTimes; readonly breach: Breach | null }
    | { readonly kind: 'undead'; readonly pids: readonly number[] }
    | { readonly kind: 'died'; readonly exitCode: number | null; readonly oomKilledFlag: boolean }
    | {
        readonly kind: 'end-requested';
        readonly how: 'stop' | 'kill';
        readonly reason: Reason;
        readonly rule: string | null;
        readonly detail: string;
      }
    /** A person wants the run held to another profile. `draft` is the record of it, written before anything changes. */
    | { readonly kind: 'change'; readonly spec: Spec; readonly draft: RecordDraft }
    | { readonly kind: 'fence-changed' }
    | { readonly kind: 'watch-changed' }
    /** The warden slowed the run down or stopped it in its tracks; `resumed` ends that. */
    | { readonly kind: 'held'; readonly breach: Breach; readonly usage: Usage }
    | { readonly kind: 'resumed' }
    /** A person lets a paused run go on. */
    | { readonly kind: 'resume' }
    | { readonly kind: 'network-slowed' }
    | { readonly kind: 'more-granted' }
    | { readonly kind: 'torn-down'; readonly failures: readonly string[] }
    | { readonly kind: 'deadline'; readonly name: DeadlineName }
  );

export type EventOf<Kind extends RunEvent['kind']> = Extract<RunEvent, { kind: Kind }>;

export type DeadlineName = 'launch' | 'empty' | 'exit' | 'change';

export type Mismatch = { readonly path: string; readonly wanted: string; readonly got: string };

export type ChangeRefusal = {
  readonly code: 'RUN_NOT_RUNNING' | 'RUN_OVER' | 'LEDGER_UNWRITABLE';
  readonly detail: string;
};

export type EffectFailure = {
  readonly code: string;
  readonly message: string;
  readonly exitCode: number | null;
  /** Which preparation failed, for `prepare`. */
  readonly preparation?: Preparation;
};

/** Everything that a run makes the world do. An effect reports back by an event; a failed one by `effect-failed`. */
export type RunEffect =
  | { readonly kind: 'prepare'; readonly preparation: Preparation }
  | { readonly kind: 'create-container' }
  | { readonly kind: 'adopt'; readonly containerId: string; readonly pid: number | null; readonly startedAtMs: number }
  | { readonly kind: 'start-container'; readonly containerId: string }
  | { readonly kind: 'read-back'; readonly containerId: string }
  | { readonly kind: 'kill'; readonly reason: Reason }
  | { readonly kind: 'stop'; readonly reason: Reason; readonly graceMs: number }
  /** The warden did not report an empty cgroup in time: ask the kernel and the engine directly. */
  | { readonly kind: 'force-kill' }
  | { readonly kind: 'inspect-exit'; readonly containerId: string }
  | { readonly kind: 'record'; readonly draft: RecordDraft }
  | { readonly kind: 'open-incident' }
  /** Tells the sinks of the profile that the run is held. */
  | { readonly kind: 'notify-held'; readonly breach: Breach }
  /** Records the change, and once that is on disk swaps the grant of the fence. */
  | { readonly kind: 'change-fence'; readonly to: Spec; readonly draft: RecordDraft; readonly slowed: boolean }
  /** Lowers the rate of the network of a run that is throttled. */
  | { readonly kind: 'slow-network' }
  /** Opens what the kernel has cut off for a budget that pauses, and then lets the run go on. */
  | { readonly kind: 'grant-more'; readonly rules: readonly string[] }
  | { readonly kind: 'change-watch'; readonly to: Spec }
  /** Tells who asked for a change what came of it; null: it is in force. */
  | { readonly kind: 'answer-change'; readonly refusal: ChangeRefusal | null }
  | { readonly kind: 'tear-down' }
  | { readonly kind: 'set-deadline'; readonly name: DeadlineName; readonly afterMs: number }
  | { readonly kind: 'settle'; readonly outcome: Outcome };

/** What people want waits behind what has happened. */
export function isRequest({ kind }: RunEvent): boolean {
  return kind === 'end-requested' || kind === 'launch' || kind === 'change' || kind === 'resume';
}
