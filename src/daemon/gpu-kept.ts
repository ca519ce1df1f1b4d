import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { RUN_ID_PATTERN } from '../core/ids.ts';
import type { GpuLease } from '../gpu/leases.ts';

/** What a daemon that starts again must know: nothing else tells which run has which device. */
export type KeptLease = GpuLease & { readonly busyMs: number };

/** Written by a daemon of ours; what is torn or foreign is no lease. */
export function readKept(file: string): Map<string, KeptLease> {
  const found = new Map<string, KeptLease>();
  let entries: [string, unknown][];
  try {
    entries = Object.entries(JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>);
  } catch {
    return found;
  }
  for (const [runId, value] of entries) {
    const { devices, share, nodes = [], busyMs } = (value ?? {}) as Partial<KeptLease>;
    const isLease = Array.isArray(devices) && devices.every((uuid) => typeof uuid === 'string');
    if (!RUN_ID_PATTERN.test(runId) || !isLease || !Array.isArray(nodes) || typeof busyMs !== 'number') continue;
    found.set(runId, { devices, share: share === true, nodes, busyMs });
  }
  return found;
}

export function writeKept(file: string, leases: readonly (readonly [string, KeptLease])[]): void {
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  writeFileSync(`${file}.new`, JSON.stringify(Object.fromEntries(leases)), { mode: 0o600 });
  renameSync(`${file}.new`, file);
}
