import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { ownProgram } from '../kernel/own-program.ts';
import { listenToChild } from '../core/turning.ts';
import type { CheckerConfig, CheckerReport, CheckerRequest, CheckQuestion, CheckVerdict } from '../checker/messages.ts';

/**
 * The gate's hand on the checker, its own child: the checker reads what connections show, the gate decides. Each ends
 * with the other, as a checker without answers and a gate whose checked ports lead nowhere are no use; whoever is
 * started next starts both.
 *
 *   start → listening → (exit ⇒ the gate ends; silence ⇒ it is killed)
 */
export type CheckerLink = {
  /** Resolves when the checker listens. */
  start(config: CheckerConfig): Promise<void>;
  close(source: string, names: readonly string[] | null): void;
  forget(source: string): void;
  /** The certificate, in PEM, of an authority that the checker has just made for this run. */
  authority(source: string, runId: string): Promise<string>;
};

export type CheckerLinkParts = {
  readonly check: (question: CheckQuestion) => Promise<CheckVerdict>;
  readonly onDenied: (report: Extract<CheckerReport, { kind: 'denied' }>) => void;
  readonly onPassed: (report: Extract<CheckerReport, { kind: 'passed' }>) => void;
  /** The checker is gone and was not told to go. */
  readonly onLost: (detail: string) => void;
  /** For tests: the program to start in the place of the checker. */
  readonly program?: string;
};

const START_DEADLINE_MS = 15_000;
/** Making a key pair is quick; a checker that takes longer is stuck. */
const AUTHORITY_DEADLINE_MS = 2_500;

export function linkChecker(parts: CheckerLinkParts): CheckerLink {
  const authorities = new Map<number, (certificatePem: string) => void>();
  let child: ChildProcess | null = null;
  let lastId = 0;

  const send = (request: CheckerRequest): void => {
    // A channel that closes under a message shows as the exit of the child.
    child?.send(request, () => undefined);
  };

  const answer = async (id: number, question: CheckQuestion): Promise<void> => {
    // The gate answers every question; should it fail on one, the connection hears a refusal and not silence.
    const verdict = await parts.check(question).catch((): CheckVerdict => ({
      kind: 'refuse',
      rule: 'check.upstream',
      explanation: 'the name could not be judged',
      line: null,
    }));
    send({ kind: 'verdict', id, verdict });
  };

  const receive = (report: CheckerReport, starting: PromiseWithResolvers<void>): void => {
    switch (report.kind) {
      case 'listening':
        return starting.resolve();
      case 'failed':
        return starting.reject(new Error(`the checker failed: ${report.message}`));
      case 'ask':
        void answer(report.id, report.question);
        return;
      case 'denied':
        return parts.onDenied(report);
      case 'passed':
        return parts.onPassed(report);
      case 'authority':
        authorities.get(report.id)?.(report.certificatePem);
        return;
      case 'turning':
        return;
    }
  };

  return {
    start: async (config) => {
      const starting = Promise.withResolvers<void>();
      const made = fork(parts.program ?? checkerProgram(), [], {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        execArgv: [],
        // The gate's own, which is no more than the checker needs.
        env: process.env,
      });
      child = made;
      let isListening = false;
      made.on('error', (error) => starting.reject(error));
      made.on('message', (message) => receive(message as CheckerReport, starting));
      made.once('exit', (exitCode, signal) => {
        const detail = `the checker ended (${signal ?? `exit code ${exitCode}`})`;
        starting.reject(new Error(`${detail} before it listened`));
        if (isListening) parts.onLost(detail);
      });
      const deadline = setTimeout(() => {
        starting.reject(new Error(`the checker did not listen within ${START_DEADLINE_MS} ms`));
      }, START_DEADLINE_MS);
      send({ kind: 'start', config });
      try {
        await starting.promise;
        isListening = true;
        listenToChild(made, () => made.kill('SIGKILL'));
      } catch (error) {
        made.kill('SIGKILL');
        throw error;
      } finally {
        clearTimeout(deadline);
      }
    },
    close: (source, names) => send({ kind: 'close', source, names }),
    forget: (source) => send({ kind: 'forget', source }),
    authority: async (source, runId) => {
      lastId += 1;
      const id = lastId;
      let deadline: NodeJS.Timeout | undefined;
      try {
        return await new Promise<string>((resolve, reject) => {
          authorities.set(id, resolve);
          deadline = setTimeout(
            () => reject(new Error('the checker made no authority in time')),
            AUTHORITY_DEADLINE_MS,
          );
          send({ kind: 'authority', id, source, runId });
        });
      } finally {
        clearTimeout(deadline);
        authorities.delete(id);
      }
    },
  };
}

function checkerProgram(): string {
  return ownProgram('../checker/process', import.meta.url);
}
