import { FENCE_BRIDGE_PREFIX } from '../core/fence-names.ts';
import { fail } from '../core/errors.ts';
import { runTool, tryTool } from './command.ts';
import { hostDevices } from './host-networks.ts';
import { runIdOf } from './pool.ts';

/**
 * A run's bandwidth, each direction by itself: a token bucket on the bridge for what comes to the run, and one on a
 * device of its own (ifb) through which everything passes that the bridge receives from it. The kernel holds both.
 */
const UPLOAD_PREFIX = 'rfi';
const SHAPE_HANDLE = '5246:';
/** What may pass at a stroke: 20 ms of the rate, since timers are coarser than packets; never less than some packets. */
const BURST_MS = 20;
const BURST_BYTES_MIN = 16 * 1024;
/** What may wait: 50 ms of the rate. More would be delay, less would make senders slow down too early. */
const QUEUE_MS = 50;
const QUEUE_BYTES_MIN = 32 * 1024;

export type Shape = { readonly bridge: string; readonly bitsPerSecond: number };

export async function applyShape({ bridge, bitsPerSecond }: Shape): Promise<void> {
  if (!deviceExists(bridge)) {
    throw fail('FENCE_FAILED', {
      detail: `the bandwidth cannot be held: there is no bridge ${bridge} yet`,
      hint: 'the network of the run has to exist before its bandwidth is set',
    });
  }
  const upload = uploadDevice(bridge);
  if (!deviceExists(upload)) await makeUploadDevice(upload);
  await runTool('ip', ['link', 'set', upload, 'up']);
  await limitRate(upload, bitsPerSecond);
  await limitRate(bridge, bitsPerSecond);
  const shown = await tryTool('tc', ['-j', 'qdisc', 'show', 'dev', bridge]);
  if (!qdiscsOf(shown.stdout).some(({ kind }) => kind === 'clsact')) {
    await runTool('tc', ['qdisc', 'add', 'dev', bridge, 'clsact']);
  }
  if (!(await leadsTo(bridge, upload))) {
    const everything = ['protocol', 'all', 'prio', '1', 'u32', 'match', 'u32', '0', '0'];
    const through = ['action', 'mirred', 'egress', 'redirect', 'dev', upload];
    await runTool('tc', ['filter', 'add', 'dev', bridge, 'ingress', ...everything, ...through]);
  }
  const findings = await shapeFindings([{ bridge, bitsPerSecond }]);
  if (!(await leadsTo(bridge, upload))) findings.push(`tc: ${bridge} does not lead to ${upload}`);
  if (findings.length === 0) return;
  throw fail('FENCE_FAILED', { detail: `the bandwidth read back is not that given: ${findings[0] ?? ''}`, findings });
}

/** Takes away what holds the bandwidth of a bridge, whether or not the bridge is still there. */
export async function removeShape(bridge: string): Promise<void> {
  const upload = uploadDevice(bridge);
  if (!deviceExists(upload)) return;
  if (deviceExists(bridge)) {
    for (const kind of ['root', 'clsact']) await tryTool('tc', ['qdisc', 'del', 'dev', bridge, kind]);
  }
  const result = await tryTool('ip', ['link', 'del', upload]);
  if (result.exitCode !== 0 && deviceExists(upload)) {
    throw fail('FENCE_FAILED', { detail: `the device ${upload} cannot be removed: ${result.stderr.trim()}` });
  }
}

/** What of these does not hold any more. A bridge that is gone carries nothing. */
export async function shapeFindings(shapes: readonly Shape[]): Promise<string[]> {
  if (shapes.length === 0) return [];
  const all = qdiscsOf(await runTool('tc', ['-j', 'qdisc', 'show']));
  const devices = hostDevices();
  return shapes
    .filter(({ bridge }) => devices.has(bridge))
    .flatMap(({ bridge, bitsPerSecond }) => {
      const upload = uploadDevice(bridge);
      const held = (device: string): boolean =>
        all.some((each) => each.dev === device && each.kind === 'tbf' && holds(each, bitsPerSecond));
      const rates = [bridge, upload].filter((device) => !held(device));
      const findings = rates.map((device) => `tc: ${device} does not hold ${bitsPerSecond} bit/s`);
      const led = all.some(({ dev, kind }) => dev === bridge && kind === 'clsact');
      return led ? findings : [...findings, `tc: ${bridge} does not lead to ${upload}`];
    });
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

async function leadsTo(bridge: string, upload: string): Promise<boolean> {
  const shown = await tryTool('tc', ['filter', 'show', 'dev', bridge, 'ingress']);
  return shown.exitCode === 0 && shown.stdout.includes(`(Egress Redirect to device ${upload})`);
}

type Qdisc = { readonly kind?: string; readonly dev?: string; readonly options?: { readonly rate?: number } };

function qdiscsOf(json: string): readonly Qdisc[] {
  try {
    return JSON.parse(json) as readonly Qdisc[];
  } catch {
    return [];
  }
}

/** The kernel holds whole bytes a second. */
function holds({ options }: Qdisc, bitsPerSecond: number): boolean {
  return options?.rate === Math.floor(bitsPerSecond / 8);
}

/** The twelve characters of the run, as its bridge has them; not under the prefix that the base rules match. */
function uploadDevice(bridge: string): string {
  return `${UPLOAD_PREFIX}${bridge.slice(FENCE_BRIDGE_PREFIX.length)}`;
}

function deviceExists(device: string): boolean {
  return hostDevices().has(device);
}
