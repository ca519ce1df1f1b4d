import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GpuBounds, WardenRequest, WatchPlan } from '../../src/core/ports/warden.ts';
import type { Ledger, RecordDraft } from '../../src/core/ports/record.ts';
import type { Gpus } from '../../src/core/ports/gpu.ts';
import { GpuDesk, type GpuRun } from '../../src/daemon/gpu-desk.ts';
import { startGpuClient } from '../../src/gpu/client.ts';
import type { GpuSourcePlan } from '../../src/gpu/source.ts';
import { bootTimeMs } from '../../src/kernel/libc.ts';
import type { GpuGrant, Spec } from '../../src/profile/spec.ts';
import { specOf } from '../../src/run/testing.ts';
import { SILENT } from '../support/conformance-gpu.ts';
import { buildGpuLibrary } from '../support/gpu-library.ts';
import { buildGpuWorld } from '../support/gpu-world.ts';
import { until } from '../support/until.ts';
import { launch, makeRun, startFixture, stopFixture, untilReport } from '../support/warden-run.ts';
import type { FixtureRun, WardenFixture } from '../support/warden-run.ts';

/**
 * Everything between the driver and the kill is real: a library, the process that reads it, the desk, the warden, the
 * cgroups and the processes in them. Only the driver's answers are played, and no engine grants a device.
 */
const GIB = 2 ** 30;
type StandIn = { readonly source: GpuSourcePlan; play(...lines: readonly string[]): void; remove(): void };
type Kind = {
  readonly name: string;
  readonly ids: readonly [string, string];
  readonly fault: string;
  build(): StandIn;
};
const KINDS: readonly Kind[] = [
  {
    name: 'NVIDIA’s library',
    ids: ['GPU-aaaaaaaa-0000-0000-0000-000000000001', 'GPU-aaaaaaaa-0000-0000-0000-000000000002'],
    fault: 'crash memory',
    build: () => {
      const library = buildGpuLibrary();
      return { ...library, source: { kind: 'nvml', library: library.path } };
    },
  },
  {
    name: 'the kernel',
    ids: ['pci:0000:03:00.0', 'pci:0000:04:00.0'],
    fault: 'hang memory',
    build: () => {
      const world = buildGpuWorld();
      return { ...world, source: { kind: 'drm', root: world.root } };
    },
  },
];
const FACT = { deadlineMs: 20_000 };
const SLEEP = 'sleep 60';
const HELD: GpuBounds = { memoryBytesMax: 8 * GIB, hostMemoryBytesMax: 8 * GIB, silentMsMax: 30_000 };

function wanting(gpu: Partial<GpuGrant> | null): Spec {
  const spec = specOf();
  const grant = { count: null, vendor: null, devices: [], mig: null, memoryBytesMax: null, share: false };
  return { ...spec, limits: { ...spec.limits, gpu: gpu === null ? null : { ...grant, ...gpu } } };
}

