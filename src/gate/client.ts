import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import type { Stream } from 'node:stream';
import { ownProgram } from '../kernel/own-program.ts';
import type { ApprovalLifetime } from '../core/approval.ts';
import { fail } from '../core/errors.ts';
import type { FenceGrant } from '../core/ports/fence.ts';
import type { Log } from '../core/ports/log.ts';
import { whenLate } from '../core/lateness.ts';
import { listenToChild, SILENT_SECONDS_MAX } from '../core/turning.ts';
import { StandingDecisions } from './decisions.ts';
import type { GateConfig, GateGrant, GateReport, GateRequest, GateStats } from './messages.ts';
import type { NameRequest } from './verdict.ts';

/**
 * The daemon's hand on the DNS gate: starts it, starts it again when it dies, and gives every new one the grants and
 * the decisions that stand. While there is no gate nothing resolves and nothing opens.
 *
 *   start → listening ⇄ (exit → wait → start) → close
 */
export type GateClient = {
  /** Resolves when the gate listens; rejects FENCE_FAILED when it cannot. */
  start(): Promise<void>;
  /** Resolves when the gate answers for the run. Rejects FENCE_FAILED when there is no gate to say so. */
  grant(address: string, names: FenceGrant['names']): Promise<void>;
  /** Resolves when no gate will open anything more for the run. */
  revoke(address: string): Promise<void>;
  /**
   * Swaps the names of a run: when it resolves, nothing is open that the new ones do not list. Rejects FENCE_FAILED when
   * that is not certain; the new names stand all the same.
   */
  change(address: string, names: FenceGrant['names']): Promise<void>;
  /**
   * Tells what a person decided; `lifetime` null is no. Rejects FENCE_FAILED when no gate has taken it, and then it
   * stands nowhere.
   */
  decide(address: string, request: NameRequest, lifetime: ApprovalLifetime | null): Promise<void>;
  /** The certificate, in PEM, of a new authority for the run. A gate that is started again has none of them any more. */
  authority(address: string, runId: string): Promise<string>;
  health(): GateHealth;
  stats(): Promise<GateStats>;
  close(): Promise<void>;
};

export type GateHealth = { readonly listening: boolean; readonly restarts: number; readonly pid: number | null };

export type GateClientParts = {
  readonly config: Omit<GateConfig, 'wardenPipe'>;
  /** Our end of the pipe that the warden reads denials from; kept by the caller and handed to each new gate. */
  readonly wardenPipe: Stream | null;
  readonly log: Log;
  /** A name waits for a person. Told once until it is decided; by a gate that was started again, once more. */
  readonly onAsked?: (address: string, request: NameRequest) => void;
  /** Bytes of one name through the checker since the last report. */
  readonly onPassed?: (passed: GatePassed) => void;
  /** A gate that died has a successor that listens. Authorities died with it. */
  readonly onRestarted?: () => void;
};

export type GatePassed = Omit<Extract<GateReport, { kind: 'passed' }>, 'kind'>;

const ANSWER_DEADLINE_MS = 3_000;
/** Longer than the gate waits for its own child, so that it can say what is wrong. */
const START_DEADLINE_MS = 20_000;
const EXIT_DEADLINE_MS = 3_000;
const RESTART_MS_MIN = 100;
const RESTART_MS_MAX = 5_000;
/** A gate that lived this long was well: the next wait starts small again. */
const HEALTHY_MS = 30_000;

/** Of requests whose answer nobody waits for. */
const NO_ANSWER_ID = 0;

type Waiting = { readonly resolve: (report: GateReport) => void; readonly reject: (error: Error) => void };

