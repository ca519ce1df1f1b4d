import { parseMountInfo } from './mountinfo.ts';
import type { Mount } from './mountinfo.ts';

/** What the kernel says about the agent's first process, reduced to what the launch promised. */
export type ProcessFacts = {
  /** Real, effective, saved and filesystem ids. */
  readonly uids: readonly number[];
  readonly gids: readonly number[];
  /** Beside its main group. */
  readonly groups: readonly number[];
  readonly noNewPrivileges: boolean;
  /** 0 none, 1 strict, 2 filter. */
  readonly seccompMode: number;
  /** The five sets by their names in /proc/PID/status: CapInh, CapPrm, CapEff, CapBnd, CapAmb, as hex digits. */
  readonly capabilities: Readonly<Record<string, string>>;
  /** `pid` → `pid:[4026531836]`. */
  readonly namespaces: Readonly<Record<string, string>>;
  readonly mounts: readonly Mount[];
  readonly openFilesMax: { readonly soft: number; readonly hard: number };
  readonly coreBytesMax: { readonly soft: number; readonly hard: number };
  /** `docker-default (enforce)`; null where the host has no AppArmor. */
  readonly appArmor: string | null;
};

export const NAMESPACES = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'uts'] as const;

const CAPABILITY_SETS = ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'];

export function parseProcessFacts(texts: {
  readonly status: string;
  readonly limits: string;
  readonly mountInfo: string;
  readonly namespaces: Readonly<Record<string, string>>;
  readonly appArmor: string | null;
}): ProcessFacts {
  const status = new Map(
    texts.status.split('\n').map((line): [string, string] => {
      const colon = line.indexOf(':');
      return [line.slice(0, Math.max(0, colon)), line.slice(colon + 1).trim()];
    }),
  );
  // A missing line reads as NaN, which equals nothing.
  const numbers = (name: string): number[] => (status.get(name) ?? 'missing').split(/\s+/).map(Number);
  return {
    uids: numbers('Uid'),
    gids: numbers('Gid'),
    groups: status.get('Groups') === '' ? [] : numbers('Groups'),
    noNewPrivileges: status.get('NoNewPrivs') === '1',
    seccompMode: numbers('Seccomp')[0] ?? Number.NaN,
    capabilities: Object.fromEntries(CAPABILITY_SETS.map((name) => [name, status.get(name) ?? 'missing'])),
    namespaces: texts.namespaces,
    mounts: parseMountInfo(texts.mountInfo),
    openFilesMax: limitIn(texts.limits, 'Max open files'),
    coreBytesMax: limitIn(texts.limits, 'Max core file size'),
    appArmor: texts.appArmor,
  };
}

function limitIn(limits: string, name: string): { soft: number; hard: number } {
  const line = limits.split('\n').find((each) => each.startsWith(name)) ?? '';
  const [soft, hard] = line.slice(name.length).trim().split(/\s+/);
  const value = (text: string | undefined): number => (text === 'unlimited' ? Number.POSITIVE_INFINITY : Number(text));
  return { soft: value(soft), hard: value(hard) };
}
