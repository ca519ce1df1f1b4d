import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import type { Alert } from '../core/ports/alert.ts';
import { HORIZON_MS, retryDelayMs } from './schedule.ts';
import { Spool } from './spool.ts';
import { alertOf, open, recordingLog, startReceiver, withDirectory } from './testing.ts';

const HOUR_MS = 3_600_000;

async function spoolFiles(directory: string): Promise<string[]> {
  return (await readdir(directory)).filter((name) => name.endsWith('.json'));
}

describe('the outbox', () => {
  test('has the alert on disk, for its owner alone, before the first attempt', async () => {
    await withDirectory(async (directory) => {
      const seen: string[] = [];
      const receiver = await startReceiver((response) => {
        void spoolFiles(directory).then((files) => {
          seen.push(...files);
          response.writeHead(200).end();
        });
      });
      const { outbox, delivered } = await open(directory, receiver.url);
      await outbox.enqueue(alertOf('a1'));
      await vi.waitFor(() => expect(delivered).toMatchObject([{ id: 'a1', sink: 'ops', attempts: 1, status: 200 }]));
      expect(seen).toEqual(['000000000001-ops.json']);
      expect(await spoolFiles(directory)).toEqual([]);
      expect((await stat(directory)).isDirectory()).toBe(true);
      expect(outbox.depth()).toMatchObject({ waiting: 0, dead: 0, disabled: [] });
      await outbox.close();
      await receiver.close();
    });
  });

  test('retries under the same id and body with a new time and signature, until the receiver is well', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response, count) => response.writeHead(count < 4 ? 500 : 200).end());
      const { outbox, clock, delivered, failed } = await open(directory, receiver.url);
      await outbox.enqueue(alertOf('a1'));
      for (const attempts of [1, 2, 3]) {
        await vi.waitFor(() => expect(failed).toHaveLength(attempts));
        expect(clock.advance(HOUR_MS)).toBe(true);
      }
      await vi.waitFor(() => expect(delivered).toMatchObject([{ id: 'a1', attempts: 4, sinceQueuedMs: 14_000 }]));
      expect(failed.map((each) => each.retryInMs)).toEqual([2_000, 4_000, 8_000]);
      expect(new Set(receiver.received.map((each) => each.id + each.body)).size).toBe(1);
      expect(new Set(receiver.received.map((each) => each.headers['webhook-signature'])).size).toBe(4);
      for (const request of receiver.received) receiver.verify(request);
      await outbox.close();
      await receiver.close();
    });
  });

  test('delivers when a receiver that was down comes up', async () => {
    await withDirectory(async (directory) => {
      const down = await startReceiver(() => {});
      await down.close();
      const { outbox, clock, delivered, failed } = await open(directory, down.url);
      await outbox.enqueue(alertOf('a1'));
      await vi.waitFor(() =>
        expect(failed).toMatchObject([{ id: 'a1', final: false, message: expect.stringMatching(/ECONNREFUSED/) }]),
      );
      const up = await startReceiver((response) => response.writeHead(200).end(), { port: down.port });
      clock.advance(HOUR_MS);
      await vi.waitFor(() => expect(delivered).toHaveLength(1));
      await outbox.close();
      await up.close();
    });
  });

  test('takes up what an earlier daemon left, when it was killed between writing and sending', async () => {
    await withDirectory(async (directory) => {
      const { spool } = await Spool.open(directory, recordingLog());
      await spool.write(alertOf('a1'), Date.now());
      await spool.write(alertOf('a2'), Date.now());
      await writeFile(join(directory, '.new-000000000003-ops.json'), 'half a fi');
      const receiver = await startReceiver((response) => response.writeHead(200).end());
      const { outbox, delivered } = await open(directory, receiver.url);
      await vi.waitFor(() => expect(delivered.map((each) => each.id)).toEqual(['a1', 'a2']));
      await outbox.enqueue(alertOf('a3'));
      await vi.waitFor(() => expect(delivered).toHaveLength(3));
      expect(receiver.received.map((each) => each.id)).toEqual(['a1', 'a2', 'a3']);
      expect(await readdir(directory)).toEqual(['corrupt', 'dead']);
      await outbox.close();
      await receiver.close();
    });
  });

  test('keeps what was under way when it is closed, and sends it once more later', async () => {
    await withDirectory(async (directory) => {
      const silent = await startReceiver(() => {});
      const first = await open(directory, silent.url);
      await first.outbox.enqueue(alertOf('a1'));
      await vi.waitFor(() => expect(silent.received).toHaveLength(1));
      await first.outbox.close();
      expect(first.failed).toEqual([]);
      await expect(first.outbox.enqueue(alertOf('a2'))).rejects.toMatchObject({ code: 'ALERT_NOT_KEPT' });
      await silent.close();
      const receiver = await startReceiver((response) => response.writeHead(200).end(), { port: silent.port });
      const second = await open(directory, receiver.url);
      await vi.waitFor(() => expect(second.delivered).toMatchObject([{ id: 'a1', attempts: 1 }]));
      await second.outbox.close();
      await receiver.close();
    });
  });

  test('keeps the order of one agent, and lets no agent wait for another', async () => {
    await withDirectory(async (directory) => {
      let broken = true;
      const receiver = await startReceiver((response, count) => {
        const { id } = receiver.received[count - 1] ?? { id: '' };
        response.writeHead(broken && id === 'a1' ? 500 : 200).end();
      });
      const { outbox, clock, delivered, failed } = await open(directory, receiver.url);
      await Promise.all(['a1', 'a2', 'a3'].map(async (id) => await outbox.enqueue(alertOf(id))));
      await outbox.enqueue(alertOf('b1', { subject: 'reader' }));
      await vi.waitFor(() => expect(failed).toHaveLength(1));
      await vi.waitFor(() => expect(delivered.map((each) => each.id)).toEqual(['b1']));
      broken = false;
      clock.advance(HOUR_MS);
      await vi.waitFor(() => expect(delivered.map((each) => each.id)).toEqual(['b1', 'a1', 'a2', 'a3']));
      expect(receiver.received.map((each) => each.id).toSorted()).toEqual(['a1', 'a1', 'a2', 'a3', 'b1']);
      await outbox.close();
      await receiver.close();
    });
  });

  test('waits as long as a receiver asks, with everything for it', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response, count) =>
        response.writeHead(count === 1 ? 429 : 200, { 'retry-after': '600' }).end(),
      );
      // An attempt begins with its name lookup, in the same turn, so that none can be under way unseen.
      let attempts = 0;
      const resolve = async () => {
        attempts += 1;
        return [{ address: '127.0.0.1', family: 4 as const }];
      };
      const url = `http://sink.example:${receiver.port}/`;
      const { outbox, clock, delivered, failed } = await open(directory, url, { http: { resolve } });
      await outbox.enqueue(alertOf('a1'));
      await vi.waitFor(() => expect(failed).toMatchObject([{ retryInMs: 600_000 }]));
      await outbox.enqueue(alertOf('b1', { subject: 'reader' }));
      expect(clock.advance(599_000)).toBe(false);
      expect(attempts).toBe(1);
      expect(clock.advance(600_000)).toBe(true);
      await vi.waitFor(() => expect(delivered).toHaveLength(2));
      await outbox.close();
      await receiver.close();
    });
  });

  test('sends nothing more to a receiver that is gone, until it starts again', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response, count) => response.writeHead(count === 1 ? 410 : 200).end());
      const { outbox, clock, failed } = await open(directory, receiver.url);
      await outbox.enqueue(alertOf('a1'));
      await vi.waitFor(() =>
        expect(failed).toMatchObject([
          { retryInMs: null, message: expect.stringMatching(/nothing more until .* a restart/) },
        ]),
      );
      await outbox.enqueue(alertOf('b1', { subject: 'reader' }));
      expect(clock.advance(HOUR_MS / 2)).toBe(false);
      expect(receiver.received).toHaveLength(1);
      expect(outbox.depth()).toMatchObject({ waiting: 2, dead: 0, disabled: ['ops'] });
      await outbox.close();
      const again = await open(directory, receiver.url);
      await vi.waitFor(() => expect(again.delivered).toHaveLength(2));
      await again.outbox.close();
      await receiver.close();
    });
  });

  test('gives up after the horizon and keeps the file for a person', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response) => response.writeHead(500).end());
      const { outbox, clock, failed, log } = await open(directory, receiver.url);
      await outbox.enqueue(alertOf('a1'));
      await vi.waitFor(() => expect(failed).toHaveLength(1));
      clock.nowMs += HORIZON_MS;
      clock.advance(HOUR_MS);
      await vi.waitFor(() =>
        expect(failed.at(-1)).toMatchObject({ id: 'a1', final: true, message: expect.stringMatching(/72 hours/) }),
      );
      expect(outbox.depth()).toMatchObject({ waiting: 0, dead: 1, disabled: [] });
      expect(await readdir(join(directory, 'dead'))).toEqual(['000000000001-ops.json']);
      expect(log.lines).toEqual([{ level: 'error', message: 'an alert was given up' }]);
      await outbox.close();
      await receiver.close();
    });
  });

  test('moves a damaged file aside with one line in the log, and delivers the others', async () => {
    await withDirectory(async (directory) => {
      const { spool } = await Spool.open(directory, recordingLog());
      for (const id of ['a1', 'a2']) await spool.write(alertOf(id), Date.now());
      const path = join(directory, '000000000001-ops.json');
      await writeFile(path, (await readFile(path, 'utf8')).replace('incident', 'incidenT'));
      await mkdir(join(directory, '000000000007-ops.json'));
      const receiver = await startReceiver((response) => response.writeHead(200).end());
      const { outbox, delivered, log } = await open(directory, receiver.url);
      await vi.waitFor(() => expect(delivered.map((each) => each.id)).toEqual(['a2']));
      const line = { level: 'error', message: 'an alert of the spool is not readable' };
      expect(log.lines).toEqual([line, line]);
      expect(await readdir(join(directory, 'corrupt'))).toEqual(['000000000001-ops.json', '000000000007-ops.json']);
      await outbox.close();
      await receiver.close();
    });
  });

  test('keeps the same alert once', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response) => response.writeHead(500).end());
      const { outbox } = await open(directory, receiver.url);
      await Promise.all([outbox.enqueue(alertOf('a1')), outbox.enqueue(alertOf('a1')), outbox.enqueue(alertOf('a2'))]);
      await outbox.enqueue(alertOf('a1'));
      expect(await spoolFiles(directory)).toEqual(['000000000001-ops.json', '000000000002-ops.json']);
      expect(outbox.depth().waiting).toBe(2);
      await outbox.close();
      await receiver.close();
    });
  });

  test('keeps what waits for a sink that is not configured now', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response) => response.writeHead(200).end());
      const without = await open(directory, receiver.url);
      await without.outbox.close();
      const { spool } = await Spool.open(directory, recordingLog());
      await spool.write({ ...alertOf('a1'), sink: 'gone' }, Date.now());
      const { outbox, delivered, log } = await open(directory, receiver.url);
      expect(log.lines).toEqual([{ level: 'warn', message: 'alerts wait for a sink that is not configured' }]);
      await outbox.enqueue(alertOf('a2'));
      await vi.waitFor(() => expect(delivered).toHaveLength(1));
      expect(outbox.depth().waiting).toBe(1);
      expect(receiver.received).toHaveLength(1);
      await outbox.close();
      await receiver.close();
    });
  });

  test('refuses what it cannot keep', async () => {
    await withDirectory(async (directory) => {
      const { outbox } = await open(directory, 'http://127.0.0.1:1/');
      const bad: readonly Alert[] = [
        { ...alertOf('a1'), sink: 'unknown' },
        alertOf('../../etc/passwd'),
        { ...alertOf('a1'), body: 'x'.repeat(600_000) },
      ];
      for (const alert of bad) {
        await expect(outbox.enqueue(alert)).rejects.toMatchObject({ code: 'ALERT_NOT_KEPT' });
      }
      expect(await spoolFiles(directory)).toEqual([]);
      await outbox.close();
    });
  });
});

test('the pause grows, is spread over all of its length, and ends at an hour', () => {
  const longest = [1, 2, 3, 10, 12, 13, 400].map((attempts) => retryDelayMs(attempts, null, () => 1));
  expect(longest).toEqual([2_000, 4_000, 8_000, 1_024_000, HOUR_MS, HOUR_MS, HOUR_MS]);
  expect(retryDelayMs(5, null, () => 0.5)).toBe(16_000);
  expect(retryDelayMs(5, null, () => 0)).toBe(250);
  expect(retryDelayMs(1, 30_000, () => 1)).toBe(30_000);
  expect(retryDelayMs(1, 10 * 86_400_000, () => 1)).toBe(86_400_000);
});
