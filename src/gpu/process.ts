import { messageOf } from '../core/errors.ts';
import { bootTimeMs, sharesFiles } from '../kernel/libc.ts';
import { openNvml } from '../kernel/nvml.ts';
import { openDrmSource } from './drm.ts';
import type { GpuReport, GpuRequest } from './messages.ts';
import { openNvmlSource } from './nvml.ts';
import { createOwners } from './owner.ts';
import type { GpuSource, GpuSourcePlan } from './source.ts';

/**
 * The process that asks one driver: it may hang in a call for as long as the driver likes, or crash with it. Whoever
 * started it sees no reading come, kills it and starts another; nothing that holds a run waits for it.
 */
let source: GpuSource | null = null;
let timer: NodeJS.Timeout | null = null;

process.on('disconnect', () => process.exit());
// A terminal sends these to the whole group; the daemon decides when this process may go.
process.on('SIGINT', () => undefined);
process.on('SIGHUP', () => undefined);
process.on('message', (message) => {
  const request = message as GpuRequest;
  if (request.kind === 'start') start(request);
  else pace(request.everyMs);
});

function start({ source: plan, everyMs }: Extract<GpuRequest, { kind: 'start' }>): void {
  try {
    source = open(plan);
  } catch (error) {
    // A library that could not be opened may be half of the way there: the next process begins from nothing.
    tell({ kind: 'failed', message: messageOf(error) });
    process.exitCode = 1;
    process.disconnect();
    return;
  }
  pace(everyMs);
}

function open(plan: GpuSourcePlan): GpuSource {
  if (plan.kind === 'drm') {
    return openDrmSource({ root: plan.root, owners: createOwners(`${plan.root}/proc`), now: bootTimeMs, sharesFiles });
  }
  const owners = createOwners();
  return openNvmlSource({ nvml: openNvml(plan.library), owners, now: bootTimeMs, clockUs: () => Date.now() * 1000 });
}

function pace(everyMs: number): void {
  if (timer !== null) clearInterval(timer);
  timer = setInterval(look, everyMs);
  look();
}

function look(): void {
  if (source === null) return;
  try {
    tell({ kind: 'read', reading: source.read() });
  } catch (error) {
    tell({ kind: 'unreadable', message: messageOf(error) });
  }
}

function tell(report: GpuReport): void {
  // A channel that is closing has nobody at its other end any more.
  if (process.connected) process.send?.(report, undefined, undefined, () => undefined);
}