export function createGateClient(parts: GateClientParts): GateClient {
  const grants = new Map<string, GateGrant>();
  const decisions = new StandingDecisions(() => performance.now());
  const waiting = new Map<number, Waiting>();
  let child: ChildProcess | null = null;
  let listening = false;
  let closing = false;
  let restarts = 0;
  let restartMs = RESTART_MS_MIN;
  let restartTimer: NodeJS.Timeout | null = null;
  let lastId = 0;

  const launch = (): Promise<void> => {
    const startedAtMs = performance.now();
    const made = spawnGate(parts.wardenPipe);
    child = made;
    return new Promise((resolve, reject) => {
      const deadline = setTimeout(() => {
        reject(fail('FENCE_FAILED', { detail: `the DNS gate did not listen within ${START_DEADLINE_MS} ms` }));
        made.kill('SIGKILL');
      }, START_DEADLINE_MS);
      let failure = 'the DNS gate ended before it listened';
      made.on('message', (message) => {
        // Our own program wrote it; the channel is a private socket pair.
        const report = message as GateReport;
        switch (report.kind) {
          case 'listening':
            clearTimeout(deadline);
            listening = true;
            listenToChild(made, () => {
              parts.log.error({ seconds: SILENT_SECONDS_MAX }, 'the DNS gate stood still and is ended');
              made.kill('SIGKILL');
            });
            return resolve();
          case 'turning':
            return;
          case 'failed':
            failure = `the DNS gate failed: ${report.message}`;
            return parts.log.error({ detail: report.message }, 'the DNS gate failed');
          case 'asked':
            return parts.onAsked?.(report.address, report.request);
          case 'passed': {
            const { kind: _, ...passed } = report;
            return parts.onPassed?.(passed);
          }
          default:
            return waiting.get(report.id)?.resolve(report);
        }
      });
      made.on('error', (error) => {
        failure = `the DNS gate failed: ${error.message}`;
      });
      made.once('exit', (exitCode, signal) => {
        clearTimeout(deadline);
        if (child === made) child = null;
        const wasListening = listening;
        listening = false;
        for (const { reject: rejectWaiting } of waiting.values()) {
          rejectWaiting(fail('FENCE_FAILED', { detail: 'the DNS gate ended' }));
        }
        waiting.clear();
        reject(fail('FENCE_FAILED', { detail: failure, port: parts.config.port }));
        if (closing || !wasListening) return;
        parts.log.error({ exitCode, signal, restarts }, 'the DNS gate ended and is started again');
        if (performance.now() - startedAtMs > HEALTHY_MS) restartMs = RESTART_MS_MIN;
        scheduleRestart();
      });
      const config: GateConfig = { ...parts.config, wardenPipe: parts.wardenPipe !== null };
      // Grants made while the child starts are in the map before it gets its first message or sent after it.
      send(made, { kind: 'start', config, grants: [...grants.values()] });
      // They arrive before the first question can: the gate listens later than it takes messages.
      for (const decision of decisions.all()) send(made, { kind: 'decide', id: NO_ANSWER_ID, ...decision });
    });
  };

  const scheduleRestart = (): void => {
    restartTimer = setTimeout(() => {
      restarts += 1;
      restartMs = Math.min(restartMs * 2, RESTART_MS_MAX);
      launch().then(
        () => parts.onRestarted?.(),
        (error: unknown) => {
          parts.log.error({ error, restarts }, 'the DNS gate could not be started again');
          if (!closing) scheduleRestart();
        },
      );
    }, restartMs);
  };

  const ask = async (request: (id: number) => GateRequest): Promise<GateReport> => {
    const target = child;
    if (target === null || !target.connected) throw fail('FENCE_FAILED', { detail: 'the DNS gate is not running' });
    lastId += 1;
    const id = lastId;
    let deadline: ReturnType<typeof whenLate> | undefined;
    try {
      const report = await new Promise<GateReport>((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        deadline = whenLate(ANSWER_DEADLINE_MS, () => {
          reject(fail('FENCE_FAILED', { detail: `the DNS gate did not answer within ${ANSWER_DEADLINE_MS} ms` }));
        });
        send(target, request(id));
      });
      if (report.kind === 'refused') throw fail('FENCE_FAILED', { detail: `the DNS gate: ${report.message}` });
      return report;
    } finally {
      deadline?.cancel();
      waiting.delete(id);
    }
  };

  return {
    start: launch,
    grant: async (address, names) => {
      const grant = { address, names };
      grants.set(address, grant);
      // The address may have been another run's: nothing decided for that one counts.
      decisions.forget(address);
      await ask((id) => ({ kind: 'grant', id, grant }));
    },
    change: async (address, names) => {
      const grant = { address, names };
      grants.set(address, grant);
      decisions.retain(grant);
      await ask((id) => ({ kind: 'change', id, grant }));
    },
    decide: async (address, request, lifetime) => {
      decisions.remember({ address, request, lifetime });
      try {
        await ask((id) => ({ kind: 'decide', id, address, request, lifetime }));
      } catch (error) {
        decisions.forget(address, request.name);
        throw error;
      }
    },
    authority: async (address, runId) => {
      const report = await ask((id) => ({ kind: 'authority', id, address, runId }));
      if (report.kind !== 'authority') throw fail('FENCE_FAILED', { detail: 'the DNS gate gave another answer' });
      return report.certificatePem;
    },
    revoke: async (address) => {
      grants.delete(address);
      decisions.forget(address);
      const target = child;
      if (target === null) return;
      try {
        await ask((id) => ({ kind: 'revoke', id, address }));
      } catch {
        // A gate that cannot say that it has forgotten is ended; the next one never hears of the run.
        await endProcess(target, 'SIGKILL');
      }
    },
    health: () => ({ listening, restarts, pid: child?.pid ?? null }),
    stats: async () => {
      const report = await ask((id) => ({ kind: 'stats', id }));
      if (report.kind !== 'stats') throw fail('FENCE_FAILED', { detail: 'the DNS gate gave another answer' });
      return report.stats;
    },
    close: async () => {
      closing = true;
      if (restartTimer !== null) clearTimeout(restartTimer);
      if (child !== null) await endProcess(child, 'SIGTERM');
    },
  };
}

function spawnGate(wardenPipe: Stream | null): ChildProcess {
  const entry = ownProgram('./process', import.meta.url);
  return fork(entry, [], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc', wardenPipe ?? 'ignore'],
    execArgv: [],
    env: environmentOfChild(),
  });
}

/** Where to look for programs, and for the roots by which inspected names are believed when not at the system's place. */
function environmentOfChild(): NodeJS.ProcessEnv {
  const { PATH = '', SSL_CERT_FILE, SSL_CERT_DIR } = process.env;
  return {
    PATH,
    ...(SSL_CERT_FILE === undefined ? {} : { SSL_CERT_FILE }),
    ...(SSL_CERT_DIR === undefined ? {} : { SSL_CERT_DIR }),
  };
}

function send(child: ChildProcess, request: GateRequest): void {
  // A channel that closes under a message shows as the exit of the child, which fails whoever waits.
  child.send(request, () => undefined);
}

async function endProcess(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  await new Promise<void>((resolve) => {
    const deadline = setTimeout(() => child.kill('SIGKILL'), EXIT_DEADLINE_MS);
    child.once('exit', () => {
      clearTimeout(deadline);
      resolve();
    });
    child.kill(signal);
  });
}
