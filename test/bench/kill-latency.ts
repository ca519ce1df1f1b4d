/**
 * How long a run lives after it has crossed its CPU budget, and after its first forbidden name, on real cgroups and
 * processes without an engine. Run by hand as root: `node test/bench/kill-latency.ts [runs]`.
 *
 * `overshoot` is CPU time used beyond the budget until the last process was gone: with one process that spins, it is
 * also the time from the crossing to the end, as the kernel counted it and not as the warden says.
 */
import { once } from 'node:events';
import { bootTimeMs } from '../../src/kernel/libc.ts';
import { launch, makeRun, startFixture, stopFixture, untilReport } from '../support/warden-run.ts';
import type { WardenFixture } from '../support/warden-run.ts';

const runs = Number(process.argv[2] ?? 20);
const CPU_LIMIT_MS = 300;
const SPIN = 'i=0; while [ $i -lt 60000000 ]; do i=$((i+1)); done';
const DENIAL = {
  address: '203.0.113.2',
  suppressed: 0,
  denial: {
    kind: 'name',
    at: new Date().toISOString(),
    destination: 'pool.example',
    port: null,
    protocol: 'dns',
    rule: 'egress',
    explanation: 'no rule of the profile names it',
  },
};

const fixture = await startFixture();
try {
  const columns = new Map<string, number[]>();
  for (let count = 0; count < runs; count += 1) {
    add(columns, await crossCpuBudget(fixture));
    add(columns, await askForbiddenName(fixture));
  }
  process.stdout.write(`${runs} runs each; milliseconds\n`);
  for (const [name, values] of columns) {
    const sorted = values.toSorted((a, b) => a - b);
    const p50 = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
    const max = sorted.at(-1) ?? Number.NaN;
    process.stdout.write(`${name.padEnd(44)} p50 ${p50.toFixed(1).padStart(7)}   max ${max.toFixed(1).padStart(7)}\n`);
  }
} finally {
  await stopFixture(fixture);
}

async function crossCpuBudget(on: WardenFixture): Promise<Record<string, number>> {
  const run = await makeRun('all');
  try {
    const budgets = [{ budget: 'cpu', limitMs: CPU_LIMIT_MS, action: 'kill' }] as const;
    await launch(on, run, { script: SPIN, plan: { budgets } });
    const { times, usage } = await untilReport(on, 'emptied', run.runId);
    return {
      'CPU budget: overshoot until dead': usage.cpuMs - CPU_LIMIT_MS,
      'CPU budget: detected to signalled': (times.signalledMs ?? Number.NaN) - (times.detectedMs ?? Number.NaN),
      'CPU budget: detected to empty': (times.emptyMs ?? Number.NaN) - (times.detectedMs ?? Number.NaN),
    };
  } finally {
    await run.release();
    on.warden.send({ kind: 'unwatch', runId: run.runId });
  }
}

async function askForbiddenName(on: WardenFixture): Promise<Record<string, number>> {
  const run = await makeRun('all');
  try {
    const budgets = [{ budget: 'denials', count: 0, windowMs: null, action: 'kill' }] as const;
    const child = await launch(on, run, { script: 'sleep 30', plan: { budgets } });
    await on.warden.sample(run.runId);
    const exited = once(child, 'exit');
    const toldAtMs = bootTimeMs();
    on.warden.feedSocket.write(`${JSON.stringify(DENIAL)}\n`);
    await exited;
    return { 'forbidden name: told by the gate to dead': bootTimeMs() - toldAtMs };
  } finally {
    await untilReport(on, 'emptied', run.runId);
    await run.release();
    on.warden.send({ kind: 'unwatch', runId: run.runId });
  }
}

function add(columns: Map<string, number[]>, values: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(values)) columns.set(name, [...(columns.get(name) ?? []), value]);
}
