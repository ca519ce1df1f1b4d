import { InvalidArgumentError, type Command } from 'commander';

import type { Client } from '../api/client.ts';
import type { LaunchRequest } from '../api/service.ts';
import { TRACEPARENT_PATTERN } from '../core/ids.ts';
import { attachedRun } from './attached-run.ts';
import type { Invoke } from './commands.ts';
import type { Context } from './context.ts';
import { signalExitCode } from './exit-code.ts';
import { readProfile } from './launch-request.ts';
import { isTty } from './terminal.ts';

type Options = {
  readonly detach?: boolean;
  readonly label?: Readonly<Record<string, string>>;
  readonly traceparent?: string;
};

export function define(command: Command, invoke: Invoke): void {
  command
    .usage('[options] <profile> [-- command...]')
    .argument('<profile>', 'profile file')
    .argument('[command...]', 'after `--`: what to run, for a profile with `command: any`')
    .option('-d, --detach', 'print the run id and come back at once')
    .option('--label <key=value>', 'shown with the run and in its incidents; may be repeated', collectLabel)
    .option('--traceparent <id>', 'trace to go on with (default: TRACEPARENT, where it is set and valid)', checkTrace)
    .addHelpText(
      'after',
      '\nExit codes: the agent’s own; 124 ended by a limit, a budget or the supervisor;\n' +
        '125 the supervisor or the engine failed; 126 refused before the start; 127 command\n' +
        'not found; 2 bad usage; 130 or 143 interrupted.',
    )
    .action((profile: string, words: readonly string[], options: Options) =>
      invoke((context) => run(context, { profile, words, options })),
    );
}

async function run(
  context: Context,
  asked: { readonly profile: string; readonly words: readonly string[]; readonly options: Options },
): Promise<number> {
  const { terminal, json } = context;
  const attach = asked.options.detach !== true;
  const request: LaunchRequest = {
    ...(await readProfile({ file: asked.profile, cwd: terminal.cwd })),
    command: asked.words.length === 0 ? null : asked.words,
    labels: asked.options.label ?? {},
    attach,
    // With --json stdout belongs to the outcome, so there is no terminal to give away.
    tty: attach && !json && isTty(terminal.stdin) && isTty(terminal.stdout),
    stdin: attach,
    traceparent: asked.options.traceparent ?? traceOf(terminal.env['TRACEPARENT']),
  };
  const client = await context.client();
  const launched = await launch({ context, client, request });
  if (launched.kind === 'interrupted') return signalExitCode(launched.signal);
  if (attach) return await attachedRun({ context, client, runId: launched.run.runId, tty: request.tty });
  await context.answer({ json: launched.run, text: () => launched.run.runId });
  return 0;
}

/** A signal before the run has begun leaves: nobody attaches to the run, so it never starts. */
async function launch(options: {
  readonly context: Context;
  readonly client: Client;
  readonly request: LaunchRequest;
}): Promise<
  | { readonly kind: 'launched'; readonly run: Awaited<ReturnType<Client['launch']>> }
  | { readonly kind: 'interrupted'; readonly signal: string }
> {
  const { context, client, request } = options;
  // A detached run starts with the request, so leaving in the middle would leave it behind without its id.
  if (!request.attach) return { kind: 'launched', run: await client.launch(request) };
  const leave = new AbortController();
  let signal: string | null = null;
  const release = context.terminal.onSignal((name) => {
    signal ??= name;
    leave.abort();
  });
  try {
    return { kind: 'launched', run: await client.launch(request, leave.signal) };
  } catch (error) {
    if (signal === null) throw error;
    return { kind: 'interrupted', signal };
  } finally {
    release();
  }
}

function checkTrace(text: string): string {
  if (TRACEPARENT_PATTERN.test(text)) return text;
  throw new InvalidArgumentError('It must be a traceparent of version 00: 00-<32 hex digits>-<16>-<2>, in lower case.');
}

/** A variable that is not valid is what the standard says it is: no trace. */
function traceOf(variable: string | undefined): string | null {
  return variable !== undefined && TRACEPARENT_PATTERN.test(variable) ? variable : null;
}

function collectLabel(text: string, earlier: Readonly<Record<string, string>> = {}): Readonly<Record<string, string>> {
  const match = /^([A-Za-z0-9][A-Za-z0-9._/-]{0,62})=(.{0,256})$/.exec(text);
  if (match === null) throw new InvalidArgumentError('It must be KEY=VALUE, such as ticket=OPS-12.');
  return { ...earlier, [match[1] ?? '']: match[2] ?? '' };
}
