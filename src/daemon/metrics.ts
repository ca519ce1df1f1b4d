import type { RunView } from '../api/service.ts';
import type { Outcome, Usage } from '../core/outcome.ts';
import type { LedgerRecord } from '../core/ports/record.ts';
import type { Lateness } from '../core/ports/warden.ts';
import { renderMetrics, type Family, type Labels, type Sample } from '../report/prometheus.ts';
import { usesOf } from '../report/use.ts';
import { LATENESS_MS } from '../warden/lateness.ts';

/**
 * The figures of this daemon. Counters are fed by the ledger's own records, so that what is counted is what is on
 * record; levels are asked for when somebody scrapes.
 */
export type MetricsSources = {
  readonly version: string;
  readonly runs: () => readonly RunView[];
  readonly ledger: () => { readonly seq: number; readonly flushedSeq: number; readonly failed: boolean };
  readonly gate: () => Promise<Readonly<Record<string, number>> | null>;
  readonly fence: () => Promise<FenceFigures | null>;
  readonly outbox: () => { readonly waiting: number; readonly dead: number; readonly oldestMs: number | null };
  readonly approvalsPending: () => number;
};

export type FenceFigures = {
  /** When the base rules were last read back and were right, in milliseconds since 1970; null: never. */
  readonly verifiedAtMs: number | null;
  readonly rules: number;
  readonly entries: Readonly<Record<string, number>>;
};

/** Profiles told apart; the rest share one line, so that a host with many cannot flood the scraper. */
const AGENTS_MAX = 500;
const OTHER_AGENTS = '(other)';
/** From the target of a few milliseconds to what a sick host needs. */
const KILL_SECONDS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];

/** What a run adds up: name of the metric, its help, how to read it. */
const AMOUNTS: readonly { readonly name: string; readonly help: string; readonly of: (usage: Usage) => number }[] = [
  { name: 'cpu_seconds', help: 'CPU time used.', of: (usage) => usage.cpuMs / 1000 },
  { name: 'egress_bytes', help: 'Bytes sent, as the kernel counted them.', of: (usage) => usage.egressBytes },
  { name: 'ingress_bytes', help: 'Bytes received.', of: (usage) => usage.ingressBytes },
  { name: 'connections', help: 'Connections made.', of: (usage) => usage.connections },
  { name: 'denials', help: 'Refused attempts to leave.', of: (usage) => usage.denials },
  { name: 'oom_kills', help: 'Processes that the kernel killed for memory.', of: (usage) => usage.oomKills },
  { name: 'pids_refusals', help: 'Processes that the kernel refused.', of: (usage) => usage.pidsRefusals },
];

export class Metrics {
  private readonly sources: MetricsSources;
  private readonly counters = new Map<string, Map<string, { readonly labels: Labels; value: number }>>();
  private readonly agents = new Set<string>();
  private readonly kills = KILL_SECONDS.map((atMost) => ({ atMost, count: 0 }));
  private killSum = 0;
  private killCount = 0;
  private checkpointAtMs: number | null = null;
  private readonly late = { counts: LATENESS_MS.map(() => 0), count: 0, sumMs: 0 };
  private readonly startedAtMs = Date.now();

  constructor(sources: MetricsSources) {
    this.sources = sources;
    // A counter that appears with its first event has no increase yet, so a rule over it would miss just that one.
    for (const name of ['drift', 'enforcement_lost']) this.add(name, {}, 0);
  }

  /** For every record that is on disk. */
  take(record: LedgerRecord): void {
    const agent = this.agentOf(record.profile);
    switch (record.kind) {
      case 'run.ended':
        this.ended(agent, record['outcome'] as Outcome);
        break;
      case 'run.refused':
        this.count('launches_refused', { code: wordOf(record['code']) });
        break;
      case 'breach':
        this.count('breaches', { agent, rule: wordOf((record['breach'] as { rule?: unknown } | undefined)?.rule) });
        break;
      case 'incident.opened':
        this.count('incidents', { agent });
        break;
      case 'approval.decided':
        this.count('approvals', { decision: wordOf(record['decision']) });
        break;
      case 'alert.delivered':
        this.count('alert_deliveries', { sink: wordOf(record['sink']), result: 'delivered' });
        break;
      case 'alert.failed':
        this.count('alert_deliveries', {
          sink: wordOf(record['sink']),
          result: record['final'] === true ? 'given-up' : 'failed',
        });
        break;
      case 'drift.detected':
      case 'enforcement.lost':
        this.count(record.kind === 'drift.detected' ? 'drift' : 'enforcement_lost', {});
        break;
      case 'ledger.checkpoint':
        this.checkpointAtMs = Date.parse(record.at);
        break;
      default:
    }
  }

