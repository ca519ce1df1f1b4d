import { hostname } from 'node:os';
import type { Caller, Incident, IncidentClosing, IncidentSummary, ProcessEvidence } from '../api/service.ts';
import type { Outcome, Usage } from '../core/outcome.ts';
import type { AlertDraft, AlertOutbox } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';
import type { ProcessFacts } from '../core/ports/warden.ts';
import type { OpenedLedger } from '../ledger/ledger.ts';
import type { ReplayedIncident } from '../ledger/replay.ts';
import { CURVE_NONE, finished, withSample, type Curve } from '../report/curve.ts';
import type { MiningSign } from '../gpu/pattern.ts';
import { buildIncident } from '../report/incident.ts';
import { incidentNotice, incidentTurnNotice } from '../report/notice.ts';
import { summaryOfIncident } from '../report/render.ts';
import type { RunState } from '../run/state.ts';
import type { LastWords } from './evidence.ts';

/** Incidents kept in memory for `incidents` and `why`; the ledger keeps them all. */
const INCIDENTS_MAX = 1_000;
/** Evidence waits here from the breach to the end of its run. */
const RUNS_WITH_PROCESSES_MAX = 1_000;
/** As many runs as a host can have. */
const CURVES_MAX = 10_000;
/** An alert older than this is given up by the outbox as well. */
const REQUEUE_MS_MAX = 72 * 3_600_000;

export type IncidentDeskOptions = {
  readonly version: string;
  readonly ledger: Pick<OpenedLedger, 'append' | 'head' | 'latestCheckpoint'>;
  readonly outbox: AlertOutbox;
  readonly log: Log;
  /** What an earlier daemon left in the ledger. */
  readonly past: readonly ReplayedIncident[];
  readonly quarantined: readonly string[];
  /** Incidents of all time. */
  readonly countByProfile: ReadonlyMap<string, number>;
};

export type RunOrigin = {
  readonly caller: Caller;
  readonly labels: Readonly<Record<string, string>>;
  readonly command: readonly string[];
  readonly traceparent: string | null;
  /** The place in the ledger where the run begins. */
  readonly fromSeq: number;
  readonly sign?: MiningSign | null;
} & LastWords;

type Kept = { readonly incident: Incident; readonly sinks: readonly string[] };

/**
 * Turns a breach that was acted on into the record, the quarantine and the alerts, in that order.
 *
 *   open ──release──▶ closed          the sinks hear `released`, then `resolved`
 *   open ──clean run─▶ closed         a run that was admitted after it ended by itself with code 0: `resolved`
 */
export class IncidentDesk {
  private readonly options: IncidentDeskOptions;
  private readonly incidents = new Map<string, Kept>();
  private readonly quarantine: Set<string>;
  private readonly countByProfile: Map<string, number>;
  private readonly processes = new Map<string, readonly ProcessFacts[]>();
  private readonly curves = new Map<string, Curve>();

  constructor(options: IncidentDeskOptions) {
    this.options = options;
    this.quarantine = new Set(options.quarantined);
    this.countByProfile = new Map(options.countByProfile);
    for (const { incident, sinks } of options.past) this.keep({ incident, sinks });
  }

  keepProcesses(runId: string, processes: readonly ProcessFacts[]): void {
    if (this.processes.size < RUNS_WITH_PROCESSES_MAX && !this.processes.has(runId))
      this.processes.set(runId, processes);
  }

  /** How a run comes to its end is told by a few points of what it used. */
  keepSample(runId: string, usage: Usage): void {
    if (this.curves.size < CURVES_MAX || this.curves.has(runId))
      this.curves.set(runId, withSample(this.curves.get(runId) ?? CURVE_NONE, usage));
  }

  open(state: RunState, incidentId: string, origin: RunOrigin): void {
    const { ledger, log } = this.options;
    const { spec, runId } = state;
    const busiest: readonly ProcessEvidence[] = this.processes.get(runId) ?? [];
    this.processes.delete(runId);
    const head = ledger.head();
    const earlierIncidents = this.countByProfile.get(spec.name) ?? 0;
    this.countByProfile.set(spec.name, earlierIncidents + 1);
    const checkpoint = ledger.latestCheckpoint();
    const incident = buildIncident({
      id: incidentId,
      host: hostname(),
      version: this.options.version,
      state,
      labels: origin.labels,
      command: origin.command,
      launchedBy: origin.caller,
      traceparent: origin.traceparent,
      process: busiest[0] ?? null,
      topProcesses: busiest,
      lastAllowed: origin.allowed,
      curve: finished(this.curves.get(runId) ?? CURVE_NONE, state.usage),
      logLines: origin.logLines,
      sign: origin.sign ?? null,
      earlierIncidents,
      lastIncident: this.lastOf(spec.name),
      quarantined: spec.quarantine,
      trust: {
        fromSeq: origin.fromSeq,
        toSeq: head.seq,
        hash: head.hash,
        checkpoint: checkpoint === null ? null : { seq: checkpoint.seq, note: checkpoint.note },
      },
    });
    this.keep({ incident, sinks: spec.alerts });
    const written = ledger.append({ kind: 'incident.opened', runId, profile: spec.name, sinks: spec.alerts, incident });
    if (spec.quarantine) {
      this.quarantine.add(spec.name);
      ledger.append({ kind: 'quarantine.set', runId, profile: spec.name, incidentId }).flushed.catch(() => undefined);
    }
    log.warn({ runId, profile: spec.name, incidentId, rule: incident.what.rule }, 'incident opened');
    // An alert leaves even when the ledger cannot be written: that is when somebody most needs to hear of it.
    void written.flushed.catch(() => undefined).then(() => this.send(incidentNotice(incident), spec.alerts));
  }

