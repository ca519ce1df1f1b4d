import { fail } from '../../src/core/errors.ts';
import type { Engine, EngineFacts } from '../../src/core/ports/engine.ts';
import type { Fence, FenceGrant } from '../../src/core/ports/fence.ts';
import type { Spec } from '../../src/profile/spec.ts';
import type { Host } from './host.ts';

/**
 * The ports of one daemon: between it and the host lies a wire on which calls take time, fail, or lose their reply, and
 * that is cut when the daemon dies. What was on its way then may still arrive at the host.
 */
export type Wire = { readonly host: Host; readonly alive: () => boolean; readonly diedAtMs: () => number };

const ENGINE_MS_MAX = 20_000;
const SLOW_MS_MAX = 30_000;
/** The engine gives up what nobody waits for any more. */
const UNHEARD_MS_MAX = 2_000;
const LATE_REQUEST = 0.5;

type EngineCall = Exclude<keyof Engine, 'events' | 'logs'>;
const ENGINE_CALLS: readonly EngineCall[] = [
  'facts',
  'components',
  'resolveImage',
  'imageHasFile',
  'readImageFiles',
  'createNetwork',
  'removeNetwork',
  'listNetworks',
  'listSubnets',
  'createContainer',
  'startContainer',
  'inspectContainer',
  'listContainers',
  'attach',
  'resizeTty',
  'signalContainer',
  'removeContainer',
];

export function engineOver(wire: Wire): Engine {
  const { engine } = wire.host.fake;
  const calls = Object.fromEntries(
    ENGINE_CALLS.map((name) => [name, (...args: readonly unknown[]) => engineCall(wire, name, args)]),
  );
  return {
    ...(calls as unknown as Engine),
    events: (signal) => engine.events(signal),
    logs: (id, options) => engine.logs(id, options),
  };
}

function engineCall({ host, alive, diedAtMs }: Wire, name: EngineCall, args: readonly unknown[]): Promise<unknown> {
  const { agenda, random, fake, faults } = host;
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  if (!alive()) return promise;
  let answered = false;
  const answer = (work: () => void): void => {
    if (answered) return;
    answered = true;
    agenda.after(random.below(4), () => {
      if (alive()) work();
    });
  };
  const latencyMs = random.chance(faults.slow) ? random.below(SLOW_MS_MAX) : random.below(8);
  const perform = async (): Promise<void> => {
    // One connection a call: what was sent before the daemon died is done all the same.
    if (!alive() && (host.rebootedAtMs >= diedAtMs() || agenda.nowMs > diedAtMs() + UNHEARD_MS_MAX)) return;
    if (!alive() && random.chance(LATE_REQUEST)) return;
    // What the engine makes after its caller gave up is found by the next start.
    if (answered) host.releaseFailed = true;
    if (random.chance(faults.callFails)) fake.faults.fail(name);
    else if (random.chance(faults.replyLost)) fake.faults.loseReply(name);
    else if (!preparePerformance(host, name, args)) fake.faults.fail(name);
    try {
      const work = fake.engine[name] as (...given: readonly unknown[]) => Promise<unknown>;
      const value = await work(...args);
      if (name === 'startContainer') await host.claimProgram(String(args[0]));
      answer(() => resolve(value));
    } catch (error) {
      if (name === 'startContainer') await host.claimProgram(String(args[0]));
      if (name === 'removeContainer' || name === 'removeNetwork') host.releaseFailed = true;
      answer(() => reject(error));
    }
  };
  agenda.at(Math.max(agenda.nowMs + latencyMs, host.engineHangsUntilMs), () => void perform());
  agenda.after(ENGINE_MS_MAX, () =>
    answer(() => {
      if (name === 'removeContainer' || name === 'removeNetwork') host.releaseFailed = true;
      reject(fail('ENGINE_UNREACHABLE', { detail: `${name} timed out` }));
    }),
  );
  return promise;
}

/** A process that needs three kills needs them from the engine as well. False: the engine cannot do it now. */
function preparePerformance(host: Host, name: EngineCall, args: readonly unknown[]): boolean {
  if (name === 'startContainer') {
    const run = host.runOfContainer(String(args[0]));
    if (run !== undefined && hasEnded(host, run.runId)) host.fault(`${run.runId} is started after its end`);
    return true;
  }
  const kills = name === 'removeContainer' || (name === 'signalContainer' && args[1] === 'SIGKILL');
  const run = kills ? host.runOfContainer(String(args[0])) : undefined;
  return run === undefined || host.sigkill(run);
}

