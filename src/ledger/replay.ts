import type { Incident } from '../api/service.ts';
import type { Breach, Outcome, Usage } from '../core/outcome.ts';
import type { Ledger, LedgerRecord } from '../core/ports/record.ts';

/**
 * What a daemon must know of the past when it starts. Runs that are alive are known from the kernel and the engine;
 * the ledger says what they were meant to be and what was promised about their profiles.
 */
export type Replay = {
  /** Profiles that may not run until they are released. */
  readonly quarantined: ReadonlyMap<string, Quarantine>;
  /** The latest, oldest first. */
  readonly incidents: readonly ReplayedIncident[];
  /** Of all time, for each profile. */
  readonly incidentsByProfile: ReadonlyMap<string, number>;
  /** The latest runs that are over, oldest first. */
  readonly ended: readonly EndedRun[];
  /** Admitted and never ended: the daemon went away before they did. */
  readonly open: readonly OpenRun[];
  /** `sink id` of alerts that need nothing more: delivered, or given up. */
  readonly settledAlerts: ReadonlySet<string>;
  readonly lastDaemon: LastDaemon | null;
};

export type Quarantine = { readonly incidentId: string | null; readonly at: string };

/** `sinks`: where it was to be sent. */
export type ReplayedIncident = { readonly at: string; readonly sinks: readonly string[]; readonly incident: Incident };

export type EndedRun = { readonly admittedAt: string; readonly outcome: Outcome };

export type OpenRun = {
  readonly runId: string;
  readonly profile: string;
  readonly admittedAt: string;
  /** What `run.admitted` holds; the profile in it is the one that the run is held to now. */
  readonly admission: LedgerRecord;
  /** The digest of the profile that the container was made from. */
  readonly launchDigest: string | null;
  readonly containerId: string | null;
  /** Milliseconds since boot at which it started; null before that. */
  readonly startedAtMs: number | null;
  /** The boot of the host in which it started; null for a run of a version that did not record it. */
  readonly bootId: string | null;
  /** What ended it, when the daemon went away before it could say so. */
  readonly breach: { readonly breach: Breach; readonly usage: Usage } | null;
  /** Refused attempts that its records count. */
  readonly denialsOnRecord: number;
  /** The incident that was opened for it already; it gets no second one. */
  readonly incidentId: string | null;
};

/** `stoppedAt` is null for one that was killed; `lastAt` is then the last that is known of it. */
export type LastDaemon = { readonly startedAt: string; readonly stoppedAt: string | null; readonly lastAt: string };

const INCIDENTS_KEPT_MAX = 1_000;
export const ENDED_KEPT_MAX = 500;
const OPEN_KEPT_MAX = 10_000;
const SETTLED_KEPT_MAX = 10_000;
const PROFILES_KEPT_MAX = 100_000;

/** Reads the whole ledger once, in bounded memory. Fields of an unexpected shape are passed over, never trusted. */
export async function replayLedger(ledger: Pick<Ledger, 'read'>): Promise<Replay> {
  const replay = new Replaying();
  for await (const record of ledger.read({ fromSeq: 1 })) replay.take(record);
  return replay;
}

class Replaying implements Replay {
  readonly quarantined = new Map<string, Quarantine>();
  readonly incidentsByProfile = new Map<string, number>();
  readonly settledAlerts = new Set<string>();
  lastDaemon: LastDaemon | null = null;
  readonly #incidents = new Map<string, ReplayedIncident>();
  readonly #open = new Map<string, OpenRun>();
  readonly #ended = new Map<string, EndedRun>();
  #bootId: string | null = null;

