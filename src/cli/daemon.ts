import type { Command } from 'commander';

import type { Invoke } from './commands.ts';
import type { Context } from './context.ts';

export function define(command: Command, invoke: Invoke): void {
  command
    .addHelpText(
      'after',
      '\nSIGTERM and SIGINT end every run, then the daemon. What a daemon that was killed left\n' +
        'behind stays under its limits, which the kernel holds, until the next one starts.\n' +
        'SIGUSR2 leaves the runs to the next daemon, for an upgrade. SIGHUP reads the configuration\n' +
        'again and logs whether it is valid and what of it needs a restart.',
    )
    .action(() => invoke(serve));
}

async function serve(context: Context): Promise<number> {
  const { configPath, configNamed, statePath, socketPath, terminal } = context;
  const asked = Promise.withResolvers<'stop' | 'handOver'>();
  let reload = async (): Promise<void> => undefined;
  const releases = [
    terminal.onSignal((name) => {
      // While it starts there is nothing to read again: the start reads the newest text anyway.
      if (name === 'SIGHUP') void reload();
      else asked.resolve('stop');
    }),
    terminal.onHandOver(() => asked.resolve('handOver')),
  ];
  try {
    const { startDaemon } = await import('../daemon/compose.ts');
    const daemon = await startDaemon({ configPath, configRequired: configNamed, statePath, socketPath });
    reload = () => daemon.reload();
    const wanted = await Promise.race([asked.promise, daemon.done]);
    await (wanted === 'handOver' ? daemon.handOver() : daemon.stop());
    await daemon.done;
    return 0;
  } finally {
    for (const release of releases) release();
  }
}
