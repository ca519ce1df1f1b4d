import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { command, docker, lab } from './lab.ts';
import { until } from './until.ts';

/** Everything a run could leave behind, one line each, so that a difference reads as a sentence. */
export type Snapshot = ReadonlySet<string>;

const SETTLE_MS_MAX = 10_000;
const CGROUP_ROOT = '/sys/fs/cgroup';
const OUR_GROUP = 'ringfence';

/** What is there now. Taken after the daemon started, its standing rules are part of it. */
export async function snapshot(): Promise<Snapshot> {
  return new Set([
    ...(await dockerThings()),
    ...(await networkThings()),
    ...(await firewallThings()),
    ...cgroups(),
    ...mounts(),
    ...processes(),
  ]);
}

/**
 * What is there now and was not there `before`, once it has settled: cleaning up takes a moment. A test file ends with
 * `expect(await leaksSince(before)).toEqual([])`.
 */
export async function leaksSince(
  before: Snapshot,
  isOurs: (leak: string) => boolean = () => true,
): Promise<readonly string[]> {
  let leaks: string[] = [];
  const settled = async (): Promise<boolean> => {
    leaks = [...(await snapshot())].filter((thing) => !before.has(thing) && isOurs(thing)).toSorted();
    return leaks.length === 0;
  };
  await until('nothing is left behind', settled, { deadlineMs: SETTLE_MS_MAX }).catch(() => undefined);
  return leaks;
}

async function dockerThings(): Promise<string[]> {
  const containers = await docker('ps', '--all', '--no-trunc', '--format', 'container {{.ID}} {{.Names}}');
  const networks = await docker('network', 'ls', '--no-trunc', '--format', 'docker network {{.Name}}');
  const volumes = await docker('volume', 'ls', '--format', 'volume {{.Name}}');
  return [containers, networks, volumes].flatMap(lines);
}

async function networkThings(): Promise<string[]> {
  const links = await output('ip', ['-oneline', 'link', 'show']);
  const names = lines(links).map((line) => `interface ${(line.split(': ')[1] ?? '').split('@')[0]}`);
  const routingRules = lines(await output('ip', ['rule', 'show'])).map(
    (line) => `routing rule ${line.replaceAll(/\s+/g, ' ')}`,
  );
  return [...names, ...routingRules];
}

async function firewallThings(): Promise<string[]> {
  const rules: string[] = [];
  for (const tool of ['iptables', 'ip6tables']) {
    const saved = lines(await output(`${tool}-save`, []));
    rules.push(...saved.filter((line) => line.startsWith('-A')).map((line) => `${tool} ${line}`));
  }
  // The address is what counts; timeouts and counters change by themselves.
  const entries = lines(await output('ipset', ['save'])).filter((line) => line.startsWith('add '));
  return [...rules, ...entries.map((line) => `ipset ${line.split(' ').slice(0, 3).join(' ')}`)];
}

function cgroups(): string[] {
  const hierarchies = [CGROUP_ROOT, ...folders(CGROUP_ROOT).map((name) => `${CGROUP_ROOT}/${name}`)];
  return hierarchies.flatMap((hierarchy) =>
    folders(`${hierarchy}/${OUR_GROUP}`).map((name) => `cgroup ${hierarchy}/${OUR_GROUP}/${name}`),
  );
}

function folders(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    // A hierarchy without our group has nothing of ours.
    return [];
  }
}

function mounts(): string[] {
  const points = lines(readFileSync('/proc/self/mountinfo', 'utf8')).map((line) => line.split(' ')[4] ?? '');
  const ours = [`${lab.checkout}/.lab/${lab.name}/`, `${lab.runtime}/`];
  // The engine keeps this one from its first container with the host's network to its own end.
  const engineOwn = `${lab.runtime}/exec/netns/default`;
  return points
    .filter((point) => ours.some((prefix) => point.startsWith(prefix)) && point !== engineOwn)
    .map((point) => `mount ${point}`);
}

// Our daemon's processes, and the engine's per container, in this network namespace.
const OURS = /\b(?:dist|src)\/(?:main|warden|gate)|main\.[jt]s|containerd-shim/;

function processes(): string[] {
  const here = readlinkSync('/proc/self/ns/net');
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        if (readlinkSync(`/proc/${pid}/ns/net`) !== here) return [];
        const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
        return OURS.test(line) ? [`process ${pid} ${line}`] : [];
      } catch {
        // It ended while we looked.
        return [];
      }
    });
}

async function output(file: string, args: readonly string[]): Promise<string> {
  const result = await command(file, args);
  if (result.exitCode !== 0) throw new Error(`${file} ${args.join(' ')}: ${result.stderr}`);
  return result.stdout;
}

const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '');
