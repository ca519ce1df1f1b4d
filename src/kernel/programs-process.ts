import { execa } from 'execa';
import { messageOf } from '../core/errors.ts';
import { OOM_SCORES, protectFromOom } from './oom.ts';
import type { ProgramAnswer, ProgramOrder } from './programs.ts';

/**
 * The process that starts programs of the host for the daemon. It holds next to nothing, so that a fork of it copies next
 * to nothing, and whoever it keeps waiting is not the daemon. It ends with the channel to its parent.
 */
process.on('disconnect', () => process.exit(0));
// An order to end that goes to the whole group is the daemon's: what it takes down needs programs.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
process.on('message', (order: ProgramOrder) => {
  void run(order).then((answer) => process.send?.(answer));
});
protectFromOom(OOM_SCORES.programs);

async function run({ id, program, args, input, path, msMax, charsMax }: ProgramOrder): Promise<ProgramAnswer> {
  try {
    const { exitCode, timedOut, stdout, stderr } = await execa(program, args, {
      reject: false,
      timeout: msMax,
      killSignal: 'SIGKILL',
      maxBuffer: charsMax,
      env: { LC_ALL: 'C', PATH: path },
      ...(input === null ? { stdin: 'ignore' } : { input }),
    });
    return { id, exitCode: exitCode ?? null, timedOut, stdout, stderr };
  } catch (error) {
    return { id, exitCode: null, timedOut: false, stdout: '', stderr: messageOf(error) };
  }
}
