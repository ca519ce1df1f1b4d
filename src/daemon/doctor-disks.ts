import { execa } from 'execa';
import type { DoctorCheck } from '../api/service.ts';
import { saidByTool, TOOL_MS_MAX } from './doctor-tools.ts';
import { ioVersion } from './io-devices.ts';
import { findHands } from '../volume/hands.ts';

/** What holds rates and the sizes of mounts on this host. */
export async function diskChecks(): Promise<readonly DoctorCheck[]> {
  return await Promise.all([bandwidthCheck(), Promise.resolve(ioCheck()), sizeCheck()]);
}

async function bandwidthCheck(): Promise<DoctorCheck> {
  const name = 'limits.bandwidth';
  const said = await saidByTool('tc', ['-Version']);
  if (said === null) return lacks(name, { evidence: 'tc is not installed', fix: 'apt-get install iproute2' });
  const evidence = `both ways on the bridge of the run, read back at each launch (${(said.split('\n')[0] ?? '').trim()})`;
  return { name, state: 'ok', rung: 'kernel', evidence, fix: null };
}

function ioCheck(): DoctorCheck {
  const name = 'limits.io';
  const version = ioVersion();
  if (version === null) {
    return lacks(name, {
      evidence: 'no controller limits disks; a profile that asks for it is refused unless it accepts that',
      fix: 'use a kernel with CONFIG_BLK_DEV_THROTTLING and the io controller',
    });
  }
  if (version === 2) {
    return { name, state: 'ok', rung: 'kernel', evidence: 'io.max of cgroup v2, each way of each disk', fix: null };
  }
  const held = 'blkio of cgroup v1 holds reads and direct writes';
  const evidence = `${held}; a profile with a mount that is rw is refused unless it accepts limits.io`;
  const fix = 'boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)';
  return { name, state: 'degraded', rung: 'kernel', evidence, fix };
}

async function sizeCheck(): Promise<DoctorCheck> {
  const name = 'mounts.size';
  const hands = await findHands();
  if (hands.kind === 'none') {
    const fix =
      'run the daemon under systemd, which then mounts for it, or with CAP_SYS_ADMIN and the mounts of the host';
    return lacks(name, { evidence: `${hands.why}; a profile that asks for it is refused`, fix });
  }
  for (const [tool, args] of [
    ['mkfs.ext4', ['-V']],
    ['resize2fs', ['-V']],
    ['losetup', ['--version']],
  ] as const) {
    const found = await execa(tool, args, { reject: false, timeout: TOOL_MS_MAX });
    if (found.code === 'ENOENT') {
      return lacks(name, { evidence: `${tool} is not installed`, fix: 'apt-get install e2fsprogs mount' });
    }
  }
  const by = hands.kind === 'systemd' ? ', mounted by systemd' : '';
  const evidence = `an ext4 filesystem of the size, on a loop device${by}`;
  return { name, state: 'ok', rung: 'kernel', evidence, fix: null };
}

function lacks(name: string, found: { readonly evidence: string; readonly fix: string }): DoctorCheck {
  return { name, state: 'degraded', rung: 'none', ...found };
}