function hasEnded(host: Host, runId: string): boolean {
  return host.disk.records.some((record) => record.kind === 'run.ended' && record.runId === runId);
}

/** A call of a part that is not the engine: `work` is done unless the fault comes first. */
export function overWire<T>({ host, alive }: Wire, fails: number, work: () => T | Promise<T>): Promise<T> {
  const { agenda, random } = host;
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  if (!alive()) return promise;
  agenda.after(random.below(3), () => {
    if (!alive()) return;
    try {
      if (random.chance(fails)) throw fail('FENCE_FAILED', { detail: 'failed on command' });
      const value = work();
      // Who hears of it hears of it later.
      if (value instanceof Promise) value.catch(() => undefined);
      agenda.after(random.below(3), () => {
        if (alive()) resolve(value);
      });
    } catch (error) {
      reject(error);
    }
  });
  return promise;
}

/** `allowedOf`: what the record allows this run at this moment. */
export function fenceOver(wire: Wire, allowedOf: (runId: string) => ReadonlySet<string> | null): Fence {
  const { host } = wire;
  const { fence, faults, random } = host;
  const check = ({ lease, names, addresses }: FenceGrant): void => {
    const allowed = allowedOf(lease.runId);
    for (const { text } of [...names, ...addresses]) {
      if (allowed?.has(text) !== true)
        host.fault(`${text} is opened for ${lease.runId}, and no rule on record allows it`);
    }
  };
  const release = (runId: string): void => {
    if (host.canBeEnded(runId)) host.fault(`the address of ${runId} is given back while it is alive`);
    fence.forget(runId);
  };
  return {
    install: () => overWire(wire, 0, () => undefined),
    verify: () =>
      overWire(wire, faults.fenceFails, () =>
        random.chance(faults.fenceFails) ? { kind: 'broken', findings: ['a rule is gone'] } : { kind: 'in-force' },
      ),
    lease: (runId) => fence.lease(runId),
    arm: (grant) =>
      overWire(wire, faults.fenceFails, () => {
        check(grant);
        fence.arm(grant);
      }),
    shape: () => overWire(wire, faults.fenceFails, () => undefined),
    change: (grant) =>
      overWire(wire, 0, () => {
        // A failure leaves the run silenced, never half open.
        fence.silence(grant.lease.runId);
        if (random.chance(faults.fenceFails)) throw fail('FENCE_FAILED', { detail: 'the change failed on command' });
        check(grant);
        fence.arm(grant);
      }),
    approve: () => overWire(wire, 0, () => undefined),
    deny: () => overWire(wire, 0, () => undefined),
    destinations: () => overWire(wire, 0, () => []),
    figures: () => overWire(wire, 0, () => ({ rules: 0, entries: {} })),
    counters: () =>
      overWire(wire, faults.fenceFails, () => ({ egressBytes: 0, ingressBytes: 0, connections: 0, deniedPackets: 0 })),
    disarm: (runId) =>
      overWire(wire, 0, () => {
        fence.silence(runId);
        if (random.chance(faults.fenceFails)) {
          host.releaseFailed = true;
          throw fail('FENCE_FAILED', { detail: 'the grants could not be removed, on command' });
        }
        release(runId);
      }),
    collectGarbage: (keep) =>
      overWire(wire, 0, () => {
        const stale = [...new Set([...fence.leases.keys(), ...fence.armed.keys()])].filter((runId) => !keep.has(runId));
        for (const runId of stale) fence.forget(runId);
        return stale;
      }),
    uninstall: () => Promise.resolve(),
  };
}

export const ENGINE_FACTS: EngineFacts = {
  version: '0.0.0-fake',
  apiVersion: '1.44',
  cgroupVersion: 2,
  cgroupDriver: 'cgroupfs',
  storageDriver: 'fake',
  imageStore: 'classic',
  holds: { cpu: true, memory: true, swap: true, pids: true },
  rootDirectory: '/var/lib/fake',
  appArmor: false,
  seccomp: true,
  userNamespaces: false,
  liveRestore: false,
  cdiFolders: [],
  cpus: 4,
  memoryBytes: 8 * 2 ** 30,
};

export function ruleTexts({ egress }: Spec): ReadonlySet<string> {
  return new Set([...egress.allow, ...egress.ask].map(({ text }) => text));
}
