import { createHash } from 'node:crypto';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { ROUTING_KEY, startPagerDuty } from '../../test/support/pagerduty-receiver.ts';
import { startSlack } from '../../test/support/slack-receiver.ts';
import type { Sink } from '../core/ports/alert.ts';
import { HORIZON_MS } from './schedule.ts';
import { alertOf, KEY, open, recordingLog, startReceiver, withDirectory } from './testing.ts';
import { Spool } from './spool.ts';

const HOUR_MS = 3_600_000;

describe('testing a sink', () => {
  test('goes the real way, past the spool, and says what came back', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response, count) => response.writeHead(count === 1 ? 401 : 200).end('no'));
      const { outbox, delivered } = await open(directory, receiver.url);
      expect(await outbox.test('ops')).toMatchObject({
        sink: 'ops',
        kind: 'webhook',
        ok: false,
        message: 'answered 401: no',
      });
      const result = await outbox.test('ops');
      expect(result).toMatchObject({ ok: true, message: 'answered 200' });
      const [, request] = receiver.received;
      if (request === undefined) throw new Error('nothing was received');
      expect(request.id).toBe(result.id);
      expect(receiver.verify(request)).toMatchObject({ type: 'test' });
      expect(await readdir(directory)).toEqual(['corrupt', 'dead']);
      expect(delivered).toEqual([]);
      await expect(outbox.test('oops')).rejects.toMatchObject({ code: 'SINK_UNKNOWN', hint: 'it has ops' });
      await outbox.close();
      await receiver.close();
    });
  });

  test('of a sink that was gone opens it again when it answers', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response, count) => response.writeHead(count === 1 ? 410 : 200).end());
      const { outbox, failed, delivered } = await open(directory, receiver.url);
      await outbox.enqueue(alertOf('a1'));
      await vi.waitFor(() => expect(failed).toHaveLength(1));
      expect(outbox.depth().disabled).toEqual(['ops']);
      expect((await outbox.test('ops')).ok).toBe(true);
      await vi.waitFor(() => expect(delivered).toMatchObject([{ id: 'a1' }]));
      expect(outbox.depth().disabled).toEqual([]);
      await outbox.close();
      await receiver.close();
    });
  });
});

describe('listing', () => {
  test('shows what waits, why, and for how long', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response) =>
        response.writeHead(429, { 'retry-after': '3600' }).end('slow down'),
      );
      const { outbox, clock, failed } = await open(directory, receiver.url);
      const queuedAt = new Date(clock.nowMs).toISOString();
      await outbox.enqueue(alertOf('a1'));
      await outbox.enqueue(alertOf('a2'));
      await vi.waitFor(() => expect(failed).toHaveLength(1));
      clock.nowMs += 60_000;
      const error = 'answered 429: slow down';
      expect(await outbox.list()).toEqual({
        sinks: [
          {
            name: 'ops',
            kind: 'webhook',
            disabled: false,
            waiting: 2,
            oldestMs: 60_000,
            pausedForMs: HOUR_MS - 60_000,
            lastDeliveredAt: null,
            lastError: { at: queuedAt, message: error },
            heartbeat: null,
          },
        ],
        waiting: [
          {
            id: 'a1',
            sink: 'ops',
            type: 'incident.opened',
            subject: 'rome',
            severity: 'high',
            queuedAt,
            attempts: 1,
            retryInMs: HOUR_MS - 60_000,
            folded: false,
            lastError: error,
          },
          {
            id: 'a2',
            sink: 'ops',
            type: 'incident.opened',
            subject: 'rome',
            severity: 'high',
            queuedAt,
            attempts: 0,
            retryInMs: null,
            folded: false,
            lastError: null,
          },
        ],
        dead: [],
      });
      await outbox.close();
      await receiver.close();
    });
  });

  test('shows the sinks that are not configured any more', async () => {
    await withDirectory(async (directory) => {
      const { spool } = await Spool.open(directory, recordingLog());
      await spool.write({ ...alertOf('a1'), sink: 'old' }, Date.now());
      const { outbox } = await open(directory, 'http://127.0.0.1:1/');
      const { sinks, waiting } = await outbox.list();
      expect(sinks.map(({ name, kind, waiting: count }) => [name, kind, count])).toEqual([
        ['ops', 'webhook', 0],
        ['old', null, 1],
      ]);
      expect(waiting).toMatchObject([{ id: 'a1', sink: 'old', retryInMs: null }]);
      expect(outbox.depth()).toMatchObject({ waiting: 1 });
      await outbox.close();
    });
  });
});

