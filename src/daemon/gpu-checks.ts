import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { DoctorCheck } from '../api/service.ts';
import type { EngineFacts } from '../core/ports/engine.ts';
import type { GpuDevice } from '../core/ports/gpu.ts';
import type { Rung } from '../core/outcome.ts';
import { formatBytes } from '../core/units.ts';
import { dmemRegionOf } from '../meter/dmem.ts';
import { detectLayout } from '../meter/layout.ts';
import type { GpuDesk } from './gpu-desk.ts';

const TOOLKIT = ['/usr/bin/nvidia-container-runtime-hook', '/usr/bin/nvidia-cdi-hook', '/usr/bin/nvidia-ctk'];

/** What holds GPUs here, card by card. A host without any is whole: profiles that ask for one are refused on it. */
export function gpuChecks(desk: Pick<GpuDesk, 'state'>, engine: EngineFacts): readonly DoctorCheck[] {
  const { problem, reading, suspect } = desk.state();
  if (reading === null) {
    return [
      degraded('limits.gpu', 'none', `${problem ?? 'no reading yet'}; a profile that asks for a GPU is refused`, {
        fix: 'install the driver of the card (for NVIDIA: libnvidia-ml.so.1), or leave limits.gpu out of the profile',
      }),
      degraded('limits.gpu.memory', 'none', `no device to hold; ${dmem()}`, { fix: 'the same' }),
      degraded('budget.gpu', 'none', 'no device to measure', { fix: 'the same' }),
    ];
  }
  const cards = reading.devices.filter(({ parentUuid }) => parentUuid === null);
  const slicesOf = (card: GpuDevice): number =>
    reading.devices.filter(({ parentUuid }) => parentUuid === card.uuid).length;
  const isWhole = problem === null && cards.every((card) => card.problem === null) && suspect.length === 0;
  const evidence = [
    `${cards.length} cards; ${reading.versions.join(', ')}`,
    ...(problem === null ? [] : [problem]),
    ...(suspect.length === 0
      ? []
      : [`given to nobody, because something of an ended run is there: ${suspect.join(', ')}`]),
  ].join('; ');
  return [
    isWhole
      ? { name: 'limits.gpu', state: 'ok', rung: 'kernel', evidence, fix: null }
      : degraded('limits.gpu', 'kernel', evidence, {
          fix: 'look at the driver’s messages in the kernel log; a lost device needs a restart of the host',
        }),
    ...cards.map((card) => cardCheck(card, slicesOf(card))),
    memoryCheck(cards.map((card) => [card, slicesOf(card)] as const)),
    ...(cards.some(({ vendor }) => vendor === 'nvidia') ? [grantCheck(engine)] : []),
    cards.every(({ tellsProcesses, mig }) => tellsProcesses || mig === 'on')
      ? { name: 'budget.gpu', state: 'ok', rung: 'watchdog', evidence: 'the time of each process is told', fix: null }
      : degraded(
          'budget.gpu',
          'watchdog',
          `${blindOf(cards)}: the time of each process is not told; that of the card counts`,
          {
            fix: 'use a driver and a card that tell it',
          },
        ),
  ];
}

function blindOf(cards: readonly GpuDevice[]): string {
  return cards.flatMap(({ uuid, tellsProcesses, mig }) => (tellsProcesses || mig === 'on' ? [] : [uuid])).join(', ');
}

/** One card: whose it is, who drives it, and what holds `limits.gpu.memory` on it. */
function cardCheck(card: GpuDevice, slices: number): DoctorCheck {
  const { name, rung, why } = { name: `gpu ${card.uuid}`, ...memoryRung(card, slices) };
  const evidence = `${card.vendor}, ${card.name}, ${formatBytes(card.memoryBytes)}, driver ${card.driver}; memory: ${why}${hostMemory(card)}`;
  const trouble = card.problem ?? card.withheld;
  if (trouble === null) return { name, state: 'ok', rung, evidence, fix: null };
  return degraded(name, rung, `${evidence}; given to nobody: ${trouble}`, {
    fix: 'end what is said there; then it is given again',
  });
}

/** What these drivers take of the host for an agent, its cgroup does not count. */
function hostMemory({ driver }: GpuDevice): string {
  if (driver !== 'amdgpu' && driver !== 'xe') return '';
  return '; memory of the host that it takes: read and killed above limits.memory and limits.gpu.memory together';
}

function hasDmem(): boolean {
  const mount = detectLayout().mounts.unified;
  return mount !== null && existsSync(join(mount, 'dmem.capacity'));
}

function dmem(): string {
  return hasDmem() ? 'the kernel has dmem' : 'the kernel has no dmem controller';
}

/** Over all cards: the weakest of what holds them. */
function memoryCheck(cards: readonly (readonly [GpuDevice, number])[]): DoctorCheck {
  const rungs = cards.map(([card, slices]) => memoryRung(card, slices).rung);
  const rung = RUNGS.findLast((each) => rungs.includes(each)) ?? 'watchdog';
  const evidence = RUNGS.flatMap((each) => {
    const count = rungs.filter((other) => other === each).length;
    return count === 0 ? [] : [`${count} of ${cards.length} cards by ${each}`];
  }).join(', ');
  return { name: 'limits.gpu.memory', state: 'ok', rung, evidence: `${evidence}; ${dmem()}`, fix: null };
}

/** Strongest first. */
const RUNGS: readonly Rung[] = ['kernel', 'driver', 'watchdog'];

function memoryRung(card: GpuDevice, slices: number): { readonly rung: Rung; readonly why: string } {
  if (slices > 0) return { rung: 'driver', why: `${slices} MIG slices, held in the device` };
  const mount = detectLayout().mounts.unified;
  if (dmemRegionOf(card.pciAddress, mount) !== null)
    return {
      rung: 'kernel',
      why: 'the kernel’s dmem controller, for a run with this card alone; else read and killed',
    };
  const lack = card.vendor === 'nvidia' ? 'its driver alone writes dmem' : 'dmem does not have it';
  return {
    rung: 'watchdog',
    why: `read several times a second and killed; ${hasDmem() ? lack : dmem()}`,
  };
}

function grantCheck({ cdiFolders }: EngineFacts): DoctorCheck {
  const toolkit = TOOLKIT.filter((path) => existsSync(path));
  if (toolkit.length === 0) {
    return degraded('gpu grant', null, 'the NVIDIA container toolkit is not installed', {
      fix: 'install nvidia-container-toolkit, then `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`',
    });
  }
  return cdiFolders.length > 0
    ? { name: 'gpu grant', state: 'ok', rung: 'kernel', evidence: `CDI, from ${cdiFolders.join(', ')}`, fix: null }
    : degraded('gpu grant', 'kernel', 'the runtime hook: the engine has no CDI', {
        fix: 'use engine 25 or newer with CDI on; what the hook gives can be lost when a container is updated',
      });
}

function degraded(
  name: string,
  rung: DoctorCheck['rung'],
  evidence: string,
  { fix }: { readonly fix: string },
): DoctorCheck {
  return { name, state: 'degraded', rung, evidence, fix };
}
