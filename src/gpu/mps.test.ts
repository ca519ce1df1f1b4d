import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { findMps } from './mps.ts';

it('finds the servers and control daemons of the host, and not an agent that calls itself so', () => {
  const proc = mkdtempSync(join(tmpdir(), 'rf-mps-'));
  const processes = [
    [11, 'nvidia-cuda-mps', '0::/system.slice/mps.service\n'],
    [12, 'nvidia-cuda-mps', '0::/ringfence/r000000000001/c\n'],
    [13, 'nvidia-cuda', '0::/\n'],
  ] as const;
  for (const [pid, comm, cgroup] of processes) {
    mkdirSync(`${proc}/${pid}`);
    writeFileSync(`${proc}/${pid}/comm`, `${comm}\n`);
    writeFileSync(`${proc}/${pid}/cgroup`, cgroup);
  }
  mkdirSync(`${proc}/sys`);
  expect(findMps(proc)).toEqual([11]);
  rmSync(proc, { recursive: true });
});
