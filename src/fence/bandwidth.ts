import { FENCE_BRIDGE_PREFIX } from '../core/fence-names.ts';
import { fail } from '../core/errors.ts';
import { runTool, tryTool } from './command.ts';
import { hostDevices } from './host-networks.ts';
import { runIdOf } from './pool.ts';

/**
 * A run's bandwidth, each direction by itself. What comes to the run waits in a token bucket on its bridge. What it
 * sends is led, where its port receives it, through a device of its own (ifb) with another bucket. At the port and not
 * at the bridge: behind the bridge the kernel forgets the connection of a packet that is led away, and on a host that
 * filters bridged packets it would not look for it again.
 */
const UPLOAD_PREFIX = 'rfi';
const SHAPE_HANDLE = '5246:';
/** What may pass at a stroke: 20 ms of the rate, since timers are coarser than packets; never less than some packets. */
const BURST_MS = 20;
const BURST_BYTES_MIN = 16 * 1024;
/** What may wait: 50 ms of the rate. More would be delay, less would make senders slow down too early. */
const QUEUE_MS = 50;
const QUEUE_BYTES_MIN = 32 * 1024;

/** `ports`: those of the bridge that are led through the upload device so far. */
export type Shape = { readonly bridge: string; readonly bitsPerSecond: number; readonly ports: readonly string[] };

/** Makes both buckets. Nothing leads to the one for uploads yet. */
export async function makeBuckets({ bridge, bitsPerSecond }: Omit<Shape, 'ports'>): Promise<void> {
  if (!hostDevices().has(bridge)) {
    throw fail('FENCE_FAILED', {
      detail: `the bandwidth cannot be held: there is no bridge ${bridge} yet`,
      hint: 'the network of the run has to exist before its bandwidth is set',
    });
  }
  const upload = uploadDevice(bridge);
  if (!hostDevices().has(upload)) await makeUploadDevice(upload);
  await runTool('ip', ['link', 'set', upload, 'up']);
  for (const device of [upload, bridge]) await limitRate(device, bitsPerSecond);
  refuseFindings(await shapeFindings([{ bridge, bitsPerSecond, ports: [] }]));
}

export async function portsOf(bridge: string): Promise<string[]> {
  const shown = await tryTool('ip', ['-j', 'link', 'show', 'master', bridge]);
  return (parsed(shown.stdout) as readonly { readonly ifname?: string }[]).flatMap(({ ifname }) => ifname ?? []);
}

export async function leadUploads({ bridge, ports }: Pick<Shape, 'bridge' | 'ports'>): Promise<void> {
  const upload = uploadDevice(bridge);
  for (const port of ports) {
    const shown = await tryTool('tc', ['-j', 'qdisc', 'show', 'dev', port]);
    if (!qdiscsOf(shown.stdout).some(({ kind }) => kind === 'clsact')) {
      await runTool('tc', ['qdisc', 'add', 'dev', port, 'clsact']);
    }
    if (await leadsTo(port, upload)) continue;
    const everything = ['protocol', 'all', 'prio', '1', 'u32', 'match', 'u32', '0', '0'];
    const through = ['action', 'mirred', 'egress', 'redirect', 'dev', upload];
    await runTool('tc', ['filter', 'add', 'dev', port, 'ingress', ...everything, ...through]);
    if (!(await leadsTo(port, upload))) refuseFindings([`tc: ${port} does not lead to ${upload}`]);
  }
}

/** Takes away what holds the bandwidth of a bridge, whether or not the bridge and its ports are still there. */
export async function removeShape(bridge: string): Promise<void> {
  const upload = uploadDevice(bridge);
  if (!hostDevices().has(upload)) return;
  for (const port of await portsOf(bridge)) await tryTool('tc', ['qdisc', 'del', 'dev', port, 'clsact']);
  await tryTool('tc', ['qdisc', 'del', 'dev', bridge, 'root']);
  const result = await tryTool('ip', ['link', 'del', upload]);
  if (result.exitCode === 0 || !hostDevices().has(upload)) return;
  throw fail('FENCE_FAILED', { detail: `the device ${upload} cannot be removed: ${result.stderr.trim()}` });
}

