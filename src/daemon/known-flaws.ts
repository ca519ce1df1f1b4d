/**
 * Published flaws that let a contained process, or another user of the host, past the boundary that this project relies
 * on. Left out on purpose: flaws of builds, swarms, CRI, authorization plugins and published ports, none of which a run
 * has. As far as known in November 2026; each from the advisory of its project.
 */
export type Component = 'Engine' | 'containerd' | 'runc' | 'NVIDIA container toolkit';

export type Flaw = {
  readonly ids: readonly string[];
  readonly what: string;
  /** The first version without it, of each release line that got a fix; ascending. */
  readonly fixedIn: readonly string[];
  /** The first version that has it, when not all older ones do. */
  readonly since?: string;
};

const FLAWS: Readonly<Record<Component, readonly Flaw[]>> = {
  Engine: [
    {
      ids: ['CVE-2021-41091'],
      what: 'other users of the host reach into the files of containers',
      fixedIn: ['20.10.9'],
    },
    {
      ids: ['CVE-2022-36109'],
      what: 'a process drops the group that was to keep it from a file',
      fixedIn: ['20.10.18'],
    },
    {
      ids: ['CVE-2024-32473'],
      what: 'IPv6 on interfaces that were to have none; the fence drops it all the same',
      since: '26.0.0',
      fixedIn: ['26.0.2'],
    },
    {
      ids: ['CVE-2026-41567', 'CVE-2026-41568', 'CVE-2026-42306'],
      what: '`docker cp` into or out of a hostile container writes or runs on the host; do not use it on an agent',
      fixedIn: ['29.5.1'],
    },
    {
      ids: ['CVE-2026-17106'],
      what: 'an archive or image of somebody else writes outside of its folder while it is unpacked',
      fixedIn: ['29.7.0'],
    },
  ],
  containerd: [
    { ids: ['CVE-2020-15257'], what: 'root with the network of the host rules the shims', fixedIn: ['1.3.9', '1.4.3'] },
    {
      ids: ['CVE-2021-41103'],
      what: 'other users of the host reach into the files of containers',
      fixedIn: ['1.4.11', '1.5.7'],
    },
    {
      ids: ['CVE-2024-25621'],
      what: 'other users of the host reach into its folders, which are open to all',
      fixedIn: ['1.7.29', '2.0.7', '2.1.5', '2.2.0'],
    },
  ],
  runc: [
    {
      ids: ['CVE-2021-30465'],
      what: 'a mount is led to a folder of the host while it is made',
      fixedIn: ['1.0.0-rc95'],
    },
    {
      ids: ['CVE-2024-21626'],
      what: 'a working directory or a leaked descriptor leads out of the container',
      fixedIn: ['1.1.12'],
    },
    { ids: ['CVE-2024-45310'], what: 'empty files are made on the host', fixedIn: ['1.1.14', '1.2.0-rc.3'] },
    {
      ids: ['CVE-2025-31133', 'CVE-2025-52565', 'CVE-2025-52881'],
      what: 'masked paths, /dev/console and writes to /proc are led to files of the host while a container is made',
      fixedIn: ['1.2.8', '1.3.3', '1.4.0-rc.3'],
    },
    {
      ids: ['CVE-2026-41579'],
      what: 'an image whose /dev is a link has something of the host written to',
      fixedIn: ['1.3.6', '1.4.3', '1.5.0-rc.3'],
    },
  ],
  'NVIDIA container toolkit': [
    {
      ids: ['CVE-2024-0132', 'CVE-2025-23359'],
      what: 'an image gets the filesystem of the host mounted (not with CDI)',
      fixedIn: ['1.17.4'],
    },
    {
      ids: ['CVE-2025-23266', 'CVE-2025-23267'],
      what: 'an image runs its own code as root of the host while a container is made',
      fixedIn: ['1.17.8'],
    },
  ],
};

/** The flaws that this version has by its number, oldest first; null when the number cannot be read. */
export function flawsOf(component: Component, version: string): readonly Flaw[] | null {
  const own = parseVersion(version);
  return own === null ? null : FLAWS[component].filter((flaw) => isAffected(own, flaw));
}

function isAffected(own: Version, { fixedIn, since }: Flaw): boolean {
  if (since !== undefined && isBefore(own, known(since))) return false;
  const fixes = fixedIn.map(known);
  const newest = fixes.at(-1);
  if (newest === undefined || !isBefore(own, newest)) return false;
  // A release line without a fix of its own has none, whatever older line got one.
  const line = fixes.find(([major, minor]) => major === own[0] && minor === own[1]);
  return line === undefined || isBefore(own, line);
}

/** Major, minor, patch, and the number of a release candidate; a release comes after all of its candidates. */
type Version = readonly [number, number, number, number];

const VERSION = /^v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-~]rc\.?(\d+))?/;

function parseVersion(text: string): Version | null {
  const [matched, major, minor, patch, candidate] = VERSION.exec(text) ?? [];
  if (matched === undefined) return null;
  const last = candidate === undefined ? Number.POSITIVE_INFINITY : Number(candidate);
  return [Number(major), Number(minor), Number(patch ?? 0), last];
}

function known(text: string): Version {
  const version = parseVersion(text);
  if (version === null) throw new Error(`the table of flaws names a version that cannot be read: ${text}`);
  return version;
}

function isBefore(one: Version, other: Version): boolean {
  const index = one.findIndex((part, at) => part !== other[at]);
  return index !== -1 && (one[index] ?? 0) < (other[index] ?? 0);
}
