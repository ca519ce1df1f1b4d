import { afterAll, beforeAll, expect, test } from 'vitest';
import { cli, layOutDaemon } from '../support/daemon.ts';
import { docker, lab } from '../support/lab.ts';
import { leaksSince, snapshot, type Snapshot } from '../support/leak-check.ts';
import { startReceiver } from '../support/receiver.ts';
import { until } from '../support/until.ts';

/** The image of the daemon, as `scripts/daemon-image` built it in this lab before the tests. */
const IMAGE = 'ringfence/daemon:local';
// The same as in the Dockerfile: what the daemon needs of its host, instead of everything.
const CAPABILITIES =
  'NET_ADMIN NET_RAW SYS_ADMIN SYS_PTRACE KILL CHOWN FOWNER DAC_OVERRIDE DAC_READ_SEARCH SETUID SETGID'.split(' ');
const OPTIONS = ['seccomp=unconfined', 'apparmor=unconfined', 'systempaths=unconfined'];
const POWERS = [
  '--cap-drop=ALL',
  ...CAPABILITIES.map((name) => `--cap-add=${name}`),
  ...OPTIONS.map((option) => `--security-opt=${option}`),
];
const START_MS_MAX = 30_000;

let before: Snapshot;
beforeAll(async () => {
  before = await snapshot();
});
afterAll(async () => {
  const standing = /^(?:iptables|ip6tables|ipset|routing rule) /;
  // The fence's standing rules outlive a daemon on purpose.
  expect((await leaksSince(before)).filter((leak) => !standing.test(leak))).toEqual([]);
});

test('the image runs the program and holds no package that only builds or tests it', async () => {
  const version = await docker('run', '--rm', '--network', 'none', IMAGE, '--version');
  expect(version).toMatch(/^\d+\.\d+\.\d+$/);
  const packages = await docker(
    'run',
    '--rm',
    '--network',
    'none',
    '--entrypoint',
    '/bin/ls',
    IMAGE,
    '/opt/ringfence/node_modules',
  );
  expect(packages.split('\n')).toContain('dockerode');
  expect(packages.split('\n')).not.toContain('vitest');
});

test('a daemon in a container holds agents on its host', { timeout: 90_000 }, async () => {
  await using receiver = await startReceiver();
  const paths = layOutDaemon({ sinks: { ops: { url: receiver.url, secret: receiver.secret } } });
  const name = `ringfenced-${process.pid}`;
  const environment = { env: { RINGFENCE_SOCKET: paths.socket } };
  const same = (path: string): string[] => ['--volume', `${path}:${path}`];
  const host = ['--network', 'host', '--pid', 'host', ...same('/sys/fs/cgroup'), ...same(lab.dockerSocket)];
  const own = [...same(paths.folder), ...same(paths.sockets), ...same(`${lab.checkout}/profiles`)];
  const program = ['daemon', '--config', paths.config, '--state', paths.state, '--socket', paths.socket];
  try {
    await docker('run', '--detach', '--name', name, ...POWERS, ...host, ...own, IMAGE, ...program);
    await until('the daemon answers', async () => (await cli(['ps'], environment)).exitCode === 0, {
      deadlineMs: START_MS_MAX,
    });
    const honest = await cli(['run', `${lab.checkout}/profiles/reader.yaml`], environment);
    expect(honest).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('wrote 3 sentences') });
    const greedy = await cli(['run', `${lab.checkout}/profiles/burner.yaml`], environment);
    expect(greedy).toMatchObject({ exitCode: 124, stderr: expect.stringContaining('budget.cpu') });
    await until('the incident arrives', () => receiver.deliveries.some((delivery) => delivery.verified), {
      deadlineMs: START_MS_MAX,
    });
  } catch (error) {
    const said = await docker('logs', name).catch(() => '(no container)');
    throw new Error(`${String(error)}\nthe daemon said:\n${said}`, { cause: error });
  } finally {
    await docker('stop', '--time', '20', name).catch(() => undefined);
    await docker('rm', '--force', '--volumes', name);
    paths.remove();
  }
});
