import { constants } from 'node:os';

import {
  EXIT_COMMAND_NOT_FOUND,
  EXIT_ENDED_BY_SUPERVISOR,
  EXIT_REFUSED,
  EXIT_SUPERVISOR_FAILED,
} from '../core/errors.ts';
import { assertNever } from '../core/assert.ts';
import type { Outcome } from '../core/outcome.ts';

/** The exit code of `run` and `wait` (contract): the agent's own, or why it has none. */
export function exitCodeOf(outcome: Outcome): number {
  switch (outcome.reason) {
    case 'exited':
      return outcome.exitCode ?? signalExitCode(outcome.signal);
    case 'refused':
      return EXIT_REFUSED;
    case 'engine.failed':
      // The engine tells apart a command that is not there and one that can't be executed, as a shell does.
      return outcome.exitCode === EXIT_COMMAND_NOT_FOUND || outcome.exitCode === EXIT_REFUSED
        ? outcome.exitCode
        : EXIT_SUPERVISOR_FAILED;
    case 'oom':
    case 'budget.wall':
    case 'budget.cpu':
    case 'budget.gpu':
    case 'budget.egress':
    case 'budget.ingress':
    case 'budget.connections':
    case 'budget.denials':
    case 'limit.pids':
    case 'limit.disk':
    case 'limit.gpu':
    case 'egress.forbidden':
    case 'enforcement.mismatch':
    case 'enforcement.lost':
    case 'stopped':
    case 'killed':
    case 'supervisor.lost':
      return EXIT_ENDED_BY_SUPERVISOR;
    default:
      return assertNever(outcome.reason);
  }
}

/** 128 and the number, as a shell says it. */
export function signalExitCode(signal: string | null): number {
  const number = signal === null ? undefined : (constants.signals as Readonly<Record<string, number>>)[signal];
  return number === undefined ? EXIT_SUPERVISOR_FAILED : 128 + number;
}
