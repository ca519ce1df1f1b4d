import { readFile } from 'node:fs/promises';
import type { DoctorCheck, DoctorReport } from '../api/service.ts';
import { messageOf } from '../core/errors.ts';
import type { Engine, EngineFacts } from '../core/ports/engine.ts';
import type { Fence } from '../core/ports/fence.ts';
import type { Ledger } from '../core/ports/record.ts';
import type { WardenReport } from '../core/ports/warden.ts';
import { detectLayout, hasCgroupKill } from '../meter/layout.ts';
import type { CgroupLayout } from '../meter/layout.ts';
import { diskChecks } from './doctor-disks.ts';
import { budgetChecks, limitChecks, storageChecks } from './doctor-limits.ts';
import { saidByTool } from './doctor-tools.ts';
import { versionChecks } from './doctor-versions.ts';
import { gpuChecks } from './gpu-checks.ts';
import type { GpuDesk } from './gpu-desk.ts';

export type DoctorParts = {
  readonly engine: Engine;
  readonly fence: Fence;
  readonly ledger: Ledger;
  readonly wardenReady: Extract<WardenReport, { kind: 'ready' }>;
  gateListening(): boolean;
  readonly gpus: Pick<GpuDesk, 'state'>;
};

/** Engines of Debian 12 have no fix for these in place; the fence does not depend on either. */
const ENGINE_FLOOR = '20.10';

/** What this host can enforce, each with the evidence and the way to get more. Probes now; nothing is remembered. */
export async function examineHost(parts: DoctorParts): Promise<DoctorReport> {
  const checks = (
    await Promise.all([
      engineChecks(parts.engine, parts.gpus),
      versionChecks(parts.engine),
      Promise.resolve(cgroupChecks()),
      Promise.resolve(wardenChecks(parts)),
      fenceChecks(parts.fence),
      Promise.resolve([gateCheck(parts), ledgerCheck(parts.ledger)]),
      diskChecks(),
      toolChecks(),
      hostChecks(),
    ])
  ).flat();
  return { ok: checks.every((check) => check.state !== 'missing'), checks };
}

type Found = Pick<DoctorCheck, 'rung' | 'evidence'>;

function ok(name: string, { rung, evidence }: Found): DoctorCheck {
  return { name, state: 'ok', rung, evidence, fix: null };
}

function degraded(name: string, found: Found & { readonly fix: string }): DoctorCheck {
  return { name, state: 'degraded', ...found };
}

function missing(name: string, found: { readonly evidence: string; readonly fix: string }): DoctorCheck {
  return { name, state: 'missing', rung: 'none', ...found };
}

async function engineChecks(engine: Engine, gpus: DoctorParts['gpus']): Promise<readonly DoctorCheck[]> {
  let facts: EngineFacts;
  try {
    facts = await engine.facts();
  } catch (error) {
    return [
      missing('engine', {
        evidence: messageOf(error),
        fix: 'start the container engine, or set `engine` in the configuration',
      }),
    ];
  }
  const evidence = `version ${facts.version}, API ${facts.apiVersion}, ${facts.storageDriver}, ${facts.cgroupDriver} on cgroup v${facts.cgroupVersion}`;
  return [
    Number.parseFloat(facts.version) >= Number.parseFloat(ENGINE_FLOOR)
      ? ok('engine', { rung: null, evidence })
      : degraded('engine', { rung: null, evidence, fix: `use version ${ENGINE_FLOOR} or newer` }),
    facts.seccomp
      ? ok('seccomp', { rung: 'kernel', evidence: 'the default profile of the engine' })
      : missing('seccomp', { evidence: 'the engine has none', fix: 'use an engine built with seccomp' }),
    facts.appArmor
      ? ok('apparmor', { rung: 'kernel', evidence: 'docker-default' })
      : degraded('apparmor', {
          rung: 'none',
          evidence: 'not on this host; containers have seccomp and no capabilities all the same',
          fix: 'boot with AppArmor and install the package apparmor',
        }),
    ...(await limitChecks(facts)),
    ...(await storageChecks(facts)),
    ...gpuChecks(gpus, facts),
  ];
}

