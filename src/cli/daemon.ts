import type { Command } from 'commander';

import type { Invoke } from './commands.ts';
import type { Context } from './context.ts';

export function define(command: Command, invoke: Invoke): void {
  command
    .addHelpText(
      'after',
      '\nSIGTERM and SIGINT end every run, then the daemon. What a daemon that was killed left\n' +
        'behind stays under its limits, which the kernel holds, until the next one starts.',
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