  get incidents(): readonly ReplayedIncident[] {
    return [...this.#incidents.values()];
  }

  get open(): readonly OpenRun[] {
    return [...this.#open.values()];
  }

  get ended(): readonly EndedRun[] {
    return [...this.#ended.values()];
  }

  take(record: LedgerRecord): void {
    if (this.lastDaemon !== null) this.lastDaemon = { ...this.lastDaemon, lastAt: record.at };
    const profile = typeof record.profile === 'string' ? record.profile : null;
    const runId = typeof record.runId === 'string' ? record.runId : null;
    switch (record.kind) {
      case 'daemon.started':
        this.lastDaemon = { startedAt: record.at, stoppedAt: null, lastAt: record.at };
        this.#bootId = textOf(record['bootId']);
        return;
      case 'daemon.stopped':
        if (this.lastDaemon !== null) this.lastDaemon = { ...this.lastDaemon, stoppedAt: record.at };
        return;
      case 'run.admitted':
        if (runId !== null && profile !== null) {
          const run = {
            runId,
            profile,
            admittedAt: record.at,
            admission: record,
            launchDigest: textOf(record['profileDigest']),
            containerId: null,
            startedAtMs: null,
            bootId: null,
            breach: null,
            denialsOnRecord: 0,
            incidentId: null,
          };
          keep(this.#open, { key: runId, value: run, max: OPEN_KEPT_MAX });
        }
        return;
      case 'run.started':
        this.#started(runId, record);
        return;
      case 'egress.denied':
        this.#denied(runId, record['suppressed']);
        return;
      case 'breach':
        this.#breached(runId, record);
        return;
      case 'run.changed':
        this.#changed(runId, record);
        return;
      case 'run.ended':
        if (runId !== null) this.#end(runId, record);
        return;
      case 'incident.opened':
        if (profile !== null) this.#incident(profile, record);
        this.#openedFor(runId, record);
        return;
      case 'incident.closed':
        this.#closed(record);
        return;
      case 'quarantine.set':
        if (profile !== null) {
          const value = { incidentId: textOf(record['incidentId']), at: record.at };
          keep(this.quarantined, { key: profile, value, max: PROFILES_KEPT_MAX });
        }
        return;
      case 'quarantine.released':
        if (profile !== null) this.quarantined.delete(profile);
        return;
      case 'ledger.pruned':
        this.#pruned(record);
        return;
      case 'alert.delivered':
        this.#settled(record);
        return;
      case 'alert.failed':
        if (record['final'] === true) this.#settled(record);
        return;
      default:
    }
  }

  #started(runId: string | null, record: LedgerRecord): void {
    const run = runId === null ? undefined : this.#open.get(runId);
    if (run === undefined) return;
    const { startedAtMs } = record;
    this.#open.set(run.runId, {
      ...run,
      containerId: textOf(record['containerId']),
      startedAtMs: typeof startedAtMs === 'number' ? startedAtMs : null,
      bootId: this.#bootId,
    });
  }

  #denied(runId: string | null, suppressed: unknown): void {
    const run = runId === null ? undefined : this.#open.get(runId);
    if (run === undefined) return;
    const attempts = 1 + (typeof suppressed === 'number' ? suppressed : 0);
    this.#open.set(run.runId, { ...run, denialsOnRecord: run.denialsOnRecord + attempts });
  }

