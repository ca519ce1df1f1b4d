import { InvalidArgumentError, type Command } from 'commander';

import type { OutputChunk } from '../core/ports/engine.ts';
import { agentOutput, type AgentOutput } from './agent-output.ts';
import type { Invoke } from './commands.ts';
import type { Context } from './context.ts';

type Options = { readonly follow?: boolean; readonly tail?: number };

const TAIL_LINES_MAX = 1_000_000;

export function define(command: Command, invoke: Invoke): void {
  command
    .argument('<run>', 'run id, the beginning of one, or a profile name')
    .option('-f, --follow', 'go on until the run ends')
    .option('--tail <lines>', 'begin with so many of the last lines', parseLines)
    .action((run: string, options: Options) =>
      invoke(async (context) => {
        const client = await context.client();
        const { stdout, stderr } = context.terminal;
        const request = { follow: options.follow === true, tailLines: options.tail ?? null };
        const show = context.json ? linesOf(context) : agentOutput({ stdout, stderr, raw: false });
        for await (const chunk of client.logs(run, request)) if (!(await show(chunk))) break;
        return 0;
      }),
    );
}

/** With `--json`, one value for each chunk as the agent wrote it; what is no UTF-8 is replaced. */
function linesOf(context: Context): AgentOutput {
  const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
  return async ({ stream, bytes }: OutputChunk) => {
    await context.answerLine({ stream, text: decoders[stream].decode(bytes, { stream: true }) });
    return true;
  };
}

function parseLines(text: string): number {
  const lines = /^\d{1,7}$/.test(text) ? Number(text) : Number.NaN;
  if (!(lines <= TAIL_LINES_MAX)) throw new InvalidArgumentError('It must be a number of lines.');
  return lines;
}