  /** How late the warden came to its looks. */
  noteLate({ counts, count, sumMs }: Lateness): void {
    this.late.count += count;
    this.late.sumMs += sumMs;
    for (const [place, more] of counts.entries()) this.late.counts[place] = (this.late.counts[place] ?? 0) + more;
  }

  async render(): Promise<string> {
    const [gate, fence] = await Promise.all([
      this.sources.gate().catch(() => null),
      this.sources.fence().catch(() => null),
    ]);
    // One that is over but not cleaned up is counted by its record.
    const runs = this.sources.runs().filter(({ outcome }) => outcome === null);
    return renderMetrics([
      gauge('ringfence_info', 'The version that runs.', [{ labels: { version: this.sources.version }, value: 1 }]),
      gauge('ringfence_start_time_seconds', 'When the daemon started.', one(this.startedAtMs / 1000)),
      ...this.runFamilies(runs),
      ...this.countedFamilies(),
      this.killFamily(),
      this.lateFamily(),
      ...this.ledgerFamilies(),
      ...this.outboxFamilies(),
      gauge('ringfence_approvals_pending', 'Requests that wait for a person.', one(this.sources.approvalsPending())),
      ...gateFamilies(gate),
      ...fenceFamilies(fence),
    ]);
  }

  private runFamilies(runs: readonly RunView[]): readonly Family[] {
    const byAgent = new Map<string, RunView[]>();
    for (const run of runs) {
      const agent = this.agentOf(run.profile);
      byAgent.set(agent, [...(byAgent.get(agent) ?? []), run]);
    }
    const ratios = new Map<string, Sample>();
    for (const [agent, own] of byAgent) {
      for (const { path, ratio } of own.flatMap((run) => usesOf(run))) {
        const key = `${agent} ${path}`;
        const highest = Math.max(ratio, ratios.get(key)?.value ?? 0);
        ratios.set(key, { labels: { agent, bound: path }, value: highest });
      }
    }
    const alive = [...byAgent].map(([agent, own]) => ({ labels: { agent }, value: own.length }));
    return [
      gauge('ringfence_runs', 'Runs that are alive.', alive),
      gauge('ringfence_bound_use_ratio', 'Use of a bound, of the run that is nearest to it.', [...ratios.values()]),
      ...AMOUNTS.map(({ name, help, of }) => {
        const totals = new Map(this.valuesOf(name).map(({ labels, value }) => [labels['agent'] ?? '', value]));
        for (const [agent, own] of byAgent) {
          totals.set(agent, (totals.get(agent) ?? 0) + own.reduce((sum, run) => sum + of(run.usage), 0));
        }
        const samples = [...totals].map(([agent, value]) => ({ labels: { agent }, value }));
        return counter(`ringfence_${name}_total`, help, samples);
      }),
    ];
  }

  private ended(agent: string, outcome: Outcome): void {
    this.count('runs_ended', { agent, reason: wordOf(outcome.reason) });
    for (const { name, of } of AMOUNTS) this.add(name, { agent }, of(outcome.usage));
    if (outcome.latencyMs === null) return;
    const seconds = outcome.latencyMs / 1000;
    this.killSum += seconds;
    this.killCount += 1;
    for (const bucket of this.kills) if (seconds <= bucket.atMost) bucket.count += 1;
  }

  private countedFamilies(): readonly Family[] {
    const counted: readonly (readonly [name: string, help: string])[] = [
      ['runs_ended', 'Runs that are over, by the reason of their end.'],
      ['launches_refused', 'Launches that were refused, by the code of the error.'],
      ['breaches', 'Bounds that were crossed, by rule.'],
      ['incidents', 'Incidents that were opened.'],
      ['approvals', 'Requests that a person decided.'],
      ['alert_deliveries', 'Attempts to deliver an alert, by their result.'],
      ['drift', 'Changes from outside that were found.'],
      ['enforcement_lost', 'Times at which something that holds a bound was gone.'],
    ];
    return counted.map(([name, help]) => counter(`ringfence_${name}_total`, help, this.valuesOf(name)));
  }

