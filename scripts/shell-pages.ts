import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { COMMANDS, withGlobalOptions } from '../src/cli/commands.ts';
import { VERSION } from '../src/core/version.ts';

/** Writes the completions for bash and zsh and the manual page below a folder, from the commands themselves. */

type Page = { readonly words: readonly string[]; readonly command: Command };

/** Said once for all commands. */
const GLOBAL: ReadonlySet<string> = new Set(['--socket', '--state', '--config', '--json', '--help']);

const pages = await readPages();
const folder = process.argv[2] ?? '';
if (folder === '') throw new Error('usage: shell-pages.ts FOLDER');
write('bash-completion/completions/ringfence', bashCompletion());
write('zsh/site-functions/_ringfence', zshCompletion());
write('man/man1/ringfence.1', manualPage());

async function readPages(): Promise<readonly Page[]> {
  const program = new Command('ringfence');
  const found: Page[] = [];
  for (const entry of COMMANDS) {
    const command = program.command(entry.name).summary(entry.summary).description(entry.summary);
    (await entry.load()).define(command, async () => undefined);
    withGlobalOptions(command);
    found.push({ words: [entry.name], command });
    for (const inner of command.commands) found.push({ words: [entry.name, inner.name()], command: inner });
  }
  return found;
}

function write(path: string, text: string): void {
  const file = join(folder, path);
  mkdirSync(join(file, '..'), { recursive: true });
  writeFileSync(file, text);
}

function flagsOf(command: Command): readonly string[] {
  return [...command.options.map((option) => option.long ?? option.short ?? ''), '--help'].filter(
    (flag) => flag !== '',
  );
}

/** Names of runs are asked of the daemon; where none answers, nothing is offered. */
function bashCompletion(): string {
  const cases = pages.map(({ words, command }) => {
    const inner = command.commands.map((one) => one.name()).join(' ');
    return `    '${words.join(' ')}') words='${[...flagsOf(command), inner].join(' ').trim()}' ;;`;
  });
  const groups = pages.filter(({ command }) => command.commands.length > 0).map(({ words }) => words[0]);
  return `# bash completion of ringfence ${VERSION}; generated.
_ringfence() {
  local current=\${COMP_WORDS[COMP_CWORD]} first=\${COMP_WORDS[1]-} path words
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W '${COMMANDS.map(({ name }) => name).join(' ')} --help --version' -- "$current")
    return
  fi
  path=$first
  case $first in
    ${groups.join(' | ')}) if ((COMP_CWORD > 2)); then path="$first \${COMP_WORDS[2]}"; fi ;;
  esac
  words=
  case $path in
${cases.join('\n')}
  esac
  if [[ $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    return
  fi
  case $path in
    run | validate | diff | reload) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
    inspect | logs | stop | kill | resume | wait | why)
      mapfile -t COMPREPLY < <(compgen -W "$(ringfence ps --json 2>/dev/null |
        sed -n 's/^ *"\\(runId\\|profile\\)": "\\([a-z0-9-]*\\)".*/\\2/p')" -- "$current") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current") ;;
  esac
}
complete -o filenames -F _ringfence ringfence
`;
}

function zshCompletion(): string {
  const quoted = (text: string): string => text.replaceAll("'", "'\\''").replaceAll(':', '\\:');
  const commands = COMMANDS.map(({ name, summary }) => `    '${name}:${quoted(summary)}'`).join('\n');
  const cases = pages
    .filter(({ words }) => words.length === 1)
    .map(({ words, command }) => {
      const inner = command.commands.map((one) => one.name());
      const offered = [...inner, ...flagsOf(command)].join(' ');
      return `    ${words[0] ?? ''}) compadd -- ${offered} ;;`;
    });
  return `#compdef ringfence
# zsh completion of ringfence ${VERSION}; generated.
_ringfence() {
  local -a commands
  commands=(
${commands}
  )
  if ((CURRENT == 2)); then
    _describe 'command' commands
    return
  fi
  [[ $PREFIX == -* ]] || _files
  case $words[2] in
${cases.join('\n')}
  esac
}
_ringfence "$@"
`;
}

function manualPage(): string {
  const lines = [
    `.TH RINGFENCE 1 "" "ringfence ${VERSION}" "User Commands"`,
    '.SH NAME',
    'ringfence \\- holds AI agents inside the boundary that a person wrote down for them',
    '.SH SYNOPSIS',
    '.B ringfence',
    '.I COMMAND',
    '[\\fIOPTIONS\\fR]',
    '.SH DESCRIPTION',
    'Launches AI agents in containers, holds each to the limits, budgets and destinations of its profile, ends what',
    'crosses them, and keeps the record. The command \\fBdaemon\\fR is the supervisor; the others talk to it.',
    '.SH COMMANDS',
    ...pages.flatMap(({ words, command }) => [
      '.TP',
      `.B ${roff(`${words.join(' ')} ${command.usage()}`)}`,
      roff(sentence(command.summary() === '' ? command.description() : command.summary())),
      ...command.options
        .filter((option) => !GLOBAL.has(option.long ?? ''))
        .flatMap((option) => ['.RS', '.TP', `.B ${roff(option.flags)}`, roff(sentence(option.description)), '.RE']),
    ]),
    '.SH GLOBAL OPTIONS',
    '.TP',
    '.B \\-\\-json',
    'Answer with JSON.',
    '.TP',
    '.B \\-\\-socket, \\-\\-state, \\-\\-config',
    'Socket, state directory and configuration of the daemon, where they are not the usual ones.',
    '.SH EXIT STATUS',
    '.B run',
    'ends with the code of the agent; 124 when the agent was ended by a limit, a budget or the supervisor; 125 when',
    'the supervisor or the engine failed; 126 when the run was refused; 127 when the command is not in the image; 2 for',
    'wrong usage; 130 and 143 when interrupted.',
    '.SH FILES',
    ...[
      ['/run/ringfence/ringfenced.sock', 'Socket of the daemon.'],
      ['/etc/ringfence/config.yaml', 'Its configuration.'],
      ['/var/lib/ringfence', 'Its state: the record, alerts that wait, keys.'],
    ].flatMap(([file = '', what = '']) => ['.TP', `.I ${roff(file)}`, what]),
    '.SH ENVIRONMENT',
    '.TP',
    '.B RINGFENCE_SOCKET',
    'Where the socket is.',
    '.TP',
    '.B DOCKER_HOST',
    'Socket of the engine, for the daemon.',
    '.SH SEE ALSO',
    'The pages in /opt/ringfence/docs; \\fBsystemctl\\fR(1), \\fBdocker\\fR(1).',
  ];
  return `${lines.join('\n')}\n`;
}

function sentence(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}${text.endsWith('.') ? '' : '.'}`;
}

/** A dot or quote at the start of a line is a request, a backslash an escape, a hyphen a hyphen only when escaped. */
function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll('\n', ' ')
    .replace(/^([.'])/, '\\&$1');
}
