import { readFileSync } from 'node:fs';
import type { GpuDevice, GpuProcess } from '../core/ports/gpu.ts';
import { listDrmCards, type DrmCard } from './drm-cards.ts';
import { drmHolders, type DrmHolder } from './drm-holders.ts';
import { busyNsBetween, type DrmClient } from './fdinfo.ts';
import type { Owners } from './owner.ts';
import type { GpuSource } from './source.ts';

/**
 * AMD's and Intel's cards, from what the kernel tells in sysfs and of each open file. Counters only grow, so what a
 * client did between two looks is their difference. A client that hid its file for a while (in a socket's queue, say)
 * did what its counters have grown by, and owes the time: it is counted as fast as time passes.
 */
export type DrmSourceOptions = {
  /** Where `sys`, `proc` and `dev` lie; empty for the host's own. */
  readonly root: string;
  readonly owners: Owners;
  /** Milliseconds since boot. */
  now(): number;
  readonly sharesFiles: (pid: number, threadId: number) => boolean;
};

/** Clients that were seen once are remembered, because what hides may come back; the oldest are forgotten first. */
const CLIENTS_MAX = 4_096;
const COUNTED_DRIVER = 'i915';

type Span = { readonly atUs: number; readonly passedNs: number };
type Worked = Span & { readonly workedNs: ReadonlyMap<string, number> };
type Seen = { readonly client: DrmClient; readonly atUs: number; readonly owedNs: number };

export function openDrmSource(options: DrmSourceOptions): GpuSource {
  const { root, owners } = options;
  const procFolder = `${root}/proc`;
  const seen = new Map<string, Seen>();
  /** Cycles of each engine of each card at the last look, whoever told them. */
  let totals = new Map<string, number>();
  let lastUs: number | null = null;

  /** How long the card worked for this client since the look before, at most all the time. */
  const workedNs = (client: DrmClient, { atUs, passedNs }: Span): number => {
    const key = clientKey(client);
    const before = seen.get(key) ?? null;
    // Whatever a client did before the first look at it all was for an earlier reader to count.
    const isFirstLook = lastUs === null;
    const sinceNs = before === null ? passedNs : (atUs - before.atUs) * 1000;
    const totalBefore = (engine: string): number | null => totals.get(`${client.pciAddress} ${engine}`) ?? null;
    const grownNs = isFirstLook ? 0 : busyNsBetween(before?.client ?? null, client, { passedNs: sinceNs, totalBefore });
    const owedNs = (before?.owedNs ?? 0) + grownNs;
    const workNs = Math.min(owedNs, passedNs);
    seen.delete(key);
    seen.set(key, { client, atUs, owedNs: owedNs - workNs });
    return workNs;
  };

  const processesOn = (card: DrmCard, holders: readonly DrmHolder[], span: Worked): readonly GpuProcess[] => {
    const counted = new Set<string>();
    return holders.flatMap(({ pid, owner, clients }) => {
      const mine = clients.filter(({ pciAddress }) => pciAddress === card.pciAddress);
      const computeBytes = computeMemoryOf(root, pid, card);
      if (mine.length === 0 && computeBytes === 0) return [];
      // A file that was inherited or passed on is one client, and counts once in each run that has it.
      const own = mine.filter(({ clientId }) => {
        const key = `${owner.runId} ${clientId}`;
        return !counted.has(key) && counted.add(key);
      });
      const busyNs = own.reduce((sum, client) => sum + (span.workedNs.get(clientKey(client)) ?? 0), 0);
      const percent = span.passedNs === 0 ? 0 : Math.min(100, (busyNs / span.passedNs) * 100);
      const memory = memoryOf(own, card);
      const samples = span.passedNs === 0 ? [] : [{ atUs: span.atUs, percent }];
      return [{ pid, ...owner, ...memory, memoryBytes: Math.max(memory.memoryBytes, computeBytes), samples }];
    });
  };

  const deviceOf = (card: DrmCard, holders: readonly DrmHolder[], span: Worked): GpuDevice => {
    const processes = processesOn(card, holders, span);
    const held = processes.reduce((sum, { memoryBytes }) => sum + (memoryBytes ?? 0), 0);
    const isUntold = holders.some(({ untold }) => untold.includes(card.node));
    return {
      uuid: `pci:${card.pciAddress}`,
      name: card.name,
      vendor: card.vendor,
      driver: card.driver,
      pciAddress: card.pciAddress,
      parentUuid: null,
      migProfile: null,
      mig: 'unsupported',
      memoryBytes: card.memoryBytes,
      memoryBytesUsed: Math.min(card.memoryBytes, card.memoryBytesUsed ?? held),
      percent: card.percent,
      // The work of AMD's compute interface is in no client's counters; then the whole card's counts.
      tellsProcesses: !processes.some(({ pid }) => holders.some((each) => each.pid === pid && each.computes)),
      sinceUs: lastUs ?? span.atUs,
      processes,
      problem: isUntold ? `${card.driver} tells nothing of who uses the card; a newer kernel does` : null,
      withheld: card.withheld,
      nodes: card.nodes,
    };
  };

  return {
    read: () => {
      const cards = listDrmCards(root);
      if (cards.length === 0) throw new Error('the host has no AMD or Intel card any more');
      const holders = drmHolders({ procFolder, owners, sharesFiles: options.sharesFiles });
      const atMs = options.now();
      const atUs = Math.floor(atMs * 1000);
      const span = { atUs, passedNs: lastUs === null ? 0 : (atUs - lastUs) * 1000 };
      const clients = new Map(holders.flatMap((holder) => holder.clients).map((each) => [clientKey(each), each]));
      const worked = new Map([...clients].map(([key, client]) => [key, workedNs(client, span)]));
      const devices = cards.map((card) => deviceOf(card, holders, { ...span, workedNs: worked }));
      owners.keep(new Set(holders.map(({ pid }) => pid)));
      lastUs = atUs;
      totals = totalsOf(clients.values(), totals);
      for (const key of seen.keys()) {
        if (seen.size <= CLIENTS_MAX) break;
        seen.delete(key);
      }
      return { atMs, source: 'drm', versions: [`kernel ${kernelOf(procFolder)}`], devices };
    },
    close: () => undefined,
  };
}

