import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startDaemon, type TestDaemon } from '../support/daemon.ts';
import { buildGpuLibrary, type GpuLibrary } from '../support/gpu-library.ts';
import { buildGpuWorld, type GpuWorld } from '../support/gpu-world.ts';
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

const [RADEON, ARC, LOCKED] = ['pci:0000:03:00.0', 'pci:0000:04:00.0', 'pci:0000:05:00.0'];
const GROUP = 4242;
const FACT = { deadlineMs: 60_000 };
/** The compute interface is there, and nobody uses it. */
const COMPUTE = `compute ${RADEON} 4194303 0`;
const CARDS = [
  `device ${RADEON} ${24 * GIB} name=Radeon group=${GROUP}`,
  `device ${ARC} ${16 * GIB} driver=xe`,
  // Of root alone.
  `device ${LOCKED} ${16 * GIB} driver=xe group=0`,
  COMPUTE,
];

describe('a host with cards of AMD and Intel, and one of NVIDIA', () => {
  let daemon: TestDaemon;
  let world: GpuWorld;
  let library: GpuLibrary;
  let before: Snapshot;
  beforeAll(async () => {
    world = buildGpuWorld({ realNodes: true });
    world.play(...CARDS);
    library = buildGpuLibrary();
    library.play(`device ${CARD} ${80 * GIB} mig=off`);
    daemon = await startDaemon({ config: { gpu: { root: world.root, library: library.path } } });
    before = await snapshot();
  });
  afterAll(async () => {
    const leaks = await leaksSince(before);
    await daemon.close();
    world.remove();
    library.remove();
    expect(leaks).toEqual([]);
  });

  const write = (name: string, gpu: string | null, script: string): string =>
    writeShellProfile(`${daemon.folder}/${name}.yaml`, script, {
      name,
      limits: `{ ${LIMITS}${gpu === null ? '' : `, gpu: ${gpu}`} }`,
      on: '{ quarantine: false }',
    });
  const start = async (name: string, gpu: string | null): Promise<{ readonly runId: string; readonly pid: number }> => {
    const { stdout, stderr } = await daemon.cli(['run', '-d', write(name, gpu, 'exec sleep 60')]);
    const runId = stdout.trim();
    expect(stderr).toBe('');
    const pid = await until('a process of the run', () => pidIn(runId), FACT);
    return { runId, pid };
  };
  const outcomeOf = async (runId: string): Promise<unknown> =>
    JSON.parse((await daemon.cli(['wait', runId, '--json'])).stdout) as unknown;

  it('lists each in doctor with its vendor, its driver and what holds its memory', async () => {
    const doctor = JSON.parse((await daemon.cli(['doctor', '--json'])).stdout) as { checks: { name: string }[] };
    expect(doctor.checks.filter(({ name }) => name.startsWith('gpu pci:'))).toMatchObject([
      {
        name: `gpu ${RADEON}`,
        state: 'ok',
        rung: 'watchdog',
        evidence: expect.stringMatching(/^amd, Radeon, 24 GiB, driver amdgpu; memory: /),
      },
      {
        name: `gpu ${ARC}`,
        state: 'ok',
        rung: 'watchdog',
        evidence: expect.stringMatching(/^intel, Intel 0x744c, 16 GiB, driver xe; /),
      },
      { name: `gpu ${LOCKED}`, state: 'degraded', evidence: expect.stringMatching(/only root may use .*renderD130/) },
    ]);
  });

  it('gives a run exactly the nodes of its card, usable without being root', async () => {
    const look = 'cd /dev; ls dri kfd; id -G; for n in dri/* kfd; do echo x >$n && echo may $n; done';
    const amd = await daemon.cli(['run', write('amd', '{ count: 1, vendor: amd, memory: 8GiB }', look)]);
    expect([
      amd.exitCode,
      amd.stdout
        .split('\n')
        .map((line) => line.trim())
        .filter((line) => line !== ''),
    ]).toEqual([0, ['kfd', 'dri:', 'renderD128', `10001 ${GROUP}`, 'may dri/renderD128', 'may kfd']]);
    const intel = await daemon.cli([
      'run',
      write('intel', `{ devices: ['${ARC}'] }`, 'ls /dev/dri; id -G; ls /dev/kfd'),
    ]);
    expect([intel.exitCode === 0, intel.stdout]).toEqual([false, 'renderD129\n10001']);
    const none = await daemon.cli(['run', write('none', null, 'ls /dev/dri /dev/kfd; id -G')]);
    expect(none.stdout).toBe('10001');
  });

  it('leases a card to one run, and refuses what there is not with what there is', async () => {
    const { runId } = await start('first', `{ devices: ['${RADEON}'] }`);
    const says = async (gpu: string): Promise<string> => (await refused(daemon, gpu)).text;
    expect(await says(`{ devices: ['${RADEON}'] }`)).toContain(
      `limits.gpu.devices[0]: must be free, and ${RADEON} is not`,
    );
    expect(await says('{ count: 1, vendor: amd }')).toContain(
      'limits.gpu.count: must be at most 0 free of 1 of amd on this host, got 1',
    );
    expect(await says(`{ devices: ['${LOCKED}'] }`)).toMatch(
      /limits\.gpu\.devices\[0\]: must be another: only root may use .*; got /,
    );
    expect(await says('{ count: 1, vendor: intel, memory: 17GiB }')).toContain(
      `limits.gpu.memory: must be at most 16 GiB, the memory of ${ARC}, got 17 GiB`,
    );
    await daemon.cli(['kill', runId]);
    expect(await outcomeOf(runId)).toMatchObject({ reason: 'killed' });
    const again = async (): Promise<boolean> =>
      (await daemon.cli(['run', write('again', '{ count: 1, vendor: amd }', 'true')])).exitCode === 0;
    await until('the card is free again', again, FACT);
  });

  it('kills a run that holds more of its card than it may, and one on a card that it was not granted', async () => {
    const over = await start('over', `{ devices: ['${RADEON}'], memory: 8GiB }`);
    const twin = await start('twin', `{ devices: ['${ARC}'], memory: 8GiB }`);
    const thief = await start('thief', null);
    world.play(
      ...CARDS,
      `process ${RADEON} ${over.pid} ${8 * GIB + 1}`,
      `process ${ARC} ${twin.pid} ${8 * GIB}`,
      `process ${ARC} ${thief.pid} 1 client=99`,
    );
    expect(await outcomeOf(over.runId)).toMatchObject({
      reason: 'limit.gpu',
      rule: 'limits.gpu.memory',
    });
    expect(await outcomeOf(thief.runId)).toMatchObject({ reason: 'limit.gpu', rule: 'limits.gpu' });
    const { stdout } = await daemon.cli(['inspect', twin.runId, '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ phase: 'running' });
    world.play(...CARDS);
    await daemon.cli(['kill', twin.runId]);
    await outcomeOf(twin.runId);
  });

  it('goes on with its cards when the driver of the other vendor hangs', async () => {
    const { runId, pid } = await start('beside', `{ devices: ['${ARC}'] }`);
    world.play(...CARDS, `process ${ARC} ${pid} 1`);
    library.play(`device ${CARD} ${80 * GIB}`, 'hang memory');
    const hangs = async (): Promise<boolean> => {
      const { text } = await refused(daemon, `{ devices: ['${CARD}'] }`);
      return text.includes(`must be a GPU of this host`) && text.includes('did not answer');
    };
    await until('it is told', hangs, FACT);
    const { stdout } = await daemon.cli(['inspect', runId, '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ phase: 'running' });
    await daemon.cli(['kill', runId]);
    expect(await outcomeOf(runId)).toMatchObject({ reason: 'killed' });
    world.play(...CARDS);
    library.play(`device ${CARD} ${80 * GIB}`);
  });
});

/** The first process of the agent, by the cgroup that it is in. */
function pidIn(runId: string): number | null {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const isSleep = readFileSync(`/proc/${pid}/comm`, 'latin1').startsWith('sleep');
      if (isSleep && readFileSync(`/proc/${pid}/cgroup`, 'latin1').includes(runId)) return Number(pid);
    } catch {
      // It has ended since.
    }
  }
  return null;
}

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
      { name: 'limits.gpu', state: 'ok', rung: 'kernel' },
      {
        name: `gpu ${CARD}`,
        rung: 'watchdog',
        evidence: expect.stringMatching(/^nvidia, Stand-in, 80 GiB, driver nvidia; memory: /),
      },
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
