import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import type { RunView } from '../api/service.ts';
import { USAGE_NONE, type Usage } from '../core/outcome.ts';
import type { LedgerRecord, RecordKind } from '../core/ports/record.ts';
import { createLatenessTally } from '../warden/lateness.ts';
import { Metrics } from './metrics.ts';

const AT = '2026-10-05T08:00:00.000Z';
let seq = 0;

function recordOf(kind: RecordKind, fields: object): LedgerRecord {
  seq += 1;
  return { seq, at: AT, prev: '', kind, profile: 'rome', ...fields };
}

function viewOf(profile: string, usage: Partial<Usage>): RunView {
  return {
    runId: `r-${profile}`,
    profile,
    phase: 'running',
    admittedAt: AT,
    startedAt: AT,
    usage: { ...USAGE_NONE, ...usage },
    bounds: [{ path: 'budget.cpu', value: 10_000, unit: 'ms', rung: 'watchdog' }],
    outcome: null,
    labels: {},
    held: null,
  };
}

function metricsOf(runs: () => readonly RunView[] = () => []): Metrics {
  return new Metrics({
    version: '1.2.3',
    runs,
    ledger: () => ({ seq: 10, flushedSeq: 8, failed: false }),
    gate: async () => ({ answered: 4, refused: 2 }),
    fence: async () => ({ verifiedAtMs: Date.parse(AT), rules: 70, entries: { 'rf-learned': 3 } }),
    outbox: () => ({ waiting: 1, dead: 0, oldestMs: 2_000 }),
    approvalsPending: () => 2,
  });
}

function valueOf(text: string, series: string): number {
  const line = text.split('\n').find((each) => each.startsWith(`${series} `));
  return Number(line?.slice(series.length + 1));
}

function outcome(latencyMs: number | null, usage: Partial<Usage> = {}): object {
  return { outcome: { reason: 'budget.cpu', latencyMs, usage: { ...USAGE_NONE, ...usage } } };
}

describe('Metrics', () => {
  test('a counter goes on when its run is over', async () => {
    let runs = [viewOf('rome', { egressBytes: 700 })];
    const metrics = metricsOf(() => runs);
    const series = 'ringfence_egress_bytes_total{agent="rome"}';
    expect(valueOf(await metrics.render(), series)).toBe(700);
    runs = [];
    metrics.take(recordOf('run.ended', outcome(5, { egressBytes: 900 })));
    expect(valueOf(await metrics.render(), series)).toBe(900);
  });

  test('a bound shows the run that is nearest to it', async () => {
    const runs = [viewOf('rome', { cpuMs: 1_000 }), viewOf('rome', { cpuMs: 9_000 }), viewOf('paris', { cpuMs: 10 })];
    const text = await metricsOf(() => runs).render();
    expect(valueOf(text, 'ringfence_bound_use_ratio{agent="rome",bound="budget.cpu"}')).toBe(0.9);
    expect(valueOf(text, 'ringfence_runs{agent="rome"}')).toBe(2);
  });

  test('kills are a histogram in seconds, and an end by itself is none', async () => {
    const metrics = metricsOf();
    for (const latencyMs of [3, 40, null]) metrics.take(recordOf('run.ended', outcome(latencyMs)));
    const text = await metrics.render();
    expect(valueOf(text, 'ringfence_kill_duration_seconds_bucket{le="0.005"}')).toBe(1);
    expect(valueOf(text, 'ringfence_kill_duration_seconds_bucket{le="+Inf"}')).toBe(2);
    expect(valueOf(text, 'ringfence_runs_ended_total{agent="rome",reason="budget.cpu"}')).toBe(3);
  });

  test('how late the warden looks is a histogram that adds up over its reports', async () => {
    const metrics = metricsOf();
    const tally = createLatenessTally();
    for (const lateMs of [0.4, 1, 1.5, 180, 9_000]) tally.note(lateMs);
    for (const nowMs of [0, 5_000]) {
      const told = tally.take(nowMs);
      if (told !== null) metrics.noteLate(told);
      tally.note(2);
      // Another one so soon waits for the next report.
      expect(tally.take(nowMs + 4_999)).toBeNull();
    }
    const text = await metrics.render();
    const series = [
      'bucket{le="0.001"}',
      'bucket{le="0.002"}',
      'bucket{le="0.1"}',
      'bucket{le="5"}',
      'bucket{le="+Inf"}',
      'count',
    ];
    expect(series.map((name) => valueOf(text, `ringfence_warden_late_seconds_${name}`))).toEqual([2, 4, 4, 5, 6, 6]);
    expect(valueOf(text, 'ringfence_warden_late_seconds_sum')).toBeCloseTo(9.1849);
  });

  test('thousands of profiles do not become thousands of series', async () => {
    const metrics = metricsOf();
    for (let index = 0; index < 2_000; index += 1) {
      metrics.take({ ...recordOf('incident.opened', {}), profile: `agent-${index}` });
    }
    const lines = (await metrics.render()).split('\n').filter((line) => line.startsWith('ringfence_incidents_total{'));
    expect(lines).toHaveLength(501);
    expect(valueOf(lines.join('\n'), 'ringfence_incidents_total{agent="(other)"}')).toBe(1_500);
  });

  test('what cannot be asked is missing, not zero', async () => {
    const metrics = new Metrics({
      version: '1',
      runs: () => [],
      approvalsPending: () => 0,
      ledger: () => ({ seq: 1, flushedSeq: 1, failed: true }),
      gate: () => Promise.reject(new Error('gone')),
      fence: () => Promise.reject(new Error('gone')),
      outbox: () => ({ waiting: 0, dead: 0, oldestMs: null }),
    });
    const text = await metrics.render();
    expect(valueOf(text, 'ringfence_gate_up')).toBe(0);
    expect(valueOf(text, 'ringfence_ledger_writable')).toBe(0);
    expect(text).not.toMatch(/ringfence_fence_rules|ringfence_dns_questions/);
  });
});

describe('the rules and the dashboard', () => {
  const folder = join(import.meta.dirname, '../../monitoring');
  const known = async (): Promise<ReadonlySet<string>> => {
    const metrics = metricsOf(() => [viewOf('rome', {})]);
    const kinds: readonly RecordKind[] = ['incident.opened', 'enforcement.lost', 'drift.detected', 'ledger.checkpoint'];
    for (const kind of kinds) metrics.take(recordOf(kind, {}));
    metrics.take(recordOf('run.ended', outcome(1)));
    const names = [...(await metrics.render()).matchAll(/^(ringfence_\w+)/gm)].map((match) => match[1] ?? '');
    return new Set(names);
  };

  test.each(['ringfence.rules.yaml', 'grafana-dashboard.json'])(
    '%s names only figures that there are',
    async (file) => {
      const text = readFileSync(join(folder, file), 'utf8');
      parse(text);
      const used = [...new Set(text.match(/ringfence_\w+/g))];
      expect(used.length).toBeGreaterThan(10);
      const names = await known();
      expect(used.filter((name) => !names.has(name))).toEqual([]);
    },
  );
});