describe.each(KINDS)('a run with a GPU, as told by $name', ({ ids, fault: death, ...stand }) => {
  const [CARD, OTHER] = ids;
  const CARDS = [`device ${CARD} ${80 * GIB} used=${GIB} percent=50`, `device ${OTHER} ${80 * GIB}`];
  let fixture: WardenFixture;
  let library: StandIn;
  let desk: GpuDesk;
  let gpus: Gpus;
  let runs: FixtureRun[];
  let states: Map<string, GpuRun['state']>;
  let records: RecordDraft[];
  let sent: WardenRequest[];

  const openDesk = async (): Promise<void> => {
    const ledger: Pick<Ledger, 'append'> = {
      append: (draft) => {
        records.push(draft);
        return { seq: 1, hash: '', flushed: Promise.resolve() };
      },
    };
    desk = new GpuDesk({
      file: join(fixture.directory, 'gpu', 'runs.json'),
      warden: {
        send: (request) => {
          sent.push(request);
          fixture.warden.send(request);
        },
      },
      ledger,
      log: SILENT,
      absent: null,
      requestFor: () => 'cdi',
      mpsPids: () => [],
      now: bootTimeMs,
    });
    gpus = await startGpuClient({
      source: library.source,
      log: SILENT,
      pace: { watchingMs: 100, idleMs: 100, readingMsMax: 1_000, restartMsMin: 50 },
      onReading: (reading) => desk.take(reading),
    });
    desk.connect({
      gpus,
      runOf: (runId) => {
        const state = states.get(runId);
        return state === undefined ? null : { profile: 'probe', state, trafficBytes: 0, denied: [] };
      },
    });
  };

  beforeEach(async () => {
    fixture = await startFixture();
    library = stand.build();
    library.play(...CARDS);
    [runs, states, records, sent] = [[], new Map(), [], []];
    await openDesk();
  });
  afterEach(async () => {
    await gpus.close();
    library.remove();
    const released = await Promise.allSettled(runs.map((run) => run.release()));
    for (const { runId } of runs) fixture.warden.send({ kind: 'unwatch', runId });
    rmSync(join(fixture.directory, 'gpu'), { recursive: true, force: true });
    await stopFixture(fixture);
    for (const result of released) if (result.status === 'rejected') throw result.reason;
  });

  /** Leased, watched and running; the number is that of its process. */
  const start = async (
    spec: Spec,
    plan: Partial<WatchPlan>,
    script = SLEEP,
  ): Promise<{ readonly run: FixtureRun; readonly runId: string; readonly pid: number }> => {
    const run = await makeRun('all');
    runs.push(run);
    const { runId } = run;
    states.set(runId, 'alive');
    desk.lease(runId, spec);
    const { pid } = await launch(fixture, run, { script, plan });
    return { run, runId, pid };
  };
  const breachOf = async (runId: string): Promise<unknown> => {
    const { breach } = await untilReport(fixture, 'emptied', runId);
    return breach;
  };
  it('is killed when it has used its GPU-seconds, and its twin at half of them ends by itself', async () => {
    const plan = { gpu: HELD, budgets: [{ budget: 'gpu', limitMs: 1_000, action: 'kill' }] } as const;
    const busy = await start(wanting({ count: 1 }), plan);
    const twin = await start(wanting({ count: 1 }), plan, 'sleep 2.5');
    library.play(
      ...CARDS,
      `process ${CARD} ${busy.pid} ${GIB}`,
      `busy ${CARD} ${busy.pid} 80`,
      `process ${OTHER} ${twin.pid} ${GIB}`,
      `busy ${OTHER} ${twin.pid} 10`,
    );
    expect(await breachOf(busy.runId)).toMatchObject({
      reason: 'budget.gpu',
      rule: 'budget.gpu',
      limit: 1_000,
      unit: 'ms',
    });
    const { breach, usage } = await untilReport(fixture, 'emptied', twin.runId);
    expect(breach).toBeNull();
    expect(usage.gpuMs).toBeGreaterThan(0);
    expect(usage).toMatchObject({ gpuMemoryBytes: GIB, gpuMemoryBytesPeak: GIB });
  });

  it('is killed when it holds more memory than its limit, and its twin at the limit is not', async () => {
    const over = await start(wanting({ count: 1 }), { gpu: HELD });
    const twin = await start(wanting({ count: 1 }), { gpu: HELD }, 'sleep 2.5');
    library.play(...CARDS, `process ${CARD} ${over.pid} ${8 * GIB + 1}`, `process ${OTHER} ${twin.pid} ${8 * GIB}`);
    expect(await breachOf(over.runId)).toMatchObject({
      reason: 'limit.gpu',
      rule: 'limits.gpu.memory',
      measured: 8 * GIB + 1,
      limit: 8 * GIB,
      unit: 'bytes',
    });
    expect(await breachOf(twin.runId)).toBeNull();
  });

  // NVIDIA's library tells of no memory of the host.
  it.each(ids.slice(0, 1).filter((id) => id.startsWith('pci:')))(
    'is killed when its driver holds more memory of the host for it than it may have, and its twin is not (%s)',
    async () => {
      const over = await start(wanting({ count: 1 }), { gpu: HELD });
      const twin = await start(wanting({ count: 1 }), { gpu: HELD }, 'sleep 2.5');
      library.play(
        ...CARDS,
        `process ${CARD} ${over.pid} 1 drm-resident-gtt=${8 * GIB + 1}`,
        `process ${OTHER} ${twin.pid} 1 drm-resident-gtt=${8 * GIB}`,
      );
      const expected = { reason: 'limit.gpu', rule: 'limits.memory', measured: 8 * GIB + 1, limit: 8 * GIB };
      expect(await breachOf(over.runId)).toMatchObject(expected);
      expect(await breachOf(twin.runId)).toBeNull();
    },
  );

  it('is killed on a device that it was not granted, with or without one of its own', async () => {
    const without = await start(wanting(null), { gpu: null });
    const other = await start(wanting({ devices: [CARD] }), { gpu: HELD });
    const twin = await start(wanting({ devices: [OTHER] }), { gpu: HELD }, 'sleep 2.5');
    library.play(
      ...CARDS,
      `process ${OTHER} ${without.pid} 1`,
      `process ${CARD} ${other.pid} 1`,
      `process ${OTHER} ${other.pid} 1`,
      `process ${OTHER} ${twin.pid} 1`,
    );
    const expected = { reason: 'limit.gpu', rule: 'limits.gpu', measured: 1, limit: 0, unit: 'devices' };
    expect(await breachOf(without.runId)).toMatchObject(expected);
    expect(await breachOf(other.runId)).toMatchObject(expected);
    expect(await breachOf(twin.runId)).toBeNull();
  });

  it.each(['hang memory', 'error memory 15', `error memory 15 ${CARD}`])(
    'is ended when nothing is told of its device (%s), and goes on where its profile says so',
    async (fault) => {
      const held = await start(wanting({ devices: [CARD] }), { gpu: { ...HELD, silentMsMax: 1_000 } });
      const twin = await start(wanting({ devices: [OTHER] }), { gpu: { ...HELD, silentMsMax: null } }, 'sleep 2.5');
      library.play(...CARDS, fault);
      expect(await breachOf(held.runId)).toMatchObject({
        reason: 'enforcement.lost',
        rule: 'on.telemetry.lost',
        limit: 1_000,
        unit: 'ms',
      });
      expect(await breachOf(twin.runId)).toBeNull();
    },
  );

  it('survives a reader that dies and is started again in time', async () => {
    const { runId } = await start(wanting({ count: 1 }), { gpu: { ...HELD, silentMsMax: 8_000 } }, 'sleep 4');
    library.play(...CARDS, death);
    await until('the reader is gone', () => gpus.problem() !== null, FACT);
    library.play(...CARDS);
    expect(await breachOf(runId)).toBeNull();
  });

  it('keeps its device from others until the driver lists nothing of it any more', async () => {
    const { runId, pid } = await start(wanting({ devices: [CARD] }), { gpu: HELD }, 'sleep 2');
    const lines = [...CARDS, `process ${CARD} ${pid} ${GIB}`];
    library.play(...lines);
    await until('the driver lists it', () => desk.state().reading?.devices[0]?.processes[0]?.runId === runId, FACT);
    expect(desk.refusal(wanting({ devices: [CARD] }))?.message).toMatch(/^must be free/);
    await untilReport(fixture, 'emptied', runId);
    states.set(runId, 'over');
    // The driver still lists the process, which is gone: a breach, and a device for nobody.
    const breach = await until('the breach', () => records.find(({ kind }) => kind === 'breach'), FACT);
    expect(breach).toMatchObject({ runId, pids: [pid], breach: { reason: 'limit.gpu', rule: 'limits.gpu' } });
    expect(desk.state().suspect).toEqual([CARD]);
    expect(desk.refusal(wanting({ devices: [CARD] }))?.message).toMatch(/^must be free/);
    expect(desk.refusal(wanting({ devices: [OTHER] }))).toBeNull();
    library.play(...CARDS);
    await until('the device is free', () => desk.refusal(wanting({ devices: [CARD] })) === null, FACT);
  });

  it('gives its device back when it is over', async () => {
    const { runId, pid } = await start(wanting({ count: 2 }), { gpu: HELD }, 'sleep 1');
    library.play(...CARDS, `process ${CARD} ${pid} ${GIB}`);
    expect(desk.refusal(wanting({ count: 1 }))?.message).toBe('must be at most 0 free of 2 on this host, got 1');
    await untilReport(fixture, 'emptied', runId);
    library.play(...CARDS);
    states.set(runId, 'over');
    await until('both are free', () => desk.refusal(wanting({ count: 2 })) === null, { deadlineMs: 3_000 });
    expect(records).toEqual([]);
  });

  it('keeps its lease and its GPU-seconds when the daemon starts again', async () => {
    const spec = wanting({ devices: [CARD] });
    const { runId, pid } = await start(spec, { gpu: HELD });
    library.play(...CARDS, `process ${CARD} ${pid} ${GIB}`, `busy ${CARD} ${pid} 80`);
    const kept = (): number => {
      const text = readFileSync(join(fixture.directory, 'gpu', 'runs.json'), 'utf8');
      return (JSON.parse(text) as Record<string, { readonly busyMs: number }>)[runId]?.busyMs ?? 0;
    };
    const before = await until('some GPU time is kept', () => (kept() > 300 ? kept() : null), FACT);
    await gpus.close();
    sent.length = 0;
    await openDesk();
    expect(desk.refusal(wanting({ devices: [CARD] }))).toBeNull();
    desk.adopt(runId, spec);
    expect(desk.refusal(wanting({ devices: [CARD] }))?.message).toMatch(/^must be free/);
    const told = await until('news of the run', () => sent.find((each) => each.kind === 'gpu'), FACT);
    expect(told).toMatchObject({ kind: 'gpu', runId });
    expect(told.kind === 'gpu' ? told.busyMs : 0).toBeGreaterThanOrEqual(before);
    expect(() => desk.adopt('r000000000000', spec)).toThrow(/not known which GPUs/);
    fixture.warden.send({ kind: 'kill', runId, reason: 'killed' });
    await untilReport(fixture, 'emptied', runId);
  });
});
