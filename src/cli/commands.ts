import type { Command } from 'commander';

import type { Context } from './context.ts';

/** A command file adds its arguments and options, and hands its work to `invoke`; the work resolves to the exit code. */
export type CommandModule = { readonly define: (command: Command, invoke: Invoke) => void };
export type Invoke = (work: (context: Context) => Promise<number>) => Promise<void>;

export type CommandEntry = {
  readonly name: string;
  readonly summary: string;
  /** A line that works as it stands, at the end of every usage error. */
  readonly example: string;
  /** True for the daemon: it goes on when nobody reads its output any more. */
  readonly outlivesReaders?: boolean;
  /** One file per command, loaded when it is the one that was asked for, so that each starts fast. */
  readonly load: () => Promise<CommandModule>;
};

/** Every command there is. One that an issue has not asked for yet is absent, never a stub. */
export const COMMANDS: readonly CommandEntry[] = [
  {
    name: 'daemon',
    summary: 'run the supervisor in the foreground',
    example: 'ringfence daemon --config /etc/ringfence/config.yaml',
    outlivesReaders: true,
    load: () => import('./daemon.ts'),
  },
  {
    name: 'run',
    summary: 'launch an agent from its profile',
    example: 'ringfence run profiles/offline.yaml',
    load: () => import('./run.ts'),
  },
  { name: 'ps', summary: 'list runs with their use', example: 'ringfence ps --all', load: () => import('./ps.ts') },
  {
    name: 'inspect',
    summary: 'show one run whole',
    example: 'ringfence inspect paper-reader',
    load: () => import('./inspect.ts'),
  },
  {
    name: 'top',
    summary: 'watch what is nearest to its bound',
    example: 'ringfence top',
    load: () => import('./top.ts'),
  },
  {
    name: 'logs',
    summary: 'show what an agent wrote',
    example: 'ringfence logs -f paper-reader',
    load: () => import('./logs.ts'),
  },
  {
    name: 'events',
    summary: 'show what happened, one line each',
    example: 'ringfence events -f --since 10m',
    load: () => import('./events.ts'),
  },
  {
    name: 'stop',
    summary: 'end a run politely, then by force',
    example: 'ringfence stop paper-reader',
    load: () => import('./stop.ts'),
  },
  {
    name: 'kill',
    summary: 'end a run at once',
    example: 'ringfence kill paper-reader',
    load: () => import('./kill.ts'),
  },
  {
    name: 'resume',
    summary: 'let a paused run go on',
    example: 'ringfence resume paper-reader',
    load: () => import('./resume.ts'),
  },
  {
    name: 'reload',
    summary: 'hold the runs of a profile to its new text',
    example: 'ringfence reload profiles/offline.yaml',
    load: () => import('./reload.ts'),
  },
  {
    name: 'pending',
    summary: 'list what agents wait for a person to allow',
    example: 'ringfence pending',
    load: () => import('./pending.ts'),
  },
  {
    name: 'approve',
    summary: 'allow what an agent asked for, for a time',
    example: 'ringfence approve a0123456789ab --for 10m',
    load: () => import('./approve.ts'),
  },
  {
    name: 'deny',
    summary: 'refuse what an agent asked for',
    example: 'ringfence deny a0123456789ab',
    load: () => import('./deny.ts'),
  },
  {
    name: 'wait',
    summary: 'wait for the end of a run and exit as it did',
    example: 'ringfence wait paper-reader',
    load: () => import('./wait.ts'),
  },
  {
    name: 'why',
    summary: 'explain why a run ended or was denied',
    example: 'ringfence why paper-reader',
    load: () => import('./why.ts'),
  },
  {
    name: 'incidents',
    summary: 'list breaches that were acted on',
    example: 'ringfence incidents --json',
    load: () => import('./incidents.ts'),
  },
  {
    name: 'incident',
    summary: 'show one incident with its evidence',
    example: 'ringfence incident i0123456789ab',
    load: () => import('./incident.ts'),
  },
  {
    name: 'release',
    summary: 'end the quarantine of a profile',
    example: 'ringfence release paper-reader',
    load: () => import('./release.ts'),
  },
  {
    name: 'validate',
    summary: 'check profiles, without a daemon',
    example: 'ringfence validate profiles/*.yaml',
    load: () => import('./validate.ts'),
  },
  {
    name: 'diff',
    summary: 'say what changes between two profiles',
    example: 'ringfence diff before.yaml after.yaml',
    load: () => import('./diff.ts'),
  },
  {
    name: 'schema',
    summary: 'print the JSON Schema of a profile',
    example: 'ringfence schema > profile.schema.json',
    load: () => import('./schema.ts'),
  },
  {
    name: 'ledger',
    summary: 'check the record, without a daemon',
    example: 'ringfence ledger verify --state /var/lib/ringfence',
    load: () => import('./ledger.ts'),
  },
  {
    name: 'alerts',
    summary: 'look after sinks and what waits for them',
    example: 'ringfence alerts ls',
    load: () => import('./alerts.ts'),
  },
  {
    name: 'doctor',
    summary: 'show what this host can enforce',
    example: 'ringfence doctor',
    load: () => import('./doctor.ts'),
  },
  { name: 'gc', summary: 'remove whatever a crash left', example: 'ringfence gc', load: () => import('./gc.ts') },
];

/** On every level, so that `ringfence --json ps` and `ringfence ps --json` mean the same. */
export function withGlobalOptions(command: Command): Command {
  for (const inner of command.commands) withGlobalOptions(inner);
  return command
    .optionsGroup('Global options:')
    .option('--socket <path>', 'socket of the daemon (RINGFENCE_SOCKET)')
    .option('--state <directory>', 'state directory of the daemon')
    .option('--config <file>', 'configuration of the daemon')
    .option('--json', 'answer with JSON')
    .helpOption('-h, --help', 'show this help');
}
