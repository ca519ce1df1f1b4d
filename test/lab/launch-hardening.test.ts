import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ContainerFacts, EngineFacts, ImageFacts } from '../../src/core/ports/engine.ts';
import { checkMount, recheckMount } from '../../src/daemon/mounts.ts';
import { readNamespaces, readProcessFacts } from '../../src/daemon/proc-facts.ts';
import { readSecrets, SecretStore } from '../../src/daemon/secrets.ts';
import { createDockerEngine } from '../../src/engine/docker.ts';
import type { DockerEngine } from '../../src/engine/docker.ts';
import { LABEL_RUN } from '../../src/run/plan.ts';
import type { ProcessFacts } from '../../src/run/process-facts.ts';
import { compareLaunch } from '../../src/run/readback.ts';
import { plansOf } from '../support/launch-fixtures.ts';
import type { TestPlans } from '../support/launch-fixtures.ts';

/**
 * Real containers, launched as the daemon launches them, and looked at from outside (the kernel's files) and from
 * inside. Each refusal has a twin that works, so that "did not run" cannot pass for "was refused".
 */
const host = process.env['DOCKER_HOST'] ?? 'unset';
const GREEDY_IMAGE = 'ringfence/test-greedy:local';
const UNTIL_MS_MAX = 20_000;

let engine: DockerEngine;
let image: ImageFacts;
let facts: EngineFacts;
let folder: string;
let store: SecretStore;
const made: TestPlans[] = [];

beforeAll(async () => {
  engine = createDockerEngine({ host });
  image = await engine.resolveImage('ringfence/agent-shell:local');
  facts = await engine.facts();
  folder = await mkdtemp(join(tmpdir(), 'ringfence-launch-'));
  store = await SecretStore.open(join(folder, 'secrets'));
});

afterEach(async () => {
  for (const plans of made.splice(0)) {
    await engine.removeContainer(plans.container.name);
    await engine.removeNetwork(plans.network.name);
  }
  const left = [...(await engine.listContainers(LABEL_RUN)), ...(await engine.listNetworks(LABEL_RUN))];
  expect(left.filter((each) => each.name.includes('rtest'))).toEqual([]);
});

afterAll(async () => {
  await store.close();
  await execa('docker', ['rmi', GREEDY_IMAGE], { env: { DOCKER_HOST: host }, reject: false });
  engine.close();
  await rm(folder, { recursive: true, force: true });
  expect(await readFile('/proc/self/mountinfo', 'utf8')).not.toContain(folder);
});

type Options = Omit<Parameters<typeof plansOf>[0], 'image' | 'engine' | 'index'> & { readonly image?: ImageFacts };
type Launched = { readonly id: string; readonly plans: TestPlans; readonly output: Promise<string> };

/** Launches a shell script as the agent, with its output. */
async function launch(script: string, options: Options = {}): Promise<Launched> {
  const spec = { command: ['/bin/sh', '-c', script], ...options.spec };
  const plans = plansOf({ index: made.length + 1, image, engine: facts, ...options, spec });
  made.push(plans);
  await engine.createNetwork(plans.network);
  const id = await engine.createContainer(plans.container);
  const attached = await engine.attach(id, { tty: false, stdin: false });
  const output = Promise.all([textOf(attached.stdout), textOf(attached.stderr)]).then((texts) => texts.join(''));
  await engine.startContainer(id);
  return { id, plans, output };
}

async function textOf(source: AsyncIterable<unknown>): Promise<string> {
  let text = '';
  for await (const bytes of source) text += String(bytes);
  return text;
}

async function inspected(launched: Launched): Promise<{ container: ContainerFacts; process: ProcessFacts }> {
  const container = await engine.inspectContainer(launched.id);
  const process = container.pid === null ? null : await readProcessFacts(container.pid);
  if (process === null) throw new Error('the agent is over');
  return { container, process };
}

async function mismatches(launched: Launched, mountLocations = {}): Promise<readonly unknown[]> {
  const evidence = { kernel: null, hostNamespaces: await readNamespaces('self'), mountLocations };
  return compareLaunch({ plan: launched.plans.container, ...evidence, ...(await inspected(launched)) });
}

