import { rmSync, writeFileSync } from 'node:fs';
import { afterAll, expect, test } from 'vitest';
import { startDaemon } from '../support/daemon.ts';
import { lab } from '../support/lab.ts';
import { until } from '../support/until.ts';

const GAP_MS_MAX = 20_000;
const KEPT = `
apiVersion: ringfence/v1
name: kept
owner: tests@example.com
image: ringfence/agent-shell:local
command: [sleep, '60']
limits: { cpu: 1, memory: 64MiB, pids: 16 }
budget: { wall: 2m }
egress: {}
`;

afterAll(() => rmSync(`${lab.scratch}/kept.yaml`, { force: true }));

test('an orderly stop with onStop: keep leaves the runs to the next daemon, and ends them without', async () => {
  const profile = `${lab.scratch}/kept.yaml`;
  writeFileSync(profile, KEPT, { mode: 0o644 });
  for (const onStop of ['keep', 'end'] as const) {
    await using daemon = await startDaemon({
      config: { onStop },
    });
    const cli = async (...args: string[]): Promise<string> => (await daemon.cli(args)).stdout.trim();
    const runId = await cli('run', '--detach', profile);
    await until('it runs', async () => (await cli('ps', '--json')).includes('"running"'), { deadlineMs: GAP_MS_MAX });
    await daemon.stop();
    await daemon.start();
    expect(await cli('ps', '--json').then((text) => text.includes(runId))).toBe(onStop === 'keep');
    if (onStop === 'keep') await cli('kill', runId);
    const outcome = JSON.parse(await cli('wait', runId, '--json')) as { readonly reason: string };
    expect(outcome.reason).toBe(onStop === 'keep' ? 'killed' : 'stopped');
  }
});

test('a daemon that is told to hand over leaves the runs to the next one, also with onStop: end', async () => {
  const profile = `${lab.scratch}/kept.yaml`;
  writeFileSync(profile, KEPT, { mode: 0o644 });
  await using daemon = await startDaemon({ config: { onStop: 'end' } });
  const cli = async (...args: string[]): Promise<string> => (await daemon.cli(args)).stdout.trim();
  const runId = await cli('run', '--detach', profile);
  await until('it runs', async () => (await cli('ps', '--json')).includes('"running"'), { deadlineMs: GAP_MS_MAX });
  await daemon.handOver();
  await daemon.start();
  expect(await cli('ps', '--json')).toContain(runId);
  await cli('kill', runId);
  expect(JSON.parse(await cli('wait', runId, '--json'))).toMatchObject({ reason: 'killed' });
});

test('a second daemon on the same host is refused, whatever its state and socket', async () => {
  await using first = await startDaemon();
  await expect(startDaemon()).rejects.toThrow(/another daemon holds the egress fence/);
  expect((await first.cli(['ps'])).exitCode).toBe(0);
});