  private killFamily(): Family {
    const histogram = { labels: {}, buckets: this.kills, sum: this.killSum, count: this.killCount };
    const help = 'From the detection of a breach to the empty cgroup.';
    return { name: 'ringfence_kill_duration_seconds', help, type: 'histogram', histograms: [histogram] };
  }

  private lateFamily(): Family {
    const { counts, count, sumMs } = this.late;
    let below = 0;
    const buckets = LATENESS_MS.map((atMost, place) => ({
      atMost: atMost / 1000,
      count: (below += counts[place] ?? 0),
    }));
    const help = 'How late the warden came to its looks at the runs.';
    const histogram = { labels: {}, buckets, sum: sumMs / 1000, count };
    return { name: 'ringfence_warden_late_seconds', help, type: 'histogram', histograms: [histogram] };
  }

  private ledgerFamilies(): readonly Family[] {
    const { seq, flushedSeq, failed } = this.sources.ledger();
    const checkpoint = this.checkpointAtMs === null ? [] : one(this.checkpointAtMs / 1000);
    return [
      counter('ringfence_ledger_records_total', 'Records of all time.', one(seq)),
      gauge('ringfence_ledger_lag_records', 'Records that are not on disk yet.', one(seq - flushedSeq)),
      gauge('ringfence_ledger_writable', '1 as long as the ledger can be written.', one(failed ? 0 : 1)),
      gauge('ringfence_ledger_checkpoint_timestamp_seconds', 'The last signed checkpoint.', checkpoint),
    ];
  }

  private outboxFamilies(): readonly Family[] {
    const { waiting, dead, oldestMs } = this.sources.outbox();
    return [
      gauge('ringfence_alerts_waiting', 'Alerts in the spool.', one(waiting)),
      gauge('ringfence_alerts_dead', 'Alerts that were given up and wait for a person.', one(dead)),
      gauge('ringfence_alerts_oldest_seconds', 'Age of the oldest alert that waits.', one((oldestMs ?? 0) / 1000)),
    ];
  }

  private agentOf(profile: unknown): string {
    const name = wordOf(profile);
    if (this.agents.has(name)) return name;
    if (this.agents.size >= AGENTS_MAX) return OTHER_AGENTS;
    this.agents.add(name);
    return name;
  }

  private count(name: string, labels: Labels): void {
    this.add(name, labels, 1);
  }

  private add(name: string, labels: Labels, value: number): void {
    const series = this.counters.get(name) ?? new Map<string, { readonly labels: Labels; value: number }>();
    this.counters.set(name, series);
    const key = Object.values(labels).join(' ');
    const known = series.get(key);
    if (known === undefined) series.set(key, { labels, value });
    else known.value += value;
  }

  private valuesOf(name: string): readonly Sample[] {
    return [...(this.counters.get(name)?.values() ?? [])];
  }
}

function gateFamilies(gate: Readonly<Record<string, number>> | null): readonly Family[] {
  const verdicts = Object.entries(gate ?? {}).map(([verdict, value]) => ({ labels: { verdict }, value }));
  return [
    gauge('ringfence_gate_up', '1 when the DNS gate answers.', one(gate === null ? 0 : 1)),
    counter('ringfence_dns_questions_total', 'Questions to the DNS gate since it started, by verdict.', verdicts),
  ];
}

function fenceFamilies(fence: FenceFigures | null): readonly Family[] {
  if (fence === null) return [];
  const entries = Object.entries(fence.entries).map(([set, value]) => ({ labels: { set }, value }));
  const verified = fence.verifiedAtMs === null ? [] : one(fence.verifiedAtMs / 1000);
  return [
    gauge('ringfence_fence_rules', 'Base rules as read back.', one(fence.rules)),
    gauge('ringfence_fence_entries', 'Entries of each set.', entries),
    gauge('ringfence_enforcement_verified_timestamp_seconds', 'When the rules were last found right.', verified),
  ];
}

function gauge(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, help, type: 'gauge', samples };
}

function counter(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, help, type: 'counter', samples };
}

function one(value: number): readonly Sample[] {
  return [{ labels: {}, value }];
}

/** Names and codes of ours are short words; whatever else a record holds is cut to one. */
function wordOf(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, 64) : 'unknown';
}