function cgroupChecks(): readonly DoctorCheck[] {
  try {
    const layout = detectLayout();
    const kill = hasCgroupKill(layout);
    return [
      ok('cgroups', {
        rung: 'kernel',
        evidence:
          layout.version === 2
            ? 'cgroup v2'
            : layout.mounts.unified === null
              ? 'cgroup v1'
              : 'cgroup v1 controllers beside a v2 hierarchy',
      }),
      kill
        ? ok('kill', { rung: 'kernel', evidence: 'cgroup.kill' })
        : degraded('kill', {
            rung: 'kernel',
            evidence: 'SIGKILL through a pidfd; no cgroup.kill',
            fix: 'use kernel 5.14 or newer with cgroup v2',
          }),
      eventsCheck(layout),
      holdCheck(layout),
    ];
  } catch (error) {
    return [
      missing('cgroups', {
        evidence: messageOf(error),
        fix: 'mount cgroup v2, or the v1 controllers cpu, cpuacct, memory and pids',
      }),
    ];
  }
}

/** What wakes the warden; everything else it finds at its next look. */
function eventsCheck({ version, mounts }: CgroupLayout): DoctorCheck {
  if (version === 2)
    return ok('events', { rung: 'kernel', evidence: 'ends, memory and refused processes tell of themselves' });
  const ends = mounts.unified === null ? 'the end of the first process' : 'ends';
  return degraded('events', {
    rung: 'kernel',
    evidence: `${ends} and OOM kills tell of themselves; refused processes are found at the next look`,
    fix: 'boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)',
  });
}

/** The actions between a warning and an end. */
function holdCheck({ version, mounts }: CgroupLayout): DoctorCheck {
  const freezer = version === 2 ? 'cgroup.freeze' : mounts.freezer === null ? mounts.unified : 'the freezer of v1';
  if (freezer !== null)
    return ok('throttle, pause', { rung: 'kernel', evidence: `CPU at the run’s own cgroup; ${freezer}` });
  return degraded('throttle, pause', {
    rung: 'none',
    evidence: 'nothing can freeze a cgroup; a profile that says `pause` is refused',
    fix: 'mount the freezer controller or cgroup v2',
  });
}

function wardenChecks({ wardenReady }: DoctorParts): readonly DoctorCheck[] {
  return [
    ...budgetChecks(wardenReady),
    wardenReady.feed
      ? ok('denied packets', { rung: 'kernel', evidence: 'the packet feed is bound' })
      : missing('denied packets', { evidence: 'the packet feed is not bound', fix: 'load nfnetlink_log' }),
  ];
}

async function fenceChecks(fence: Fence): Promise<readonly DoctorCheck[]> {
  const state = await fence
    .verify()
    .catch((error: unknown) => ({ kind: 'broken' as const, findings: [messageOf(error)] }));
  if (state.kind === 'in-force')
    return [ok('egress', { rung: 'kernel', evidence: 'the base rules read back as written, for IPv4 and IPv6' })];
  return [
    missing('egress', {
      evidence: state.findings.slice(0, 5).join('; '),
      fix: 'restart the daemon; if it stays, another tool owns these tables',
    }),
  ];
}

function gateCheck(parts: DoctorParts): DoctorCheck {
  return parts.gateListening()
    ? ok('names', { rung: 'kernel', evidence: 'the DNS gate listens' })
    : missing('names', {
        evidence: 'the DNS gate does not listen; no name resolves',
        fix: 'see the log of the daemon',
      });
}

function ledgerCheck(ledger: Ledger): DoctorCheck {
  const failure = ledger.failure();
  const { seq } = ledger.head();
  return failure === null
    ? ok('ledger', { rung: null, evidence: `${seq} records` })
    : missing('ledger', {
        evidence: failure.message,
        fix: 'free space below the state directory, then restart the daemon',
      });
}

async function toolChecks(): Promise<readonly DoctorCheck[]> {
  const tools: readonly (readonly [string, readonly string[]])[] = [
    ['iptables', ['--version']],
    ['ip6tables', ['--version']],
    ['ipset', ['--version']],
    ['conntrack', ['--version']],
  ];
  return await Promise.all(
    tools.map(async ([name, args]) => {
      const said = await saidByTool(name, args);
      return said === null
        ? missing(name, {
            evidence: 'not installed',
            fix: `apt-get install ${name === 'ip6tables' ? 'iptables' : name}`,
          })
        : ok(name, { rung: null, evidence: (said.split('\n')[0] ?? '').trim() });
    }),
  );
}

async function hostChecks(): Promise<readonly DoctorCheck[]> {
  const forwarding = (await readFile('/proc/sys/net/ipv4/ip_forward', 'latin1').catch(() => '0')).trim();
  return [
    forwarding === '1'
      ? ok('forwarding', { rung: null, evidence: 'net.ipv4.ip_forward = 1' })
      : missing('forwarding', {
          evidence: 'net.ipv4.ip_forward = 0, so not even granted destinations are reachable',
          fix: 'sysctl -w net.ipv4.ip_forward=1',
        }),
  ];
}
