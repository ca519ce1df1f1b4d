import { hostname } from 'node:os';
import type { Caller, Incident, IncidentSummary, ProcessEvidence } from '../api/service.ts';
import type { AlertOutbox } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger } from '../core/ports/record.ts';
import type { ProcessFacts } from '../core/ports/warden.ts';
import type { ReplayedIncident } from '../ledger/replay.ts';
import { buildIncident } from '../report/incident.ts';
import { incidentNotice } from '../report/notice.ts';
import { summaryOfIncident } from '../report/render.ts';
import type { RunState } from '../run/state.ts';

/** Incidents kept in memory for `incidents` and `why`; the ledger keeps them all. */
const INCIDENTS_MAX = 1_000;
/** Evidence waits here from the breach to the end of its run. */
const RUNS_WITH_PROCESSES_MAX = 1_000;
/** An alert older than this is given up by the outbox as well. */
const REQUEUE_MS_MAX = 72 * 3_600_000;

export type IncidentDeskOptions = {
  readonly version: string;
  readonly ledger: Ledger;
  readonly outbox: AlertOutbox;
  readonly log: Log;
  /** What an earlier daemon left in the ledger. */
  readonly past: readonly Incident[];
  readonly quarantined: readonly string[];
  /** Incidents of all time. */
  readonly countByProfile: ReadonlyMap<string, number>;
};

export type RunOrigin = {
  readonly caller: Caller;
  readonly labels: Readonly<Record<string, string>>;
  /** The place in the ledger where the run begins. */
  readonly fromSeq: number;
};

/** Turns a breach that was acted on into the record, the quarantine and the alerts, in that order. */
export class IncidentDesk {
  private readonly options: IncidentDeskOptions;
  private readonly incidents = new Map<string, Incident>();
  private readonly quarantine: Set<string>;
  private readonly countByProfile: Map<string, number>;
  private readonly processes = new Map<string, readonly ProcessFacts[]>();

  constructor(options: IncidentDeskOptions) {
    this.options = options;
    this.quarantine = new Set(options.quarantined);
    this.countByProfile = new Map(options.countByProfile);
    for (const incident of options.past) this.keep(incident);
  }

  keepProcesses(runId: string, processes: readonly ProcessFacts[]): void {
    if (this.processes.size < RUNS_WITH_PROCESSES_MAX && !this.processes.has(runId))
      this.processes.set(runId, processes);
  }

  open(state: RunState, incidentId: string, origin: RunOrigin): void {
    const { ledger, log } = this.options;
    const { spec, runId } = state;
    const busiest: readonly ProcessEvidence[] = this.processes.get(runId) ?? [];
    this.processes.delete(runId);
    const head = ledger.head();
    const earlierIncidents = this.countByProfile.get(spec.name) ?? 0;
    this.countByProfile.set(spec.name, earlierIncidents + 1);
    const incident = buildIncident({
      id: incidentId,
      host: hostname(),
      version: this.options.version,
      state,
      labels: origin.labels,
      launchedBy: origin.caller,
      process: busiest[0] ?? null,
      topProcesses: busiest,
      earlierIncidents,
      quarantined: spec.quarantine,
      trust: { fromSeq: origin.fromSeq, toSeq: head.seq, hash: head.hash },
    });
    this.keep(incident);
    const written = ledger.append({ kind: 'incident.opened', runId, profile: spec.name, sinks: spec.alerts, incident });
    if (spec.quarantine) {
      this.quarantine.add(spec.name);
      ledger.append({ kind: 'quarantine.set', runId, profile: spec.name, incidentId }).flushed.catch(() => undefined);
    }
    log.warn({ runId, profile: spec.name, incidentId, rule: incident.what.rule }, 'incident opened');
    // An alert leaves even when the ledger cannot be written: that is when somebody most needs to hear of it.
    void written.flushed.catch(() => undefined).then(() => this.alert(incident, spec.alerts));
  }

  private async alert(incident: Incident, sinks: readonly string[]): Promise<void> {
    for (const sink of sinks) {
      try {
        await this.options.outbox.enqueue({ ...incidentNotice(incident), sink });
      } catch (error) {
        this.options.log.error({ err: error, sink, incidentId: incident.id }, 'alert could not be queued');
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
    for (const { at, sinks, incident } of past) {
      if (options.nowMs - Date.parse(at) > REQUEUE_MS_MAX) continue;
      await this.alert(
        incident,
        sinks.filter((sink) => !options.settled.has(`${sink} ${incident.id}`)),
      );
    }
  }

  private keep(incident: Incident): void {
    this.incidents.set(incident.id, incident);
    const oldest = this.incidents.keys().next().value;
    if (this.incidents.size > INCIDENTS_MAX && oldest !== undefined) this.incidents.delete(oldest);
  }

  get(id: string): Incident | null {
    return this.incidents.get(id) ?? null;
  }

  list(): readonly IncidentSummary[] {
    return [...this.incidents.values()].map((incident) => ({
      ...summaryOfIncident(incident),
      quarantined: this.quarantine.has(incident.subject.profile),
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
  }
}
