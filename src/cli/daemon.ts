import type { Command } from 'commander';

import type { Invoke } from './commands.ts';
import type { Context } from './context.ts';

export function define(command: Command, invoke: Invoke): void {
  command
    .addHelpText(
      'after',
      '\nSIGTERM and SIGINT end the daemon. Runs go on under their limits, which the kernel\n' +
        'holds, and the next daemon on the same state directory takes them over.',
    )
    .action(() => invoke(serve));
}

async function serve(context: Context): Promise<number> {
  const { configPath, configNamed, statePath, socketPath, terminal } = context;
  const asked = Promise.withResolvers<void>();
  const release = terminal.onSignal(() => asked.resolve());
  try {
    const { startDaemon } = await import('../daemon/compose.ts');
    const daemon = await startDaemon({ configPath, configRequired: configNamed, statePath, socketPath });
    await Promise.race([asked.promise, daemon.done]);
    await daemon.stop();
    await daemon.done;
    return 0;
  } finally {
    release();
  }
}