function clientKey({ pciAddress, clientId }: DrmClient): string {
  return `${pciAddress} ${clientId}`;
}

/**
 * A card without memory of its own has what the driver holds of the host's for its clients. i915 takes that as files in
 * memory, which the kernel counts in the client's cgroup; amdgpu and xe take plain pages, which it counts nowhere.
 */
function memoryOf(
  clients: readonly DrmClient[],
  { isIntegrated, driver }: DrmCard,
): { readonly memoryBytes: number; readonly hostMemoryBytes: number } {
  const hostBytes = clients.reduce((sum, client) => sum + client.hostMemoryBytes, 0);
  const ownBytes = clients.reduce((sum, client) => sum + client.memoryBytes, 0);
  return {
    memoryBytes: isIntegrated ? ownBytes + hostBytes : ownBytes,
    hostMemoryBytes: driver === COUNTED_DRIVER ? 0 : hostBytes,
  };
}

/** What AMD's compute interface holds for a process; its own list of processes does not hang on open files. */
function computeMemoryOf(root: string, pid: number, { computeIds }: DrmCard): number {
  return computeIds.reduce((sum, id) => {
    const text = read(`${root}/sys/class/kfd/kfd/proc/${pid}/vram_${id}`);
    return sum + (/^\d+$/.test(text) ? Number(text) : 0);
  }, 0);
}

function totalsOf(clients: Iterable<DrmClient>, before: ReadonlyMap<string, number>): Map<string, number> {
  const totals = new Map(before);
  for (const client of clients) {
    for (const [engine, { total }] of Object.entries(client.cycles))
      totals.set(`${client.pciAddress} ${engine}`, total);
  }
  return totals;
}

function kernelOf(procFolder: string): string {
  return read(`${procFolder}/sys/kernel/osrelease`);
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1').trim();
  } catch {
    return '';
  }
}
