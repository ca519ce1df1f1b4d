import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/**
 * The stand-in for the kernel's own graphics layer: the files of `/sys`, `/proc` and `/dev` that tell of AMD's and
 * Intel's cards and of who uses them, made from the same kind of script as the stand-in for NVIDIA's library.
 *
 *   device pci:ADDRESS MEMORY [used=N] [percent=N] [driver=amdgpu|xe|i915|…] [name=TEXT] [group=GID] [integrated]
 *   process pci:ADDRESS PID BYTES [key=value …]    PID has the card open and holds so much of its memory
 *   busy pci:ADDRESS PID PERCENT                   its counters grow by that share of the time that passes
 *   compute pci:ADDRESS PID BYTES                  PID works through AMD's compute interface
 *   error memory CODE pci:ADDRESS                  the driver tells nothing of a client of that card
 *   error memory CODE                              what the files say cannot be read
 *   hang memory                                    reading stands still
 *
 * Keys of a process: client=N, fd=N, thread=TID, and lines of fdinfo such as drm-resident-gtt=4096.
 */
export type GpuWorld = {
  readonly root: string;
  play(...lines: readonly string[]): void;
  remove(): void;
};

const VENDORS: Readonly<Record<string, string>> = { amdgpu: '0x1002', xe: '0x8086', i915: '0x8086' };
const GROW_MS = 40;
/** No process of a real host, in a run that is none. */
const STRANGER = { pid: 4_194_304, cgroup: '0::/ringfence/r0000000zzzzz/c\n' };

export type GpuWorldOptions = {
  /** Real device nodes, which the engine can give; else links to /dev/null. */
  readonly realNodes?: boolean;
  /** The cgroup of a process; left out: its real one. */
  readonly cgroupOf?: (pid: number) => string;
};