  private async send(notice: AlertDraft, sinks: readonly string[]): Promise<void> {
    for (const sink of sinks) {
      try {
        await this.options.outbox.enqueue({ ...notice, sink });
      } catch (error) {
        this.options.log.error({ err: error, sink, alertId: notice.id }, 'alert could not be queued');
      }
    }
  }

  /**
   * After a crash between the record of an incident and its alert the alert is queued again. One that did leave is sent
   * under the same id, which receivers drop.
   */
  async requeue(
    past: readonly ReplayedIncident[],
    options: { readonly settled: ReadonlySet<string>; readonly nowMs: number },
  ): Promise<void> {
    const isYoung = (at: string): boolean => options.nowMs - Date.parse(at) <= REQUEUE_MS_MAX;
    for (const { at, sinks, incident } of past) {
      const { closed } = incident.context;
      const opened = isYoung(at)
        ? [incidentNotice({ ...incident, context: { ...incident.context, closed: null } })]
        : [];
      const turned = closed !== null && isYoung(closed.at) ? turnsOf(incident, closed) : [];
      for (const notice of [...opened, ...turned]) {
        await this.send(
          notice,
          sinks.filter((sink) => !options.settled.has(`${sink} ${notice.id}`)),
        );
      }
    }
  }

  /** A run is over. One that was admitted after an incident of its agent and ended well ends that incident. */
  runEnded(outcome: Outcome, admittedSeq: number): void {
    this.curves.delete(outcome.runId);
    this.processes.delete(outcome.runId);
    if (outcome.reason !== 'exited' || outcome.exitCode !== 0) return;
    const ended = this.openOf(outcome.profile).filter(({ incident }) => incident.trust.toSeq < admittedSeq);
    this.close(ended, { how: 'clean-run', by: null });
  }

  hasOpen(profile: string): boolean {
    return this.openOf(profile).length > 0;
  }

  private openOf(profile: string): readonly Kept[] {
    return [...this.incidents.values()].filter(
      ({ incident: { subject, context } }) => subject.profile === profile && context.closed === null,
    );
  }

  private lastOf(profile: string): Incident['context']['last'] {
    const last = [...this.incidents.values()].findLast(({ incident }) => incident.subject.profile === profile);
    return last === undefined ? null : { id: last.incident.id, at: last.incident.times.detectedAt };
  }

  private close(ended: readonly Kept[], how: Omit<IncidentClosing, 'at'>): void {
    for (const { incident, sinks } of ended) {
      const closed = { at: new Date().toISOString(), ...how };
      const { id, context, subject } = incident;
      this.incidents.set(id, { incident: { ...incident, context: { ...context, quarantined: false, closed } }, sinks });
      const draft = { kind: 'incident.closed' as const, profile: subject.profile, incidentId: id, ...how };
      const { flushed } = this.options.ledger.append(draft);
      void flushed
        .catch(() => undefined)
        .then(async () => {
          for (const notice of turnsOf(incident, closed)) await this.send(notice, sinks);
        });
    }
  }

  private keep(kept: Kept): void {
    this.incidents.set(kept.incident.id, kept);
    const oldest = this.incidents.keys().next().value;
    if (this.incidents.size > INCIDENTS_MAX && oldest !== undefined) this.incidents.delete(oldest);
  }

  get(id: string): Incident | null {
    return this.incidents.get(id)?.incident ?? null;
  }

  list(): readonly IncidentSummary[] {
    return [...this.incidents.values()].map(({ incident }) => ({
      ...summaryOfIncident(incident),
      quarantined: incident.context.closed === null && this.quarantine.has(incident.subject.profile),
    }));
  }

  isQuarantined(profile: string): boolean {
    return this.quarantine.has(profile);
  }

  /** What a later daemon must know of the past when old files of the ledger are gone. */
  carried(): Readonly<Record<string, unknown>> {
    return {
      quarantined: Object.fromEntries([...this.quarantine].map((profile) => [profile, {}])),
      incidentsByProfile: Object.fromEntries(this.countByProfile),
    };
  }

  release(profile: string, caller: Caller): void {
    this.quarantine.delete(profile);
    this.options.ledger.append({ kind: 'quarantine.released', profile, caller }).flushed.catch(() => undefined);
    this.close(this.openOf(profile), { how: 'released', by: `user ${caller.uid}` });
  }
}

/** What the sinks hear when it is over. */
function turnsOf(incident: Incident, { at, how, by }: IncidentClosing): readonly AlertDraft[] {
  const resolved = incidentTurnNotice(incident, { kind: 'resolved', at, by });
  return how === 'released' ? [incidentTurnNotice(incident, { kind: 'released', at, by }), resolved] : [resolved];
}
