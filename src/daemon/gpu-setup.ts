import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { GpuPlan } from '../core/ports/engine.ts';
import type { EngineFacts } from '../core/ports/engine.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger } from '../core/ports/record.ts';
import type { Warden } from '../core/ports/warden.ts';
import { findNvmlLibrary, NVML_LIBRARY, startGpuClient } from '../gpu/client.ts';
import { listDrmCards } from '../gpu/drm-cards.ts';
import { joinGpus } from '../gpu/joined.ts';
import { findMps } from '../gpu/mps.ts';
import type { GpuSourcePlan } from '../gpu/source.ts';
import { bootTimeMs } from '../kernel/libc.ts';
import { GpuDesk, type GpuRun } from './gpu-desk.ts';
import type { RunTable } from './run-table.ts';

export type GpuSetup = { readonly desk: GpuDesk; close(): Promise<void> };

/** The kernel's own number for the first PID namespace of a host. */
const HOST_PID_NAMESPACE = 'pid:[4026531836]';
const SPECIFICATION_BYTES_MAX = 4 * 2 ** 20;

type GpuConfig = { readonly library?: string | undefined; readonly root?: string | undefined };

/** Finds what this host has of drivers and joins what reads them, what counts and who knows the runs. */
export async function openGpus(parts: {
  /** Of the configuration. `library`: left out, it is looked for where drivers put it. */
  readonly config: GpuConfig;
  readonly statePath: string;
  readonly engineFacts: EngineFacts;
  readonly warden: Warden;
  readonly ledger: Ledger;
  readonly table: RunTable;
  readonly log: Log;
}): Promise<GpuSetup> {
  const { config, engineFacts, warden, ledger, log } = parts;
  const sources = sourcesOf(config);
  const desk = new GpuDesk({
    file: join(parts.statePath, 'gpu', 'runs.json'),
    warden,
    ledger,
    log,
    absent: absence(sources, config),
    requestFor: (devices) => requestFor(devices, engineFacts),
    mpsPids: () => findMps(),
    now: bootTimeMs,
  });
  const clients = await Promise.all(
    sources.map((source) => startGpuClient({ source, log, onReading: (reading) => desk.take(reading) })),
  );
  const gpus = joinGpus(clients);
  desk.connect({ gpus, runOf: (runId) => runOf(parts.table, runId) });
  return { desk, close: async () => await gpus.close() };
}

function sourcesOf(config: GpuConfig): GpuSourcePlan[] {
  const library = findNvmlLibrary(config.library ?? null);
  const root = config.root ?? '';
  return [
    ...(library === null ? [] : [{ kind: 'nvml' as const, library }]),
    ...(listDrmCards(root).length === 0 ? [] : [{ kind: 'drm' as const, root }]),
  ];
}

/** What an administrator names is believed to give numbers of processes as this daemon sees them. */
function absence(sources: readonly GpuSourcePlan[], config: GpuConfig): string | null {
  if (sources.length === 0) return `no NVIDIA library on this host (${NVML_LIBRARY}), and no card of AMD or Intel`;
  const isHost = readlinkSync('/proc/self/ns/pid') === HOST_PID_NAMESPACE;
  return isHost || config.library !== undefined || config.root !== undefined
    ? null
    : 'the daemon does not run in the PID namespace of the host, so processes on a GPU cannot be told apart';
}

function runOf(table: RunTable, runId: string): GpuRun | null {
  const entry = table.get(runId);
  if (entry === undefined) return null;
  const { phase, usage, lastDenials } = entry.driver.state;
  return {
    profile: entry.spec.name,
    state: phase === 'cleaning' || phase === 'over' ? 'over' : 'alive',
    trafficBytes: usage.egressBytes + usage.ingressBytes,
    denied: lastDenials,
  };
}

/**
 * Through the engine's device interface where it has one and a specification names these devices: what the older way
 * gives can be lost when something else updates the container.
 */
function requestFor(devices: readonly string[], { cdiFolders }: EngineFacts): GpuPlan['request'] {
  const specifications = cdiFolders.flatMap(specificationsIn).filter((text) => text.includes('nvidia.com/gpu'));
  const isNamed = (uuid: string): boolean => specifications.some((text) => text.includes(uuid));
  return devices.length > 0 && devices.every(isNamed) ? 'cdi' : 'nvidia';
}

function specificationsIn(folder: string): readonly string[] {
  try {
    return readdirSync(folder)
      .filter((name) => /\.(?:json|ya?ml)$/.test(name))
      .map((name) => readFileSync(join(folder, name), 'utf8').slice(0, SPECIFICATION_BYTES_MAX));
  } catch {
    return [];
  }
}
