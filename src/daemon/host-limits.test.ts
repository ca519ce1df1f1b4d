import { describe, expect, it } from 'vitest';
import type { Bound } from '../core/outcome.ts';
import { parseProfile } from '../profile/parse.ts';
import { resolveProfile } from '../profile/resolve.ts';
import { beyondHost, refuseUnheld, type HostSizes } from './host-limits.ts';

const GIB = 2 ** 30;
const HOST: HostSizes = { cpus: 2, memoryBytes: 4 * GIB, pidsMax: 32_768, filesMax: 1_000 };

function profile(limits: string, more = '') {
  const text = `apiVersion: ringfence/v1
name: probe
image: probe:local
command: [/bin/true]
user: 10001
limits: { ${limits} }
budget: { wall: 1m }
egress: {}
${more}`;
  const parsed = parseProfile({ text, file: 'probe.yaml' });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  const resolved = resolveProfile({ parsed, digest: `sha256:${'0'.repeat(64)}`, folder: '/srv' });
  if (!resolved.ok) throw new Error('not resolved');
  return { spec: resolved.spec, document: parsed.document };
}

describe('beyondHost', () => {
  const said = (limits: string, host = HOST): readonly string[] => {
    const { spec, document } = profile(limits);
    return beyondHost(spec, host, document).map(({ path, message }) => `${path}: ${message}`);
  };

  it('takes what the host just has', () => {
    expect(said('cpu: 2, memory: 4GiB, pids: 32768, disk: 4GiB, files: 1000')).toEqual([]);
  });

  it('names each limit above it, with what there is and what was asked', () => {
    expect(said('cpu: 64, memory: 5GiB, pids: 32769, disk: 8GiB, files: 1001')).toEqual([
      'limits.cpu: must be at most 2, the cores of this host, got 64.',
      'limits.memory: must be at most 4 GiB, the memory of this host, got 5 GiB.',
      'limits.pids: must be at most 32768, the process ids of this host, got 32769.',
      'limits.disk: must be at most 4 GiB, the memory of this host, got 8 GiB.',
      'limits.files: must be at most 1000, the most open files of a process of this host, got 1001.',
    ]);
  });

  it('does not guess what the kernel does not say', () => {
    expect(said('cpu: 1, memory: 1GiB, pids: 40000, files: 2000', { ...HOST, pidsMax: null, filesMax: null })).toEqual(
      [],
    );
  });
});

describe('refuseUnheld', () => {
  const bounds: readonly Bound[] = [
    { path: 'limits.memory', value: GIB, unit: 'bytes', rung: 'kernel' },
    { path: 'limits.io', value: 1_048_576, unit: 'byte/s', rung: 'none' },
    { path: 'mounts[0].size', value: GIB, unit: 'bytes', rung: 'none' },
  ];
  const WRITTEN = 'cpu: 1, memory: 1GiB, pids: 16, io: 1MiB/s';
  const refused = (accept: string): unknown => {
    const { spec, document } = profile(WRITTEN, `accept: [${accept}]\n`);
    try {
      refuseUnheld(bounds, { spec, document, why: () => 'nothing does' });
      return null;
    } catch (error) {
      return error;
    }
  };

  it('refuses every bound that nothing holds, at its place, and names what would accept it', () => {
    expect(refused('')).toMatchObject({
      code: 'HOST_CANNOT_ENFORCE',
      facts: {
        problems: [
          {
            line: 6,
            path: 'limits.io',
            message: 'cannot be held on this host: nothing does.',
            hint: expect.stringContaining('accept: [limits.io]'),
          },
          { path: 'mounts[0].size', hint: expect.stringContaining('accept: [mounts.size]') },
        ],
      },
    });
  });

  it('takes an acceptance for that bound and for no other', () => {
    expect(refused('limits.io')).toMatchObject({ facts: { problems: [{ path: 'mounts[0].size' }] } });
    expect(refused('limits.io, mounts.size')).toBeNull();
  });
});