  /** The first one is the reason. */
  #breached(runId: string | null, record: LedgerRecord): void {
    const run = runId === null ? undefined : this.#open.get(runId);
    const { breach, usage } = record;
    if (run === undefined || run.breach !== null || !isObject(breach) || !isObject(usage)) return;
    this.#open.set(run.runId, { ...run, breach: { breach: breach as Breach, usage: usage as Usage } });
  }

  /** An incident holds the breach that it is about, also where the supervisor itself ended the run. */
  #openedFor(runId: string | null, record: LedgerRecord): void {
    const run = runId === null ? undefined : this.#open.get(runId);
    const { incident } = record;
    if (run === undefined || !isIncident(incident)) return;
    const { breach, usage } = incident.evidence;
    this.#open.set(run.runId, { ...run, breach: { breach, usage }, incidentId: incident.id });
  }

  #closed(record: LedgerRecord): void {
    const known = this.#incidents.get(textOf(record['incidentId']) ?? '');
    const { how } = record;
    if (known === undefined || (how !== 'released' && how !== 'clean-run')) return;
    const closed = { at: record.at, how, by: textOf(record['by']) } as const;
    const context = { ...known.incident.context, quarantined: false, closed };
    this.#incidents.set(known.incident.id, { ...known, incident: { ...known.incident, context } });
  }

  #changed(runId: string | null, record: LedgerRecord): void {
    const run = runId === null ? undefined : this.#open.get(runId);
    const [profileText, profileDigest] = [textOf(record['profileText']), textOf(record['toDigest'])];
    if (run === undefined || profileText === null || profileDigest === null) return;
    this.#open.set(run.runId, { ...run, admission: { ...run.admission, profileText, profileDigest } });
  }

  #end(runId: string, record: LedgerRecord): void {
    const admittedAt = this.#open.get(runId)?.admittedAt ?? record.at;
    this.#open.delete(runId);
    const outcome = record['outcome'];
    if (!isOutcome(outcome)) return;
    keep(this.#ended, { key: runId, value: { admittedAt, outcome }, max: ENDED_KEPT_MAX });
  }

  #incident(profile: string, record: LedgerRecord): void {
    const count = (this.incidentsByProfile.get(profile) ?? 0) + 1;
    keep(this.incidentsByProfile, { key: profile, value: count, max: PROFILES_KEPT_MAX });
    const { incident, sinks: named } = record;
    if (!isIncident(incident)) return;
    const sinks = Array.isArray(named) ? named.filter((sink) => typeof sink === 'string') : [];
    const value = { at: record.at, sinks, incident: completed(incident) };
    keep(this.#incidents, { key: incident.id, value, max: INCIDENTS_KEPT_MAX });
  }

  /** What the deleted files would have said, as it stood when they went; the records after it change it as ever. */
  #pruned(record: LedgerRecord): void {
    const { quarantined, incidentsByProfile } = record;
    for (const [profile, about] of Object.entries(isObject(quarantined) ? quarantined : {})) {
      const incidentId = isObject(about) && 'incidentId' in about ? textOf(about.incidentId) : null;
      const known = this.quarantined.get(profile) ?? { incidentId, at: record.at };
      keep(this.quarantined, { key: profile, value: known, max: PROFILES_KEPT_MAX });
    }
    for (const [profile, count] of Object.entries(isObject(incidentsByProfile) ? incidentsByProfile : {})) {
      if (typeof count !== 'number') continue;
      keep(this.incidentsByProfile, { key: profile, value: count, max: PROFILES_KEPT_MAX });
    }
  }

  #settled(record: LedgerRecord): void {
    const [sink, id] = [textOf(record['sink']), textOf(record['id'])];
    if (sink === null || id === null) return;
    this.settledAlerts.add(`${sink} ${id}`);
    const oldest = this.settledAlerts.values().next().value;
    if (this.settledAlerts.size > SETTLED_KEPT_MAX && oldest !== undefined) this.settledAlerts.delete(oldest);
  }
}

type Entry<Value> = { readonly key: string; readonly value: Value; readonly max: number };

/** Adds at the end and drops from the beginning. */
function keep<Value>(map: Map<string, Value>, { key, value, max }: Entry<Value>): void {
  map.delete(key);
  map.set(key, value);
  const oldest = map.keys().next().value;
  if (map.size > max && oldest !== undefined) map.delete(oldest);
}

function isOutcome(value: unknown): value is Outcome {
  if (!isObject(value)) return false;
  const outcome = value as Partial<Outcome>;
  const texts = [outcome.runId, outcome.profile, outcome.reason, outcome.endedAt, outcome.detail];
  return texts.every((text) => typeof text === 'string') && isObject(outcome.usage);
}

/** Enough of its shape that what shows an incident does not fail on it. */
function isIncident(value: unknown): value is Incident {
  if (!isObject(value)) return false;
  const { id, cure, subject, what, evidence, action, times, context, trust } = value as Partial<Incident>;
  const parts = [subject, what, evidence, action, times, context, trust];
  if (typeof id !== 'string' || typeof cure !== 'string' || !parts.every(isObject)) return false;
  const { breach, usage, alsoBreached, bounds, lastDenials, topProcesses } = evidence as Partial<Incident['evidence']>;
  return isObject(breach) && isObject(usage) && [alsoBreached, bounds, lastDenials, topProcesses].every(Array.isArray);
}

/** One that an earlier version wrote has not everything that is told of an incident today. */
function completed(incident: Incident): Incident {
  const { subject, what, evidence, times, context, trust } = incident;
  return {
    ...incident,
    subject: { ...subject, command: subject.command ?? [], traceparent: subject.traceparent ?? null },
    what: { ...what, tags: what.tags ?? [] },
    evidence: {
      ...evidence,
      lastAllowed: evidence.lastAllowed ?? [],
      curve: evidence.curve ?? [],
      logLines: evidence.logLines ?? [],
    },
    times: { ...times, crossedAt: times.crossedAt ?? null },
    context: { ...context, last: context.last ?? null, closed: context.closed ?? null },
    trust: { ...trust, checkpoint: trust.checkpoint ?? null },
  };
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

function textOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}