/** What of these does not hold any more, in one reading for all. A device that is gone carries nothing. */
export async function shapeFindings(shapes: readonly Shape[]): Promise<string[]> {
  if (shapes.length === 0) return [];
  const all = qdiscsOf(await runTool('tc', ['-j', 'qdisc', 'show']));
  const devices = hostDevices();
  return shapes
    .filter(({ bridge }) => devices.has(bridge))
    .flatMap(({ bridge, bitsPerSecond, ports }) => {
      const holds = (device: string): boolean =>
        all.some(({ dev, kind, options }) => {
          // The kernel counts whole bytes.
          return dev === device && kind === 'tbf' && options?.rate === Math.floor(bitsPerSecond / 8);
        });
      const leads = (port: string): boolean => all.some(({ dev, kind }) => dev === port && kind === 'clsact');
      const upload = uploadDevice(bridge);
      return [
        ...[bridge, upload]
          .filter((device) => !holds(device))
          .map((device) => `tc: ${device} does not hold ${bitsPerSecond} bit/s`),
        ...ports
          .filter((port) => devices.has(port) && !leads(port))
          .map((port) => `tc: ${port} does not lead to ${upload}`),
      ];
    });
}

function refuseFindings(findings: readonly string[]): void {
  if (findings.length === 0) return;
  throw fail('FENCE_FAILED', { detail: `the bandwidth read back is not that given: ${findings[0] ?? ''}`, findings });
}

/** Upload devices whose run is not among these: what a crash left. */
export async function removeStrayShapes(runIdsToKeep: ReadonlySet<string>): Promise<void> {
  for (const device of hostDevices()) {
    if (!device.startsWith(UPLOAD_PREFIX)) continue;
    const bridge = `${FENCE_BRIDGE_PREFIX}${device.slice(UPLOAD_PREFIX.length)}`;
    const runId = runIdOf(bridge);
    if (runId !== null && !runIdsToKeep.has(runId)) await removeShape(bridge);
  }
}

async function makeUploadDevice(device: string): Promise<void> {
  const made = await tryTool('ip', ['link', 'add', device, 'type', 'ifb']);
  if (made.exitCode === 0) return;
  throw fail('FENCE_FAILED', {
    detail: `the bandwidth that a run may send cannot be held: no ifb device can be made: ${made.stderr.trim()}`,
    hint: 'load the module with `modprobe ifb numifbs=0`, or leave `limits.bandwidth` out of the profile',
  });
}

async function limitRate(device: string, bitsPerSecond: number): Promise<void> {
  const bytesPerMs = bitsPerSecond / 8_000;
  const burstBytes = Math.ceil(Math.max(BURST_BYTES_MIN, bytesPerMs * BURST_MS));
  const queueBytes = Math.ceil(Math.max(QUEUE_BYTES_MIN, bytesPerMs * QUEUE_MS));
  const bucket = [
    'tbf',
    'rate',
    `${bitsPerSecond}bit`,
    'burst',
    `${burstBytes}b`,
    'limit',
    `${burstBytes + queueBytes}b`,
  ];
  const result = await tryTool('tc', ['qdisc', 'replace', 'dev', device, 'root', 'handle', SHAPE_HANDLE, ...bucket]);
  if (result.exitCode === 0) return;
  throw fail('FENCE_FAILED', {
    detail: `the bandwidth of ${device} cannot be held: ${result.stderr.trim().split('\n')[0] ?? ''}`,
    hint: 'load the module with `modprobe sch_tbf`, or leave `limits.bandwidth` out of the profile',
  });
}

async function leadsTo(port: string, upload: string): Promise<boolean> {
  const shown = await tryTool('tc', ['filter', 'show', 'dev', port, 'ingress']);
  return shown.exitCode === 0 && shown.stdout.includes(`(Egress Redirect to device ${upload})`);
}

type Qdisc = { readonly kind?: string; readonly dev?: string; readonly options?: { readonly rate?: number } };

function qdiscsOf(json: string): readonly Qdisc[] {
  return parsed(json) as readonly Qdisc[];
}

/** The lists that `tc -j` and `ip -j` print; nothing at all is an empty one. */
function parsed(json: string): readonly unknown[] {
  try {
    return JSON.parse(json) as readonly unknown[];
  } catch {
    return [];
  }
}

/** The twelve characters of the run, as its bridge has them; not under the prefix that the base rules match. */
function uploadDevice(bridge: string): string {
  return `${UPLOAD_PREFIX}${bridge.slice(FENCE_BRIDGE_PREFIX.length)}`;
}
