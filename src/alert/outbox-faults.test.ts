import type { ServerResponse } from 'node:http';
import { expect, test, vi } from 'vitest';
import type { Sink } from '../core/ports/alert.ts';
import { alertOf, KEY, open, startReceiver, withDirectory } from './testing.ts';

const AGENTS = ['a', 'b', 'c', 'd'];
const ALERTS_PER_AGENT = 8;
const HOUR_MS = 3_600_000;

/** Numbers in [0, 1) that are the same for the same seed. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

/** A receiver on a bad day: it takes, refuses, asks for patience, redirects or hangs up. */
function answerOnABadDay(response: ServerResponse, random: () => number): boolean {
  const luck = random();
  if (luck < 0.4) {
    response.writeHead(200).end();
    return true;
  }
  if (luck < 0.55) response.writeHead(500).end('x'.repeat(10_000));
  else if (luck < 0.65) response.writeHead(429, { 'retry-after': String(Math.floor(random() * 100)) }).end();
  else if (luck < 0.75) response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end();
  else if (luck < 0.8) response.writeHead(410).end();
  else response.socket?.destroy();
  return false;
}

for (const seed of [1, 2, 3]) {
  test(`everything arrives, in the order of each agent, on a bad day with restarts (seed ${seed})`, async () => {
    await withDirectory(async (directory) => {
      const random = randomOf(seed);
      const taken: string[] = [];
      const receiver = await startReceiver((response, count) => {
        const { id } = receiver.received[count - 1] ?? { id: '' };
        if (answerOnABadDay(response, random)) taken.push(id);
      });
      const base = { type: 'webhook', url: receiver.url, keys: [KEY], allowPrivate: true } as const;
      const sinks: Readonly<Record<string, Sink>> = { ops: { ...base, stormAfter: 1_000 } };
      const ids = AGENTS.flatMap((agent) => Array.from({ length: ALERTS_PER_AGENT }, (_, index) => `${agent}${index}`));
      let opened = await open(directory, '', { sinks, random });
      await Promise.all(ids.map(async (id) => await opened.outbox.enqueue(alertOf(id, { subject: id.charAt(0) }))));
      await vi.waitFor(
        async () => {
          if (random() < 0.1 || opened.outbox.depth().disabled.length > 0) {
            await opened.outbox.close();
            opened = await open(directory, '', { sinks, random });
          }
          opened.clock.advance(HOUR_MS);
          expect(opened.outbox.depth().waiting).toBe(0);
        },
        { timeout: 15_000, interval: 5 },
      );
      expect(new Set(taken)).toEqual(new Set(ids));
      for (const agent of AGENTS) {
        const firstTimes = [...new Set(taken.filter((id) => id.startsWith(agent)))];
        expect(firstTimes).toEqual(firstTimes.toSorted());
      }
      await opened.outbox.close();
      await receiver.close();
    });
  });
}