export function buildGpuWorld(options: GpuWorldOptions = {}): GpuWorld {
  const folder = mkdtempSync(join(tmpdir(), 'rf-drm-'));
  const root = join(folder, 'now');
  let made = 0;
  let timer: NodeJS.Timeout | null = null;
  /** Counters go on from script to script, as those of a client do. */
  const busyNs = new Map<string, number>();

  const play = (...lines: readonly string[]): void => {
    if (timer !== null) clearInterval(timer);
    const place = join(folder, String((made += 1)));
    const grow = makeTree(
      place,
      lines.map((line) => line.split(/\s+/)),
      { ...options, busyNs },
    );
    symlinkSync(place, `${root}.new`);
    renameSync(`${root}.new`, root);
    timer = setInterval(grow, GROW_MS);
    timer.unref();
  };
  play();
  return {
    root,
    play,
    remove: () => {
      if (timer !== null) clearInterval(timer);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

type Making = GpuWorldOptions & { readonly busyNs: Map<string, number> };
type Card = { readonly address: string; readonly node: string; readonly driver: string };

/** Returns what moves the counters on. */
function makeTree(place: string, statements: readonly (readonly string[])[], making: Making): () => void {
  const of = (verb: string): readonly (readonly string[])[] => statements.filter(([first]) => first === verb);
  put(`${place}/proc/meminfo`, 'MemTotal:       33554432 kB\n');
  put(`${place}/proc/sys/kernel/osrelease`, '6.18.2-stand-in\n');
  const cards = new Map(of('device').map((words, index) => [words[1] ?? '', makeCard(place, words, index, making)]));
  const cardOf = (id: string | undefined): Card => {
    const card = cards.get(id ?? '');
    if (card === undefined) throw new Error(`the script has no device ${id}`);
    return card;
  };
  for (const words of of('process')) makeProcess(place, cardOf(words[1]), words, making);
  for (const [, id, pid = '', bytes = '0'] of of('compute')) makeCompute(place, cardOf(id), { pid, bytes }, making);
  for (const [, , , id] of of('error')) {
    if (id === undefined) put(`${place}/proc/${STRANGER.pid}/cgroup/not-a-file`, '');
    else {
      put(`${place}/proc/${STRANGER.pid}/cgroup`, STRANGER.cgroup);
      openFile(`${place}/proc/${STRANGER.pid}`, '3', { node: cardOf(id).node, text: 'pos:\t0\nflags:\t02\n' });
    }
  }
  if (of('hang').length > 0) {
    mkdirSync(`${place}/proc/${STRANGER.pid}`, { recursive: true });
    execFileSync('mkfifo', [`${place}/proc/${STRANGER.pid}/cgroup`]);
  }
  const busy = of('busy').map(([, id, pid = '', percent]) => ({ card: cardOf(id), pid, percent: Number(percent) }));
  let lastMs = performance.now();
  return () => {
    const nowMs = performance.now();
    for (const { card, pid, percent } of busy) {
      const key = `${card.address} ${pid}`;
      making.busyNs.set(key, Math.round((making.busyNs.get(key) ?? 0) + (nowMs - lastMs) * 1e6 * (percent / 100)));
      const words = of('process').find(([, id, other]) => id === `pci:${card.address}` && other === pid);
      if (words !== undefined) writeClient(place, card, words, making);
    }
    lastMs = nowMs;
  };
}

function makeCard(place: string, words: readonly string[], index: number, { realNodes }: Making): Card {
  const [, id = '', memory = '0'] = words;
  const option = (name: string): string | undefined => optionOf(words, name);
  const address = id.slice('pci:'.length);
  const driver = option('driver') ?? 'amdgpu';
  const node = `renderD${128 + index}`;
  const device = `${place}/sys/devices/${address}`;
  put(`${device}/uevent`, `DRIVER=${driver}\nPCI_CLASS=30000\nPCI_SLOT_NAME=${address}\n`);
  put(`${device}/vendor`, `${option('vendor') ?? VENDORS[driver] ?? '0x1af4'}\n`);
  put(`${device}/device`, '0x744c\n');
  const name = option('name');
  if (name !== undefined) put(`${device}/product_name`, `${name}\n`);
  const isAmd = driver === 'amdgpu';
  if (isAmd) put(`${device}/mem_info_vram_total`, `${memory}\n`);
  if (isAmd) put(`${device}/mem_info_vram_used`, `${option('used') ?? '0'}\n`);
  if (isAmd) put(`${device}/gpu_busy_percent`, `${option('percent') ?? '0'}\n`);
  if (!isAmd && !words.includes('integrated')) put(`${device}/tile0/physical_vram_size_bytes`, `${memory}\n`);
  const drm = `${place}/sys/class/drm/${node}`;
  put(`${drm}/dev`, '1:3\n');
  symlinkSync(device, `${drm}/device`);
  makeNode(`${place}/dev/dri/${node}`, { realNodes: realNodes ?? false, group: option('group') });
  return { address, node, driver };
}

function makeNode(
  path: string,
  { realNodes, group }: { readonly realNodes: boolean; readonly group: string | undefined },
): void {
  mkdirSync(dirname(path), { recursive: true });
  if (!realNodes) link('/dev/null', path);
  else {
    // Another node of the device that takes everything and gives nothing.
    execFileSync('mknod', [path, 'c', '1', '3']);
    execFileSync('chmod', [group === undefined ? '0666' : '0660', path]);
    execFileSync('chown', [`0:${group ?? '0'}`, path]);
  }
}

function makeProcess(place: string, card: Card, words: readonly string[], making: Making): void {
  makeIdentity(place, words[2] ?? '', making);
  writeClient(place, card, words, making);
}

function makeIdentity(place: string, pid: string, { cgroupOf }: Making): void {
  const real = (name: string): string => textOf(`/proc/${pid}/${name}`);
  put(`${place}/proc/${pid}/cgroup`, cgroupOf?.(Number(pid)) ?? real('cgroup'));
  put(`${place}/proc/${pid}/stat`, real('stat'));
}

function writeClient(place: string, card: Card, words: readonly string[], { busyNs }: Making): void {
  const [, , pid = '', bytes = '0', ...more] = words;
  const lines = more.filter((word) => word.startsWith('drm-')).map((word) => fieldOf(word));
  const memory = card.driver === 'amdgpu' ? 'drm-memory-vram' : 'drm-resident-vram0';
  const text = [
    'pos:\t0',
    'flags:\t02100002',
    `drm-driver:\t${card.driver}`,
    `drm-client-id:\t${optionOf(words, 'client') ?? pid}`,
    `drm-pdev:\t${card.address}`,
    `${memory}:\t${bytes}`,
    `drm-engine-gfx:\t${busyNs.get(`${card.address} ${pid}`) ?? 0} ns`,
    ...lines,
  ].join('\n');
  const thread = optionOf(words, 'thread');
  const table = thread === undefined ? `${place}/proc/${pid}` : `${place}/proc/${pid}/task/${thread}`;
  openFile(table, optionOf(words, 'fd') ?? String(10 + Number(card.node.slice(-1))), {
    node: card.node,
    text: `${text}\n`,
  });
}

/** Times have a unit, and words of a script no spaces. */
function fieldOf(word: string): string {
  const line = word.replace('=', ':\t');
  return /^drm-engine-(?!capacity)/.test(word) ? `${line} ns` : line;
}

function openFile(table: string, fd: string, { node, text }: { readonly node: string; readonly text: string }): void {
  put(`${table}/fdinfo/${fd}`, text);
  mkdirSync(`${table}/fd`, { recursive: true });
  link(`/dev/dri/${node}`, `${table}/fd/${fd}`);
}

function makeCompute(
  place: string,
  card: Card,
  use: { readonly pid: string; readonly bytes: string },
  making: Making,
): void {
  const nodes = `${place}/sys/class/kfd/kfd/topology/nodes`;
  const [domain = '0', bus = '0', slot = '0'] = card.address.split(':');
  const [device = '0', part = '0'] = slot.split('.');
  const location = (Number.parseInt(bus, 16) << 8) | (Number.parseInt(device, 16) << 3) | Number(part);
  put(`${nodes}/0/gpu_id`, '0\n');
  put(`${nodes}/1/gpu_id`, '777\n');
  put(`${nodes}/1/properties`, `simd_count 96\nlocation_id ${location}\ndomain ${Number.parseInt(domain, 16)}\n`);
  put(`${place}/sys/class/kfd/kfd/dev`, '1:3\n');
  makeNode(`${place}/dev/kfd`, { realNodes: making.realNodes ?? false, group: undefined });
  put(`${place}/sys/class/kfd/kfd/proc/${use.pid}/vram_777`, `${use.bytes}\n`);
  makeIdentity(place, use.pid, making);
  put(`${place}/proc/${use.pid}/fdinfo/9`, 'pos:\t0\n');
  mkdirSync(`${place}/proc/${use.pid}/fd`, { recursive: true });
  link('/dev/kfd', `${place}/proc/${use.pid}/fd/9`);
}

function optionOf(words: readonly string[], name: string): string | undefined {
  return words.find((word) => word.startsWith(`${name}=`))?.slice(name.length + 1);
}

/** A reader never sees half of it. */
function put(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}~`, text);
  renameSync(`${path}~`, path);
}

function link(target: string, path: string): void {
  try {
    symlinkSync(target, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
