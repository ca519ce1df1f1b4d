import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, describe, expect, it } from 'vitest';
import type { ImageFacts } from '../../src/core/ports/engine.ts';
import { readNamespaces } from '../../src/daemon/proc-facts.ts';
import { leafPathsOf } from '../../src/meter/layout.ts';
import { ENGINE_HOST, SHELL_IMAGE, until, useLaunchLab, WAIT } from '../support/launch-lab.ts';

/**
 * Real containers, launched as the daemon launches them, and looked at from outside (the kernel's files) and from
 * inside. Each refusal has a twin that works, so that "did not run" cannot pass for "was refused".
 */
const GREEDY_IMAGE = 'ringfence/test-greedy:local';

const lab = useLaunchLab();

afterAll(async () => {
  await execa('docker', ['rmi', GREEDY_IMAGE], { env: { DOCKER_HOST: ENGINE_HOST }, reject: false });
});

describe('a launched container', () => {
  it('holds every promise, by the engine and by the kernel', async () => {
    const launched = await lab.launch(WAIT);
    expect(await lab.mismatches(launched)).toEqual([]);
  });

  it('has no capability, no way to new privileges, a seccomp filter, and its own namespaces', async () => {
    const { process } = await lab.inspect(await lab.launch(WAIT));
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
    const script = `echo begun; echo "user $(id -u)"; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
      echo "processes $(ls /proc | grep -c '^[0-9]')"`;
    const [begun, ...lines] = (await (await lab.launch(script)).output).trim().split('\n');
    const said = Object.fromEntries(lines.map((line) => line.split(/:?\s+/)));
    expect({ begun, ...said }).toEqual({
      begun: 'begun',
      user: '10001',
      CapEff: '0000000000000000',
      CapBnd: '0000000000000000',
      NoNewPrivs: '1',
      Seccomp: '2',
      // The init, the shell and what it just started: nothing of the host.
      processes: expect.stringMatching(/^[3-6]$/),
    });
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
    const output = await (await lab.launch(`echo begun; ${script}; true`)).output;
    expect(output.replaceAll(/.*(?:nonexistent|read-only|denied|No such).*\n/gi, '')).toBe(
      'begun\n/tmp yes\n/dev/shm yes\n',
    );
  });

  it('has scratch of exactly the size of its limit, and then no more', async () => {
    const script = `echo begun
      dd if=/dev/zero of=/tmp/fill bs=1M count=64 2>/dev/null; dd if=/dev/zero of=/dev/shm/fill bs=1M count=64 2>/dev/null
      stat -c %s /tmp/fill /dev/shm/fill`;
    const [begun, ...sizes] = (await (await lab.launch(script)).output).trim().split('\n');
    expect(begun).toBe('begun');
    expect(sizes.map(Number).reduce((sum, size) => sum + size, 0)).toBe(16 * 2 ** 20);
  });

  it('cannot make more files than its scratch has inodes', async () => {
    const script =
      'echo begun; i=0; while [ $i -lt 5000 ] && echo x 2>/dev/null >/tmp/f$i; do i=$((i+1)); done; echo $i';
    const output = await (await lab.launch(script)).output;
    const count = Number(/^(\d+)$/m.exec(output)?.[1]);
    expect(count).toBeGreaterThan(1000);
    expect(count).toBeLessThan(2048);
  });

  it('takes nothing from an image that asks for more', async () => {
    const script = `echo begun; id -u; pwd; echo "$NVIDIA_VISIBLE_DEVICES \${LD_PRELOAD-unset}"; echo x >/data/file; ${WAIT}`;
    const launched = await lab.launch(script, { image: await greedyImage() });
    await until(async () => (await lab.log(launched)).includes('unset'));
    expect(await lab.log(launched)).toBe('begun\n10001\n/\nvoid unset\n');
    // Also no volume, which would be a folder of the host without a bound.
    expect(await lab.mismatches(launched)).toEqual([]);
    expect(launched.plans.container.tmpfs.map((entry) => entry.path)).toEqual(['/tmp', '/data']);
  });

  it('is told its bounds', async () => {
    const names = ['RUN_ID', 'PROFILE', 'MEMORY_BYTES', 'PIDS'].map((name) => `$RINGFENCE_${name}`);
    const runId = lab.nextRunId();
    const output = await (await lab.launch(`echo "${names.join(' ')} $HOME"`)).output;
    expect(output).toBe(`${runId} launch-test ${64 * 2 ** 20} 32 /tmp\n`);
  });

  it('asks only its own gateway for names, and cannot change that', async () => {
    const launched = await lab.launch(
      'echo begun; cat /etc/resolv.conf; echo nameserver 192.0.2.1 >/etc/resolv.conf || echo refused',
    );
    const output = await launched.output;
    expect(output).toMatch(/^begun\n/);
    expect(output).toMatch(/^nameserver 127\.0\.0\.11$/m);
    expect(output).not.toMatch(/^search /m);
    expect(output).toMatch(/^refused$/m);
    expect((await lab.engine.inspectContainer(launched.id)).dns).toEqual([launched.plans.container.dns]);
  });

  it('dies at its memory limit, swap included, and a smaller need is met', async () => {
    const eat = (mebibytes: number): string =>
      `echo begun; x=$(head -c ${mebibytes * 2 ** 20} /dev/zero | tr '\\0' x); echo "\${#x}"`;
    expect(await (await lab.launch(eat(8))).output).toBe(`begun\n${8 * 2 ** 20}\n`);
    const greedy = await lab.launch(eat(200));
    const output = await greedy.output;
    expect(output).toMatch(/^begun\n/);
    expect(output).not.toContain(String(200 * 2 ** 20));
  });

  it('cannot have more processes than its limit, as the kernel counts them', async () => {
    // `exec` at the end needs no new process, so the agent outlives the refusals and its cgroup can be read.
    const start = async (count: number): Promise<{ current(): Promise<number>; refused(): Promise<boolean> }> => {
      const loop = `i=0; while [ $i -lt ${count} ]; do sleep 15 & i=$((i+1)); done`;
      const { container } = await lab.inspect(await lab.launch(`(${loop}) >/dev/null 2>&1; exec sleep 15`));
      const folder = leafPathsOf(container.pid ?? 0).pids;
      return {
        current: async () => Number(await readFile(join(folder, 'pids.current'), 'utf8')),
        refused: async () => !/^max 0$/m.test(await readFile(join(folder, 'pids.events'), 'utf8')),
      };
    };
    const modest = await start(10);
    // The init, the agent, and the ten it started.
    await until(async () => (await modest.current()) === 12);
    expect(await modest.refused()).toBe(false);
    const greedy = await start(60);
    await until(() => greedy.refused());
    expect(await greedy.current()).toBeLessThanOrEqual(32);
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
    const output = await (await lab.launch(`echo begun; (${attempt}) >/dev/null 2>&1; echo "code $?"`)).output;
    expect(output).toMatch(/^begun\ncode (?!0$)\d+\n$/m);
    expect(output).not.toContain('code 127');
  });

  it('reaps the processes that others leave behind', async () => {
    const script = `echo begun; for i in 1 2 3 4 5; do (sleep 0.05 & ) ; done; sleep 0.5; grep -l 'State:.Z' /proc/[0-9]*/status | wc -l`;
    expect(await (await lab.launch(script)).output).toBe('begun\n0\n');
  });

  it('writes no more log than its share of the disk', async () => {
    const launched = await lab.launch('echo begun; head -c 80000000 /dev/zero | tr "\\0" x >&2');
    await launched.output;
    const logs = await execa('find', [
      join(lab.facts.rootDirectory, 'containers', launched.id),
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
  const docker = (...args: string[]) => execa('docker', args, { env: { DOCKER_HOST: ENGINE_HOST } });
  const { stdout: id } = await docker('create', '--network', 'none', SHELL_IMAGE, '/bin/true');
  const wishes = [
    'USER root',
    'ENTRYPOINT ["/bin/false"]',
    'VOLUME /data',
    'ENV NVIDIA_VISIBLE_DEVICES=all',
    'ENV LD_PRELOAD=/no/such.so',
  ];
  await docker('commit', ...wishes.flatMap((wish) => ['--change', wish]), id, GREEDY_IMAGE);
  await docker('rm', '--volumes', id);
  return await lab.engine.resolveImage(GREEDY_IMAGE);
}

describe('the read-back', () => {
  it('names what was changed behind our back', async () => {
    const launched = await lab.launch(WAIT);
    const docker = (...args: string[]): Promise<unknown> =>
      execa('docker', args, { env: { DOCKER_HOST: ENGINE_HOST } });
    await docker('update', '--memory', '128m', '--memory-swap', '128m', '--pids-limit', '99', launched.id);
    await docker('network', 'connect', 'bridge', launched.id);
    const found = await lab.mismatches(launched);
    expect(found.map((line) => line.split(':')[0])).toEqual([
      'container.networks',
      'container.limits.memory',
      'container.limits.memorySwap',
      'container.limits.pids',
      'limits.memory',
      'limits.memorySwap',
      'limits.pids',
    ]);
  });
});
