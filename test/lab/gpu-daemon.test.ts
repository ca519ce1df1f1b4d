import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startDaemon, type TestDaemon } from '../support/daemon.ts';
import { buildGpuLibrary, type GpuLibrary } from '../support/gpu-library.ts';
import { leaksSince, snapshot, type Snapshot } from '../support/leak-check.ts';
import { writeProfile, writeShellProfile } from '../support/profile.ts';
import { until } from '../support/until.ts';

/**
 * What a person is told, and what becomes of a lease when the engine cannot grant: the engines of the lab know no GPU,
 * so a launch with one gets as far as they let it.
 */
const GIB = 2 ** 30;
const CARD = 'GPU-aaaaaaaa-0000-0000-0000-000000000001';
const LIMITS = 'cpu: 1, memory: 64MiB, pids: 32';

type Refusal = { readonly exitCode: number; readonly text: string };

async function refused(daemon: TestDaemon, gpu: string, more = ''): Promise<Refusal> {
  const file = writeProfile(`${daemon.folder}/wants.yaml`, { limits: `{ ${LIMITS}, gpu: ${gpu} }${more}` });
  const { exitCode, stderr } = await daemon.cli(['run', file]);
  return { exitCode, text: stderr.split('\n')[0] ?? '' };
}

describe('a host without a GPU', () => {
  let daemon: TestDaemon;
  beforeAll(async () => {
    daemon = await startDaemon();
  });
  afterAll(() => daemon.close());

  it('refuses a profile that wants one, with its place, and says so in doctor', async () => {
    const { exitCode, text } = await refused(daemon, '{ count: 1 }');
    expect(exitCode).toBe(126);
    expect(text).toMatch(
      /wants\.yaml:\d+:\d+ limits\.gpu: cannot be held on this host: no NVIDIA library on this host/,
    );
    const doctor = JSON.parse((await daemon.cli(['doctor', '--json'])).stdout) as { checks: { name: string }[] };
    expect(doctor.checks.find(({ name }) => name === 'limits.gpu')).toMatchObject({ state: 'degraded', rung: 'none' });
  });

  it('runs a profile that wants none', async () => {
    const file = writeShellProfile(`${daemon.folder}/plain.yaml`, 'echo "$NVIDIA_VISIBLE_DEVICES"');
    expect(await daemon.cli(['run', file])).toMatchObject({ exitCode: 0, stdout: 'void' });
  });
});

describe('a host with one GPU', () => {
  let daemon: TestDaemon;
  let library: GpuLibrary;
  let before: Snapshot;
  beforeAll(async () => {
    library = buildGpuLibrary();
    library.play(`device ${CARD} ${80 * GIB} mig=off`);
    daemon = await startDaemon({ config: { gpu: { library: library.path } } });
    before = await snapshot();
  });
  afterAll(async () => {
    const leaks = await leaksSince(before);
    await daemon.close();
    library.remove();
    expect(leaks).toEqual([]);
  });

  it.each([
    ['{ count: 2 }', 'limits.gpu.count: must be at most 1 free of 1 on this host, got 2'],
    ['{ devices: [GPU-9] }', `limits.gpu.devices[0]: must be a GPU of this host (it has ${CARD}), got GPU-9`],
    [
      '{ mig: 1g.10gb }',
      'limits.gpu.mig: must be left out on this host: MIG is off, or no slice was made; got 1g.10gb',
    ],
    ['{ count: 1, memory: 81GiB }', `limits.gpu.memory: must be at most 80 GiB, the memory of ${CARD}, got 81 GiB`],
  ])('refuses %s with place, value, rule and what it has', async (gpu, says) => {
    const { exitCode, text } = await refused(daemon, gpu);
    expect(exitCode).toBe(126);
    expect(text).toMatch(/wants\.yaml:\d+:\d+ /);
    expect(text).toContain(says);
  });

  it('shows its device in doctor', async () => {
    const doctor = JSON.parse((await daemon.cli(['doctor', '--json'])).stdout) as { checks: { name: string }[] };
    const checks = doctor.checks.filter(({ name }) => name.includes('gpu'));
    expect(checks).toMatchObject([
      { name: 'limits.gpu', state: 'ok', rung: 'kernel', evidence: expect.stringContaining(CARD) },
      { name: 'limits.gpu.memory', rung: 'watchdog' },
      { name: 'gpu grant' },
      { name: 'budget.gpu', rung: 'watchdog' },
    ]);
  });

  it('asks the engine for exactly this device, and has it back when the engine refuses', async () => {
    // Both get as far as the engine: what the first had leased is free again for the second.
    const reachesEngine = async (): Promise<boolean> => {
      const { exitCode, text } = await refused(daemon, '{ count: 1 }');
      return exitCode === 125 && /could not select device driver "nvidia"/.test(text);
    };
    expect(await reachesEngine()).toBe(true);
    await until('the device is free again', reachesEngine, { deadlineMs: 20_000 });
  });
});