const WAIT = 'trap "exit 0" TERM; while :; do sleep 0.05; done';

describe('a launched container', () => {
  it('holds every promise, by the engine and by the kernel', async () => {
    const launched = await launch(WAIT);
    expect(await mismatches(launched)).toEqual([]);
  });

  it('has no capability, no way to new privileges, a seccomp filter, and its own namespaces', async () => {
    const { process } = await inspected(await launch(WAIT));
    const none = '0000000000000000';
    expect(process).toMatchObject({
      uids: [10_001, 10_001, 10_001, 10_001],
      gids: [10_001, 10_001, 10_001, 10_001],
      noNewPrivileges: true,
      seccompMode: 2,
      capabilities: { CapInh: none, CapPrm: none, CapEff: none, CapBnd: none, CapAmb: none },
      openFilesMax: { soft: 256, hard: 256 },
      coreBytesMax: { soft: 0, hard: 0 },
    });
    const own = await readNamespaces('self');
    expect(Object.keys(own).filter((name) => own[name] === process.namespaces[name])).toEqual([]);
  });

  it('says so itself, from inside', async () => {
    const script = `echo begun; id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; ls -A /proc | grep -c '^[0-9]'`;
    const lines = (await (await launch(script)).output).split('\n');
    expect(lines.slice(0, 6).map((line) => line.replace(/\s+/g, ' '))).toEqual(
      [
        'begun',
        '10001',
        'CapBnd: 0000000000000000',
        'CapEff: 0000000000000000',
        'NoNewPrivs: 1',
        'Seccomp: 2',
      ].toSorted((left, right) => order(lines, left) - order(lines, right)),
    );
    expect(Number(lines.find((line) => /^\d$/.test(line)))).toBeLessThan(8);
  });

  it('writes to /tmp and nowhere else', async () => {
    const places = [
      '/tmp',
      '/dev/shm',
      '/',
      '/etc',
      '/bin',
      '/root',
      '/dev',
      '/proc',
      '/sys',
      '/sys/fs/cgroup',
      '/run',
    ];
    const script = places.map((place) => `echo x 2>/dev/null >${place}/probe && echo "${place} yes"`).join('; ');
    const output = await (await launch(`echo begun; ${script}; true`)).output;
    expect(output.replaceAll(/.*(?:nonexistent|read-only|denied|No such).*\n/gi, '')).toBe(
      'begun\n/tmp yes\n/dev/shm yes\n',
    );
  });

  it('has scratch of exactly the size of its limit, and then no more', async () => {
    const script = `echo begun
      dd if=/dev/zero of=/tmp/fill bs=1M count=64 2>/dev/null; dd if=/dev/zero of=/dev/shm/fill bs=1M count=64 2>/dev/null
      stat -c %s /tmp/fill /dev/shm/fill`;
    const [begun, ...sizes] = (await (await launch(script)).output).trim().split('\n');
    expect(begun).toBe('begun');
    expect(sizes.map(Number).reduce((sum, size) => sum + size, 0)).toBe(16 * 2 ** 20);
  });

  it('cannot make more files than its scratch has inodes', async () => {
    const script =
      'echo begun; i=0; while [ $i -lt 5000 ] && echo x 2>/dev/null >/tmp/f$i; do i=$((i+1)); done; echo $i';
    const output = await (await launch(script)).output;
    const count = Number(/^(\d+)$/m.exec(output)?.[1]);
    expect(count).toBeGreaterThan(1000);
    expect(count).toBeLessThan(2048);
  });

  it('takes nothing from an image that asks for more', async () => {
    const script = `echo begun; id -u; pwd; echo "$NVIDIA_VISIBLE_DEVICES \${LD_PRELOAD-unset}"; echo x >/data/file; ${WAIT}`;
    const launched = await launch(script, { image: await greedyImage() });
    await until(async () => (await readLog(launched.id)).includes('unset'));
    expect(await readLog(launched.id)).toBe('begun\n10001\n/\nvoid unset\n');
    // Also no volume, which would be a folder of the host without a bound.
    expect(await mismatches(launched)).toEqual([]);
    expect(launched.plans.container.tmpfs.map((entry) => entry.path)).toEqual(['/tmp', '/data']);
  });

  it('is told its bounds', async () => {
    const names = ['RUN_ID', 'PROFILE', 'MEMORY_BYTES', 'PIDS'].map((name) => `$RINGFENCE_${name}`);
    const output = await (await launch(`echo "${names.join(' ')} $HOME"`)).output;
    expect(output).toBe(`rtest00000001 launch-test ${64 * 2 ** 20} 32 /tmp\n`);
  });

  it('asks only its own gateway for names, and cannot change that', async () => {
    const launched = await launch(
      'echo begun; cat /etc/resolv.conf; echo nameserver 192.0.2.1 >/etc/resolv.conf || echo refused',
    );
    const output = await launched.output;
    expect(output).toMatch(/^begun\n/);
    expect(output).toMatch(/^nameserver 127\.0\.0\.11$/m);
    expect(output).not.toMatch(/^search /m);
    expect(output).toMatch(/^refused$/m);
    expect((await engine.inspectContainer(launched.id)).dns).toEqual([launched.plans.container.dns]);
  });

  it('dies at its memory limit, swap included, and a smaller need is met', async () => {
    const eat = (mebibytes: number): string =>
      `echo begun; x=$(head -c ${mebibytes * 2 ** 20} /dev/zero | tr '\\0' x); echo "\${#x}"`;
    expect(await (await launch(eat(8))).output).toBe(`begun\n${8 * 2 ** 20}\n`);
    const greedy = await launch(eat(200));
    const output = await greedy.output;
    expect(output).toMatch(/^begun\n/);
    expect(output).not.toContain(String(200 * 2 ** 20));
  });

  it('cannot have more processes than its limit', async () => {
    const script = 'echo begun; i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done 2>&1; echo end';
    const output = await (await launch(script)).output;
    expect(output).toMatch(/^begun\n/);
    expect(output).toMatch(/can't fork|Resource temporarily unavailable/);
  });

  it.each([
    ['mount', 'mount -t tmpfs none /tmp'],
    ['remount of the root', 'mount -o remount,rw /'],
    ['a device node', 'mknod /tmp/null c 1 3'],
    ['a new owner', 'touch /tmp/mine && chown 0 /tmp/mine'],
    ['the host name', 'hostname other'],
    ['a kernel setting', 'echo 1 >/proc/sys/kernel/panic'],
    ['its cgroup', 'echo 0 >/sys/fs/cgroup/pids/pids.max || echo 0 >/sys/fs/cgroup/pids.max'],
    ['the engine’s socket', 'ls /var/run/docker.sock || ls /run/docker.sock'],
    ['the memory of the kernel', 'head -c 1 /proc/kcore'],
    ['a raw disk', 'head -c 1 /dev/vda || head -c 1 /dev/sda'],
  ])('is refused %s', async (_name, attempt) => {
    const output = await (await launch(`echo begun; (${attempt}) >/dev/null 2>&1; echo "code $?"`)).output;
    expect(output).toMatch(/^begun\ncode (?!0$)\d+\n$/m);
    expect(output).not.toContain('code 127');
  });

  it('reaps the processes that others leave behind', async () => {
    const script = `echo begun; for i in 1 2 3 4 5; do (sleep 0.05 & ) ; done; sleep 0.5; grep -l 'State:.Z' /proc/[0-9]*/status | wc -l`;
    expect(await (await launch(script)).output).toBe('begun\n0\n');
  });

  it('writes no more log than its share of the disk', async () => {
    const launched = await launch('echo begun; head -c 80000000 /dev/zero | tr "\\0" x >&2');
    await launched.output;
    const logs = await execa('find', [
      join(facts.rootDirectory, 'containers', launched.id),
      '-name',
      '*.log*',
      '-printf',
      '%s\n',
    ]);
    const bytes = logs.stdout
      .split('\n')
      .map(Number)
      .reduce((sum, size) => sum + size, 0);
    expect(bytes).toBeGreaterThan(2 ** 20);
    expect(bytes).toBeLessThanOrEqual(launched.plans.container.logBytesMax * 1.05);
  });
});

/** The shell image with everything in its configuration that an image can ask for. */
async function greedyImage(): Promise<ImageFacts> {
  const docker = (...args: string[]) => execa('docker', args, { env: { DOCKER_HOST: host } });
  const { stdout: id } = await docker('create', '--network', 'none', 'ringfence/agent-shell:local', '/bin/true');
  const wishes = [
    'USER root',
    'ENTRYPOINT ["/bin/false"]',
    'VOLUME /data',
    'ENV NVIDIA_VISIBLE_DEVICES=all',
    'ENV LD_PRELOAD=/no/such.so',
  ];
  await docker('commit', ...wishes.flatMap((wish) => ['--change', wish]), id, GREEDY_IMAGE);
  await docker('rm', '--volumes', id);
  return engine.resolveImage(GREEDY_IMAGE);
}

function order(lines: readonly string[], text: string): number {
  return lines.findIndex((line) => line.replace(/\s+/g, ' ') === text);
}

describe('the read-back', () => {
  it('names what was changed behind our back', async () => {
    const launched = await launch(WAIT);
    const docker = (...args: string[]): Promise<unknown> => execa('docker', args, { env: { DOCKER_HOST: host } });
    await docker('update', '--memory', '128m', '--memory-swap', '128m', '--pids-limit', '99', launched.id);
    await docker('network', 'connect', 'bridge', launched.id);
    const found = (await mismatches(launched)) as readonly { readonly path: string }[];
    expect(found.map(({ path }) => path)).toEqual([
      'container.networks',
      'container.limits.memory',
      'container.limits.memorySwap',
      'container.limits.pids',
    ]);
  });
});

describe('a mount', () => {
  const grantor = { uid: 0, gid: 0 };
  const places = { forbidden: [] };

  async function workspace(name: string): Promise<string> {
    const path = join(folder, name);
    await mkdir(path, { recursive: true, mode: 0o777 });
    await execa('chown', ['10001:10001', path]);
    return path;
  }

  it.each(['rw', 'ro'] as const)('%s is what was checked, private, and of that mode', async (mode) => {
    const hostPath = await workspace(`workspace-${mode}`);
    await writeFile(join(hostPath, 'given'), 'given');
    const request = { hostPath, mode, grantor, profilePath: join(folder, 'profile.yaml') };
    const checked = await checkMount(request, places);
    const spec = { mounts: [{ hostPath, path: '/workspace', mode, sizeBytesMax: null }] };
    const binds = [{ source: checked.realPath, target: '/workspace', readOnly: mode === 'ro' }];
    const script = `cat /workspace/given; echo made >/workspace/made && echo " written" || echo " refused"; ${WAIT}`;
    const launched = await launch(script, { spec: { command: ['/bin/sh', '-c', script], ...spec }, binds });
    expect(await mismatches(launched, { '/workspace': checked.location })).toEqual([]);
    await recheckMount(checked);
    await until(async () => (await readLog(launched.id)).includes('\n'));
    expect(await readLog(launched.id)).toContain(mode === 'rw' ? 'given written' : ' refused');
  });

  it('that was exchanged between check and launch is a mismatch', async () => {
    const hostPath = await workspace('exchanged');
    const other = await workspace('other');
    const checked = await checkMount({ hostPath, mode: 'rw', grantor, profilePath: '/p' }, places);
    await rm(hostPath, { recursive: true });
    await symlink(other, hostPath);
    const binds = [{ source: checked.realPath, target: '/workspace', readOnly: false }];
    const spec = { mounts: [{ hostPath, path: '/workspace', mode: 'rw' as const, sizeBytesMax: null }] };
    const launched = await launch(WAIT, { spec, binds });
    const found = (await mismatches(launched, { '/workspace': checked.location })) as readonly {
      readonly path: string;
    }[];
    expect(found.map(({ path }) => path)).toEqual(['mounts./workspace.source']);
    await expect(recheckMount(checked)).rejects.toMatchObject({ code: 'MOUNT_REFUSED' });
  });

  it('of a folder with a socket in it is refused, and without it is not', async () => {
    const hostPath = await workspace('with-socket');
    const deep = join(hostPath, 'a', 'b');
    await mkdir(deep, { recursive: true });
    const request = { hostPath, mode: 'ro' as const, grantor, profilePath: '/p' };
    await expect(checkMount(request, places)).resolves.toMatchObject({ realPath: hostPath });
    const server = createServer().listen(join(deep, 'docker.sock'));
    await new Promise((resolve) => server.once('listening', resolve));
    await expect(checkMount(request, places)).rejects.toMatchObject({ code: 'MOUNT_REFUSED' });
    await new Promise((resolve) => server.close(resolve));
  });

  it('of a bind mount that leads to a forbidden folder is refused by where it leads', async () => {
    const hostPath = await workspace('led-astray');
    await expect(checkMount({ hostPath, mode: 'ro', grantor, profilePath: '/p' }, places)).resolves.toBeDefined();
    await execa('mount', ['--bind', '/etc', hostPath]);
    try {
      const refused = checkMount({ hostPath, mode: 'ro', grantor, profilePath: '/p' }, places);
      await expect(refused).rejects.toMatchObject({
        code: 'MOUNT_REFUSED',
        message: expect.stringContaining('/etc') as string,
      });
    } finally {
      await execa('umount', [hostPath]);
    }
  });
});

describe('a secret', () => {
  it.each([
    ['one line', 'sk-one-line\n', 'sk-one-line'],
    ['several lines and quotes', 'line one\n  $(id) `id` "two" \\n\n\n', 'line one\n  $(id) `id` "two" \\n\n'],
  ])('of %s reaches the agent whole and nobody else', async (_name, written, value) => {
    const file = join(folder, 'secret-file');
    await rm(file, { force: true });
    await writeFile(file, written, { mode: 0o600 });
    const secrets = [
      { env: 'API_KEY', file },
      { env: 'TOKEN_FILE', file },
    ];
    const read = await readSecrets(secrets, { grantor: { uid: 0 }, sharedFolders: [] });
    const secretsFolder = await store.stage({
      runId: 'rtest00000001',
      user: { uid: 10_001, gid: 10_001 },
      secrets: read,
    });
    const script = `printf '%s' "$API_KEY" >/tmp/got; cmp /tmp/got "$API_KEY_FILE" && cmp /tmp/got "$TOKEN_FILE" && echo same
      wc -c </tmp/got; echo x >>/run/secrets/API_KEY || echo unwritable; ${WAIT}`;
    const launched = await launch(script, { spec: { secrets, command: ['/bin/sh', '-c', script] }, secretsFolder });
    await until(async () => (await readLog(launched.id)).includes('unwritable'));
    const log = await readLog(launched.id);
    expect(log).toMatch(/^same\n/);
    expect(Number(/^ *(\d+)$/m.exec(log)?.[1])).toBe(Buffer.byteLength(value));
    const { stdout: inspection } = await execa('docker', ['inspect', launched.id], { env: { DOCKER_HOST: host } });
    const { stdout: processes } = await execa('ps', ['axww', '-o', 'args'], {});
    const marker = value.split('\n')[0] ?? '';
    expect({
      inspect: inspection.includes(marker),
      processes: processes.includes(marker),
      log: log.includes(marker),
    }).toEqual({
      inspect: false,
      processes: false,
      log: false,
    });
    await store.unstage('rtest00000001');
  });
});

async function readLog(id: string): Promise<string> {
  let text = '';
  for await (const chunk of engine.logs(id, {
    follow: false,
    tailLines: null,
    signal: AbortSignal.timeout(UNTIL_MS_MAX),
  })) {
    text += String(chunk.bytes);
  }
  return text;
}

async function until(fact: () => Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + UNTIL_MS_MAX;
  while (!(await fact())) {
    if (performance.now() > deadlineMs) throw new Error('the deadline has passed');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
