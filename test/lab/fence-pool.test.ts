import { expect, test } from 'vitest';
import { startDaemon } from '../support/daemon.ts';
import { command } from '../support/lab.ts';

async function jumpsFor(pool: string): Promise<readonly string[]> {
  const saved = await command('iptables-save', []);
  return saved.stdout.split('\n').filter((line) => line.startsWith('-A POSTROUTING') && line.includes(pool));
}

test('a daemon with another pool takes the rules of the old one with it', async () => {
  const pools = ['10.217.0.0/24', '10.213.0.0/16'] as const;
  for (const pool of pools) {
    await using daemon = await startDaemon({ config: { fence: { pool } } });
    expect((await daemon.cli(['doctor'])).exitCode).toBe(0);
    expect(await jumpsFor(pool)).toHaveLength(1);
  }
  expect(await jumpsFor(pools[0])).toEqual([]);
});
