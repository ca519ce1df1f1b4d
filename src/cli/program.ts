import { Command, CommanderError } from 'commander';

import { EXIT_USAGE, fail } from '../core/errors.ts';
import { COMMANDS, withGlobalOptions, type CommandEntry, type Invoke } from './commands.ts';
import { createContext, type GlobalOptions } from './context.ts';
import { printFailure, reportFailure } from './failure.ts';
import { isTty, type Terminal } from './terminal.ts';

const OVERVIEW_EXAMPLE = 'ringfence run profiles/offline.yaml';
const HELP_COLUMNS = 80;

/** One command line from its words to its exit code. Never throws; everything is said on `terminal`. */
export async function runProgram(options: {
  readonly words: readonly string[];
  readonly terminal: Terminal;
  readonly version: string;
}): Promise<number> {
  const { terminal, version } = options;
  const { program, asked, exitCode } = buildProgram(terminal, version);
  // Options are not known when the parse itself failed, so what was typed decides how an error is shown.
  const json = beforeCommandWords(options.words).includes('--json');
  try {
    await program.parseAsync(helpLast(options.words), { from: 'user' });
    return exitCode();
  } catch (error) {
    if (!(error instanceof CommanderError)) {
      return await reportFailure({ error, terminal, json });
    }
    if (error.exitCode === 0) return 0;
    if (json) printFailure(terminal, fail('REQUEST_INVALID', { detail: error.message.replace(/^error: /, '') }));
    terminal.stderr.write(`example: ${asked()?.example ?? OVERVIEW_EXAMPLE}\n`);
    return EXIT_USAGE;
  }
}

function buildProgram(
  terminal: Terminal,
  version: string,
): { readonly program: Command; readonly asked: () => CommandEntry | null; readonly exitCode: () => number } {
  let asked: CommandEntry | null = null;
  let exitCode = 0;
  const program = withGlobalOptions(new Command('ringfence'))
    .description('Holds AI agents inside the boundary that a person wrote down for them.')
    .version(version, '-V, --version', 'print the version')
    .helpCommand(false)
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void terminal.stdout.write(text),
      writeErr: (text) => void terminal.stderr.write(text),
      outputError: (text, write) => write(text.replace(/^error: /, 'ringfence: ')),
      getOutHelpWidth: () => (isTty(terminal.stdout) ? terminal.stdout.columns : HELP_COLUMNS),
      getErrHelpWidth: () => (isTty(terminal.stderr) ? terminal.stderr.columns : HELP_COLUMNS),
    });
  for (const entry of COMMANDS) {
    program
      .command(entry.name)
      .summary(entry.summary)
      .description(`${entry.summary[0]?.toUpperCase() ?? ''}${entry.summary.slice(1)}.`)
      .helpCommand(false)
      .addHelpText('after', `\nExample:\n  ${entry.example}`);
  }
  program.hook('preSubcommand', async (_, command) => {
    const entry = COMMANDS.find(({ name }) => name === command.name());
    if (entry === undefined || asked !== null) return;
    asked = entry;
    terminal.onBrokenPipe(entry.outlivesReaders === true ? 'ignore' : 'exit');
    const invoke: Invoke = async (work) => {
      const leaf = leafOf(command);
      exitCode = await work(createContext(terminal, leaf.optsWithGlobals<GlobalOptions>()));
    };
    (await entry.load()).define(command, invoke);
    withGlobalOptions(command);
  });
  return { program, asked: () => asked, exitCode: () => exitCode };
}

/** The subcommand whose action runs: `ledger verify` rather than `ledger`. */
function leafOf(command: Command): Command {
  const [name] = command.args;
  const inner = command.commands.find((one) => one.name() === name);
  return inner === undefined ? command : leafOf(inner);
}

/** `ringfence help run` is `ringfence run --help`, whose file is loaded by then. */
function helpLast(words: readonly string[]): string[] {
  const [first, ...rest] = words;
  return first === 'help' ? [...rest.filter((word) => !word.startsWith('-')), '--help'] : [...words];
}

function beforeCommandWords(words: readonly string[]): readonly string[] {
  const end = words.indexOf('--');
  return end === -1 ? words : words.slice(0, end);
}
