import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { command } from '../support/lab.ts';
import { SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** The disk of the state directory is full, as a real one would be: nothing new starts, and nothing gets loose. */
const supervised = useSupervised({ stateBytes: 8 * 2 ** 20 });
const FACT_MS_MAX = 30_000;

async function isWritable(): Promise<boolean> {
  const args = ['--unix-socket', supervised.daemon.socket, '-s', 'http://localhost/v1/metrics'];
  const { stdout } = await command('curl', args);
  return /^ringfence_ledger_writable 1$/m.test(stdout);
}

test(
  'a full disk stops launches and loosens no bound; then the next daemon goes on',
  { timeout: 150_000 },
  async () => {
    const { daemon } = supervised;
    const bounded = await supervised.start({ name: 'bounded', command: SHELL('sleep 60'), budget: { wall: '25s' } });
    expect(await isWritable()).toBe(true);

    const filler = join(daemon.state, 'filler');
    const filling = promisify(execFile)('sh', ['-c', `cat /dev/zero > ${filler}`]);
    await expect(filling).rejects.toThrow('No space left on device');
    // The page that the ledger ends in may have room for a few records more.
    await until(
      'the ledger has failed',
      async () => {
        await daemon.cli(['ledger', 'checkpoint']);
        return !(await isWritable());
      },
      { deadlineMs: FACT_MS_MAX },
    );
    const late = supervised.writeProfile({ name: 'late', command: SHELL('true') });
    const refused = await daemon.cli(['run', late]);
    expect(refused).toMatchObject({
      stdout: '',
      stderr: expect.stringMatching(/^ringfence: the ledger cannot be written: ENOSPC/),
    });
    expect(refused.exitCode).toBe(126);
    expect(refused.stderr).toMatch(/^hint: ./m);

    // Nobody is given a signature over what is not on disk.
    expect(await daemon.cli(['ledger', 'checkpoint'])).toMatchObject({ exitCode: 126, stdout: '' });
    const said = daemon
      .log()
      .split('\n')
      .filter((line) => line.includes('nothing more is recorded, and no run starts'));
    expect(said).toHaveLength(1);

    // What is alive is seen, held and ended as before.
    const { outcome } = await supervised.wait(bounded.runId);
    expect(outcome).toMatchObject({ reason: 'budget.wall', rule: 'budget.wall' });

    rmSync(filler);
    await daemon.stop();
    await daemon.start();
    expect((await supervised.run({ name: 'after', command: SHELL('true') })).outcome.reason).toBe('exited');
    const { stdout, exitCode } = await daemon.cli(['ledger', 'verify', '--json', '--state', daemon.state]);
    expect({ exitCode, verified: JSON.parse(stdout) as unknown }).toMatchObject({
      exitCode: 0,
      verified: { ok: true },
    });
  },
);
