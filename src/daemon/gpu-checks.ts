import { existsSync } from 'node:fs';
import type { DoctorCheck } from '../api/service.ts';
import type { EngineFacts } from '../core/ports/engine.ts';
import { formatBytes } from '../core/units.ts';
import type { GpuDesk } from './gpu-desk.ts';

const DMEM_CAPACITY = '/sys/fs/cgroup/dmem.capacity';
const TOOLKIT = ['/usr/bin/nvidia-container-runtime-hook', '/usr/bin/nvidia-cdi-hook', '/usr/bin/nvidia-ctk'];

/** What holds GPUs here. A host without any is whole: profiles that ask for one are refused on it. */
export function gpuChecks(desk: Pick<GpuDesk, 'state'>, engine: EngineFacts): readonly DoctorCheck[] {
  const { problem, reading, suspect } = desk.state();
  if (problem !== null || reading === null) {
    return [
      degraded('limits.gpu', 'none', `${problem ?? 'no reading yet'}; a profile that asks for a GPU is refused`, {
        fix: 'install the NVIDIA driver, or leave limits.gpu out of the profile',
      }),
      degraded('limits.gpu.memory', 'none', `no device to hold; ${dmem()}`, { fix: 'the same' }),
      degraded('budget.gpu', 'none', 'no device to measure', { fix: 'the same' }),
    ];
  }
  const cards = reading.devices.filter(({ parentUuid }) => parentUuid === null);
  const slices = reading.devices.filter(({ parentUuid }) => parentUuid !== null);
  const shown = cards.map(({ uuid, name, memoryBytes, problem: own }) =>
    own === null ? `${uuid} (${name}, ${formatBytes(memoryBytes)})` : `${uuid} (${own})`,
  );
  const evidence = `driver ${reading.driverVersion}, library ${reading.libraryVersion}: ${shown.join(', ')}`;
  return [
    cards.every((card) => card.problem === null) && suspect.length === 0
      ? { name: 'limits.gpu', state: 'ok', rung: 'kernel', evidence, fix: null }
      : degraded('limits.gpu', 'kernel', `${evidence}; given to nobody: ${suspect.join(', ') || 'none'}`, {
          fix: 'look at the driver’s messages in the kernel log; a lost device needs a restart of the host',
        }),
    memoryCheck(slices.length),
    grantCheck(engine),
    cards.some(({ tellsProcesses, mig }) => tellsProcesses || mig === 'on')
      ? { name: 'budget.gpu', state: 'ok', rung: 'watchdog', evidence: 'utilisation of each process', fix: null }
      : degraded('budget.gpu', 'watchdog', 'the driver tells no utilisation of processes; that of the device counts', {
          fix: 'use a driver and a card that tell it',
        }),
  ];
}

function memoryCheck(slices: number): DoctorCheck {
  if (slices > 0) {
    const evidence = `${slices} MIG slices hold it in the device; whole cards are watched`;
    return { name: 'limits.gpu.memory', state: 'ok', rung: 'driver', evidence, fix: null };
  }
  return {
    name: 'limits.gpu.memory',
    state: 'ok',
    rung: 'watchdog',
    evidence: `read several times a second and killed; ${dmem()}`,
    fix: null,
  };
}

function dmem(): string {
  return existsSync(DMEM_CAPACITY) ? 'the kernel has dmem' : 'the kernel has no dmem controller';
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
