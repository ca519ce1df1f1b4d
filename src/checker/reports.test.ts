import { expect, test } from 'vitest';
import type { CheckerReport } from './messages.ts';
import { ReportQueue } from './reports.ts';

type Denied = Extract<CheckerReport, { kind: 'denied' }>;

const denied = (destination: string): Denied => ({
  kind: 'denied',
  source: '10.213.0.2',
  destination,
  port: 443,
  rule: 'check.no-name',
  explanation: 'the ClientHello shows no server name',
});

function makeQueue(): { queue: ReportQueue; sent: CheckerReport[]; done: (() => void)[]; clock: { nowMs: number } } {
  const sent: CheckerReport[] = [];
  const done: (() => void)[] = [];
  const clock = { nowMs: 0 };
  const send = (report: CheckerReport, over: () => void): void => {
    sent.push(report);
    done.push(over);
  };
  return { queue: new ReportQueue(send, () => clock.nowMs), sent, done, clock };
}

test('tells repeats of one denial once in a second, and another destination at once', () => {
  const { queue, sent, clock } = makeQueue();
  for (const destination of ['203.0.113.1', '203.0.113.1', '203.0.113.2']) queue.push(denied(destination));
  expect(sent).toEqual([denied('203.0.113.1'), denied('203.0.113.2')]);
  clock.nowMs = 1_000;
  queue.push(denied('203.0.113.1'));
  expect(sent).toHaveLength(3);
});

test('counts denials that a full channel does not take, and lets questions through', () => {
  const { queue, sent, done } = makeQueue();
  for (let count = 0; count < 3_000; count += 1) queue.push(denied(`host-${count}`));
  expect(sent).toHaveLength(2_048);
  const question = { source: '10.213.0.2', name: 'good.test', port: 443, protocol: 'tls' } as const;
  queue.push({ kind: 'ask', id: 1, question });
  expect(sent).toHaveLength(2_049);
  for (const over of done) over();
  queue.push(denied('last'));
  expect(sent.at(-1)).toEqual({
    ...denied('last'),
    explanation: 'the ClientHello shows no server name (and 952 refusals before it were not told one by one)',
  });
  queue.push(denied('very last'));
  expect(sent.at(-1)).toEqual(denied('very last'));
});
