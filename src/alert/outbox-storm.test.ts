import { readdir } from 'node:fs/promises';
import { describe, expect, test, vi } from 'vitest';
import { ROUTING_KEY, startPagerDuty } from '../../test/support/pagerduty-receiver.ts';
import type { Sink } from '../core/ports/alert.ts';
import { HORIZON_MS } from './schedule.ts';
import type { Opened } from './testing.ts';
import { alertOf, KEY, open, startReceiver, withDirectory } from './testing.ts';

const MINUTE_MS = 60_000;

function pager(url: string): Readonly<Record<string, Sink>> {
  return { ops: { type: 'pagerduty', url, routingKey: ROUTING_KEY, allowPrivate: true } };
}

/** A webhook that has enough after two, as one would set it for people. */
function chatty(url: string): Readonly<Record<string, Sink>> {
  return { ops: { type: 'webhook', url, keys: [KEY], allowPrivate: true, stormAfter: 2 } };
}

async function enqueueMany({ outbox }: Opened, count: number): Promise<readonly string[]> {
  const ids = Array.from({ length: count }, (_, index) => `i${String(index).padStart(3, '0')}`);
  await Promise.all(ids.map(async (id, index) => await outbox.enqueue(alertOf(id, { subject: `agent-${index % 7}` }))));
  return ids;
}

async function filesIn(directory: string): Promise<number> {
  return (await readdir(directory)).filter((name) => name.endsWith('.json')).length;
}

describe('a hundred incidents in a minute', () => {
  test('call somebody once, and every one of them is accounted for', async () => {
    await withDirectory(async (directory) => {
      await using pagerduty = await startPagerDuty();
      const opened = await open(directory, '', { sinks: pager(pagerduty.url) });
      const ids = await enqueueMany(opened, 100);
      await vi.waitFor(() => expect(opened.delivered).toHaveLength(1));
      // What is held is on disk like everything else.
      expect(await filesIn(directory)).toBe(99);
      expect(opened.outbox.depth()).toMatchObject({ waiting: 99, bySink: [{ sink: 'ops', waiting: 99 }] });
      expect(opened.clock.advance(MINUTE_MS - 1)).toBe(false);
      expect(opened.clock.advance(MINUTE_MS)).toBe(true);
      await vi.waitFor(() => expect(opened.delivered).toHaveLength(101));
      expect(pagerduty.pages).toEqual(['i000']);
      expect(pagerduty.requests).toHaveLength(2);
      const [first, digest, ...rest] = opened.delivered;
      expect([first?.id, first?.digest]).toEqual(['i000', null]);
      expect([digest?.id, digest?.type, digest?.digest]).toEqual(['i001_digest', 'digest', null]);
      expect(rest.map((each) => each.id)).toEqual(ids.slice(1));
      expect(new Set(rest.map((each) => each.digest))).toEqual(new Set(['i001_digest']));
      await vi.waitFor(async () => expect(await filesIn(directory)).toBe(0));
      expect(opened.outbox.depth()).toMatchObject({ waiting: 0, oldestMs: null });
      await opened.outbox.close();
    });
  });

  test('are a storm again after a restart, when the daemon was killed before there was a digest', async () => {
    await withDirectory(async (directory) => {
      const receiver = await startReceiver((response) => response.writeHead(200).end());
      const first = await open(directory, '', { sinks: chatty(receiver.url) });
      const ids = await enqueueMany(first, 10);
      await vi.waitFor(() => expect(first.delivered).toHaveLength(2));
      await first.outbox.close();
      const second = await open(directory, '', { sinks: chatty(receiver.url) });
      await vi.waitFor(() => expect(second.delivered).toHaveLength(2));
      expect(second.outbox.depth().waiting).toBe(6);
      second.clock.advance(MINUTE_MS);
      await vi.waitFor(() => expect(second.delivered).toHaveLength(9));
      expect(receiver.received.map((each) => each.id).toSorted()).toEqual([...ids.slice(0, 4), 'i004_digest']);
      await second.outbox.close();
      await receiver.close();
    });
  });

  test('a digest that waits is taken up with what it stands for', async () => {
    await withDirectory(async (directory) => {
      const silent = await startReceiver((response, count) => void (count <= 2 && response.writeHead(200).end()));
      const first = await open(directory, '', { sinks: chatty(silent.url) });
      const ids = await enqueueMany(first, 10);
      await vi.waitFor(() => expect(first.delivered).toHaveLength(2));
      first.clock.advance(MINUTE_MS);
      await vi.waitFor(() => expect(silent.received).toHaveLength(3));
      expect(await filesIn(directory)).toBe(9);
      await first.outbox.close();
      await silent.close();
      const receiver = await startReceiver((response) => response.writeHead(200).end(), { port: silent.port });
      const second = await open(directory, '', { sinks: chatty(receiver.url) });
      await vi.waitFor(() => expect(second.delivered).toHaveLength(9));
      expect(receiver.received.map((each) => each.id)).toEqual(['i002_digest']);
      expect(second.delivered.slice(1).map((each) => each.id)).toEqual(ids.slice(2));
      await second.outbox.close();
      await receiver.close();
    });
  });

  test('die together with their digest, each kept for a person, and come back as one', async () => {
    await withDirectory(async (directory) => {
      let answer = 500;
      const receiver = await startReceiver((response, count) => response.writeHead(count <= 2 ? 200 : answer).end());
      const opened = await open(directory, '', { sinks: chatty(receiver.url) });
      await enqueueMany(opened, 6);
      await vi.waitFor(() => expect(opened.delivered).toHaveLength(2));
      opened.clock.advance(MINUTE_MS);
      await vi.waitFor(() => expect(opened.failed).toHaveLength(1));
      opened.clock.nowMs += HORIZON_MS;
      opened.clock.advance(HORIZON_MS);
      await vi.waitFor(() => expect(opened.failed.filter((each) => each.final)).toHaveLength(5));
      expect(opened.outbox.depth()).toMatchObject({ waiting: 0, dead: 5 });
      answer = 200;
      expect(await opened.outbox.retry({ kind: 'dead' })).toBe(5);
      await vi.waitFor(() => expect(opened.outbox.depth()).toMatchObject({ waiting: 0, dead: 0 }));
      expect(receiver.received.length).toBeLessThanOrEqual(7);
      await opened.outbox.close();
      await receiver.close();
    });
  });
});

test('the second of two goes by itself, later', async () => {
  await withDirectory(async (directory) => {
    await using pagerduty = await startPagerDuty();
    const { outbox, clock, delivered } = await open(directory, '', { sinks: pager(pagerduty.url) });
    await outbox.enqueue(alertOf('i1'));
    await outbox.enqueue(alertOf('i2'));
    await outbox.enqueue(alertOf('i1_resolved', { type: 'incident.resolved', key: 'i1' }));
    await vi.waitFor(() => expect(delivered.map((each) => each.id)).toEqual(['i1', 'i1_resolved']));
    clock.advance(MINUTE_MS);
    await vi.waitFor(() => expect(delivered.at(-1)).toMatchObject({ id: 'i2', type: 'incident.opened', digest: null }));
    await outbox.close();
  });
});