describe('trying again by hand', () => {
  test('does not wait for what the sink asked for', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response, count) =>
        response.writeHead(count === 1 ? 429 : 200, { 'retry-after': '3600' }).end(),
      );
      const { outbox, failed, delivered } = await open(directory, receiver.url);
      await outbox.enqueue(alertOf('a1'));
      await outbox.enqueue(alertOf('b1', { subject: 'reader' }));
      await vi.waitFor(() => expect(failed.length).toBeGreaterThan(0));
      expect(await outbox.retry({ kind: 'id', id: 'none' })).toBe(0);
      expect(await outbox.retry({ kind: 'waiting' })).toBe(2 - delivered.length);
      await vi.waitFor(() => expect(delivered.map((each) => each.id).toSorted()).toEqual(['a1', 'b1']));
      await outbox.close();
      await receiver.close();
    });
  });

  test('brings back a dead alert, by its id, with three more days', async () => {
    await withDirectory(async (directory) => {
      let answer = 500;
      const receiver = await startReceiver((response) => response.writeHead(answer).end());
      const { outbox, clock, failed, delivered } = await open(directory, receiver.url);
      await outbox.enqueue(alertOf('a1'));
      await vi.waitFor(() => expect(failed).toHaveLength(1));
      clock.nowMs += HORIZON_MS;
      clock.advance(HOUR_MS);
      await vi.waitFor(() => expect(outbox.depth().dead).toBe(1));
      expect((await outbox.list()).dead).toEqual([
        {
          id: 'a1',
          sink: 'ops',
          type: 'incident.opened',
          subject: 'rome',
          severity: 'high',
          queuedAt: new Date(clock.nowMs - HORIZON_MS).toISOString(),
          diedAt: new Date(clock.nowMs).toISOString(),
          why: 'given up after 72 hours',
        },
      ]);
      answer = 200;
      expect(await outbox.retry({ kind: 'id', id: 'a1' })).toBe(1);
      await vi.waitFor(() => expect(delivered).toMatchObject([{ id: 'a1', attempts: 1, sinceQueuedMs: 0 }]));
      expect(outbox.depth()).toMatchObject({ waiting: 0, dead: 0 });
      expect(await outbox.retry({ kind: 'dead' })).toBe(0);
      await outbox.close();
      await receiver.close();
    });
  });
});

describe('an alert that its receiver will never take', () => {
  test('is dead at once, with what the receiver said, and does not hold up the next', async () => {
    await withDirectory(async (directory) => {
      await using slack = await startSlack();
      slack.answerNext({ status: 400, body: 'invalid_blocks' });
      const sinks: Readonly<Record<string, Sink>> = { ops: { type: 'slack', url: slack.url, allowPrivate: true } };
      const { outbox, failed, delivered } = await open(directory, '', { sinks });
      await outbox.enqueue(alertOf('a1'));
      await outbox.enqueue(alertOf('a2'));
      await vi.waitFor(() => expect(delivered.map((each) => each.id)).toEqual(['a2']));
      expect(failed).toEqual([
        {
          id: 'a1',
          sink: 'ops',
          type: 'incident.opened',
          subject: 'rome',
          attempts: 1,
          message: 'answered 400: invalid_blocks',
          final: true,
          retryInMs: null,
        },
      ]);
      expect((await outbox.list()).dead).toMatchObject([{ id: 'a1', why: 'answered 400: invalid_blocks' }]);
      await outbox.close();
    });
  });
});

