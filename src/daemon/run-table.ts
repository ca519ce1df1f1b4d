import { fail } from '../core/errors.ts';
import { RUN_ID_PATTERN } from '../core/ids.ts';
import type { Outcome } from '../core/outcome.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import type { Caller, RunDetail, RunPhase, RunView } from '../api/service.ts';
import type { Spec } from '../profile/spec.ts';
import { redactCommand } from '../report/redact.ts';
import type { Driver } from '../run/driver.ts';
import { containerIdOf } from '../run/state.ts';

/** Runs that are over stay listed up to this many; the ledger keeps them all. */
const RUNS_OVER_MAX = 500;
/** Destinations told apart per run; a sweep of a whole network is counted under one line after that. */
const DESTINATIONS_MAX = 200;
const RUN_PREFIX_CHARS_MIN = 3;

export type RunEntry = {
  readonly driver: Driver;
  /** As it was launched or taken over; `driver.state.spec` is what the run is held to now. */
  readonly spec: Spec;
  readonly profilePath: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly caller: Caller;
  readonly admittedAt: string;
  /** The record of its admission. */
  readonly admittedSeq: number;
  readonly denialsByDestination: Map<string, number>;
};

/** A run that ended under an earlier daemon: what the ledger says of it. */
export type PastRun = { readonly outcome: Outcome; readonly admittedAt: string };

/** The runs of this host that can be named: those alive, and the latest that are over. */
export class RunTable {
  private readonly entries = new Map<string, RunEntry>();
  private readonly past = new Map<string, PastRun>();

  add(entry: RunEntry): void {
    this.entries.set(entry.driver.state.runId, entry);
    for (const [runId, each] of this.entries) {
      if (this.entries.size <= RUNS_OVER_MAX + this.alive().length) break;
      if (each.driver.state.phase === 'over') this.entries.delete(runId);
    }
  }

  addPast(run: PastRun): void {
    this.past.set(run.outcome.runId, run);
    const oldest = this.past.keys().next().value;
    if (this.past.size > RUNS_OVER_MAX && oldest !== undefined) this.past.delete(oldest);
  }

  get(runId: string): RunEntry | undefined {
    return this.entries.get(runId);
  }

  all(): readonly RunEntry[] {
    return [...this.entries.values()];
  }

  /** The run alive that leaves by this address. */
  byAddress(address: string): RunEntry | undefined {
    return this.alive().find(({ driver }) => driver.network?.address === address);
  }

  isAlive(runId: string): boolean {
    const entry = this.entries.get(runId);
    return entry !== undefined && entry.driver.state.phase !== 'over';
  }

  alive(): readonly RunEntry[] {
    return this.all().filter((entry) => entry.driver.state.phase !== 'over');
  }

  /** Where the oldest run that is alive was admitted; nothing before it may be forgotten. */
  oldestAliveSeq(): number {
    return Math.min(Number.MAX_SAFE_INTEGER, ...this.alive().map(({ admittedSeq }) => admittedSeq));
  }

  views(options: { readonly all: boolean }): readonly RunView[] {
    const present = (options.all ? this.all() : this.alive()).map(viewOf);
    return options.all ? [...[...this.past.values()].map(pastView), ...present] : present;
  }

  /** A run id, a unique prefix of one, or a profile name: its one run alive, else its latest run. */
  find(reference: string): { readonly entry: RunEntry } | { readonly past: PastRun } {
    const exact = this.entries.get(reference);
    if (exact !== undefined) return { entry: exact };
    const past = this.past.get(reference);
    if (past !== undefined) return { past };
    if (RUN_ID_PATTERN.test(reference)) throw fail('RUN_NOT_FOUND', { detail: `there is no run ${reference}` });
    const named = this.all().filter((entry) => entry.spec.name === reference);
    if (named.length > 0) return { entry: onlyOne(reference, named) };
    const pastNamed = [...this.past.values()].findLast((run) => run.outcome.profile === reference);
    if (pastNamed !== undefined) return { past: pastNamed };
    return this.findByPrefix(reference);
  }

  private findByPrefix(reference: string): { readonly entry: RunEntry } | { readonly past: PastRun } {
    const missing = fail('RUN_NOT_FOUND', { detail: `no run and no profile with runs is called "${reference}"` });
    if (reference.length < RUN_PREFIX_CHARS_MIN) throw missing;
    const matches = [...this.entries.keys(), ...this.past.keys()].filter((runId) => runId.startsWith(reference));
    if (matches.length > 1)
      throw fail('RUN_AMBIGUOUS', { detail: `"${reference}" is the beginning of ${matches.slice(0, 5).join(', ')}` });
    const [runId] = matches;
    if (runId === undefined) throw missing;
    return this.find(runId);
  }
}

function onlyOne(profile: string, entries: readonly RunEntry[]): RunEntry {
  const alive = entries.filter((entry) => entry.driver.state.phase !== 'over');
  if (alive.length > 1) {
    const ids = alive.slice(0, 5).map((entry) => entry.driver.state.runId);
    throw fail('RUN_AMBIGUOUS', { detail: `"${profile}" has ${alive.length} runs alive: ${ids.join(', ')}` });
  }
  const chosen = alive[0] ?? entries.at(-1);
  if (chosen === undefined) throw fail('RUN_NOT_FOUND', { detail: `"${profile}" has no runs` });
  return chosen;
}

export function countDenial(entry: RunEntry, destination: string, count: number): void {
  const known = entry.denialsByDestination;
  const key = known.has(destination) || known.size < DESTINATIONS_MAX ? destination : 'other destinations';
  known.set(key, (known.get(key) ?? 0) + count);
}

export function viewOf(entry: RunEntry): RunView {
  const { state } = entry.driver;
  return {
    runId: state.runId,
    profile: entry.spec.name,
    phase: state.phase satisfies RunPhase,
    admittedAt: entry.admittedAt,
    startedAt: state.startedAt,
    usage: state.usage,
    bounds: state.bounds,
    outcome: state.outcome,
    labels: entry.labels,
    held: state.held,
  };
}

function pastView({ outcome, admittedAt }: PastRun): RunView {
  return {
    runId: outcome.runId,
    profile: outcome.profile,
    phase: 'over',
    admittedAt,
    startedAt: outcome.startedAt,
    usage: outcome.usage ?? USAGE_NONE,
    bounds: outcome.limits,
    outcome,
    labels: {},
    held: null,
  };
}

/** `more`: what is asked of others at the moment of looking. */
export function detailOf(entry: RunEntry, more: Pick<RunDetail, 'destinations' | 'pending'>): RunDetail {
  const { state, network, cgroupPaths } = entry.driver;
  const { spec } = state;
  return {
    ...viewOf(entry),
    owner: spec.owner,
    profileDigest: spec.profileDigest,
    profilePath: entry.profilePath,
    image: spec.image,
    imageDigest: state.imageDigest,
    command: redactCommand(spec.command),
    containerId: containerIdOf(state),
    address: network?.address ?? null,
    network: network?.subnet ?? null,
    cgroups: cgroupPaths === null ? [] : [...new Set(Object.values(cgroupPaths).filter((path) => path !== null))],
    pid: state.container.kind === 'started' ? state.container.pid : null,
    egress: [
      ...spec.egress.allow.map((rule) => rule.text),
      ...spec.egress.ask.map((rule) => `${rule.text} (when a person allows it)`),
    ],
    denialsByDestination: [...entry.denialsByDestination].map(([destination, count]) => ({ destination, count })),
    launchedBy: entry.caller,
    ...more,
  };
}