describe('a filter', () => {
  test('keeps out what its sink does not want, and lets in its nearest neighbour', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response) => response.writeHead(200).end());
      const base = { type: 'webhook', url: receiver.url, keys: [KEY], allowPrivate: true } as const;
      const sinks: Readonly<Record<string, Sink>> = { ops: { ...base, minSeverity: 'high' } };
      const { outbox, delivered } = await open(directory, '', { sinks });
      await outbox.enqueue(alertOf('a1', { severity: 'medium' }));
      await outbox.enqueue(alertOf('a2', { severity: 'high' }));
      await vi.waitFor(() => expect(delivered.map((each) => each.id)).toEqual(['a2']));
      expect(receiver.received).toHaveLength(1);
      await outbox.close();
      await receiver.close();
    });
  });
});

describe('the heartbeat of a sink', () => {
  test('comes in its interval, leaves no file, and is in the listing', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response) => response.writeHead(200).end());
      const base = { type: 'webhook', url: receiver.url, keys: [KEY], allowPrivate: true } as const;
      const sinks: Readonly<Record<string, Sink>> = { ops: { ...base, heartbeatMs: 30_000 } };
      const { outbox, clock } = await open(directory, '', { sinks });
      expect(clock.advance(30_000)).toBe(true);
      await vi.waitFor(() => expect(receiver.received).toHaveLength(1));
      const [beat] = receiver.received;
      if (beat === undefined) throw new Error('nothing was received');
      expect(receiver.verify(beat)).toMatchObject({ type: 'heartbeat' });
      await vi.waitFor(async () =>
        expect((await outbox.list()).sinks).toMatchObject([
          { heartbeat: { lastOkAt: new Date(clock.nowMs).toISOString(), error: null } },
        ]),
      );
      expect(await readdir(directory)).toEqual(['corrupt', 'dead']);
      await outbox.close();
      await receiver.close();
    });
  });
});

describe('the spool', () => {
  test('of an earlier version is delivered, to a sink of another kind too', async () => {
    await withDirectory(async (directory) => {
      await mkdir(directory, { recursive: true });
      const data = { what: { severity: 'critical', summary: 'rome lost its fence, and was killed.' } };
      const body = JSON.stringify({ type: 'incident.opened', timestamp: '2026-10-05T08:00:00.000Z', data });
      const alert = { id: 'i0123456789ab', sink: 'ops', type: 'incident.opened', subject: 'rome', body };
      const json = JSON.stringify({ version: 1, queuedAtMs: Date.now(), alert });
      const digest = createHash('sha256').update(json).digest('hex');
      await writeFile(join(directory, '000000000001-ops.json'), `${digest}\n${json}`);
      await using pagerduty = await startPagerDuty();
      const sinks: Readonly<Record<string, Sink>> = {
        ops: { type: 'pagerduty', url: pagerduty.url, routingKey: ROUTING_KEY, allowPrivate: true },
      };
      const { outbox, delivered } = await open(directory, '', { sinks });
      await vi.waitFor(() => expect(delivered).toHaveLength(1));
      expect(pagerduty.requests[0]?.json).toMatchObject({
        dedup_key: 'i0123456789ab',
        payload: { severity: 'critical', summary: 'rome lost its fence, and was killed.' },
      });
      await outbox.close();
    });
  });

  test('never gives a number twice while a dead file has it', async () => {
    await withDirectory(async (directory) => {
      const first = await Spool.open(directory, recordingLog());
      await first.spool.bury(await first.spool.write(alertOf('a1'), Date.now()), { atMs: 0, why: 'x' });
      const second = await Spool.open(directory, recordingLog());
      await second.spool.bury(await second.spool.write(alertOf('a2'), Date.now()), { atMs: 0, why: 'x' });
      expect((await second.spool.buried()).map(({ alert }) => alert.id)).toEqual(['a1', 'a2']);
    });
  });
});
