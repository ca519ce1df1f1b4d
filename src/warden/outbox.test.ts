import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { USAGE_NONE } from '../core/outcome.ts';
import type { WardenReport } from '../core/ports/warden.ts';
import { createLineReader } from './lines.ts';
import { createOutbox, QUEUE_BYTES_MAX } from './outbox.ts';

let directory: string;
let sender: Socket;
let receiver: Socket;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'rf-outbox-'));
  const server = createServer({ pauseOnConnect: true });
  server.listen(join(directory, 'socket'));
  await once(server, 'listening');
  sender = connect(join(directory, 'socket'));
  [receiver] = (await once(server, 'connection')) as [Socket];
  sender.on('error', () => undefined);
  server.close();
});
afterEach(() => {
  sender.destroy();
  receiver.destroy();
  rmSync(directory, { recursive: true, force: true });
});

/** The number that Node.js hides; the warden gets its descriptors as numbers. */
function fdOf(socket: Socket): number {
  return (socket as unknown as { readonly _handle: { readonly fd: number } })._handle.fd;
}

function denied(runId: string, suppressed = 0): WardenReport {
  const explanation = 'x'.repeat(1_000);
  const text = { at: '', destination: '', protocol: '', rule: '', explanation };
  return { kind: 'denied', runId, suppressed, denial: { kind: 'name', port: null, ...text } };
}

/** Everything that was sent, by the warden's own reader. */
function receiveAll(outbox: ReturnType<typeof createOutbox>): WardenReport[] {
  const reports: WardenReport[] = [];
  const reader = createLineReader({ fd: fdOf(receiver), lineBytesMax: 64 * 1024 });
  for (let turn = 0; turn < 10_000; turn += 1) {
    const state = outbox.flush();
    reader.read((line) => reports.push(JSON.parse(line) as WardenReport));
    if (state === 'empty') break;
  }
  reader.read((line) => reports.push(JSON.parse(line) as WardenReport));
  return reports;
}

it('sends everything in order when there is room', () => {
  const outbox = createOutbox(fdOf(sender));
  const reports: WardenReport[] = [
    { kind: 'watching', runId: 'r1' },
    { kind: 'sampled', runId: 'r1', usage: USAGE_NONE },
    { kind: 'undead', runId: 'r1', pids: [1] },
  ];
  for (const report of reports) outbox.push(report);
  expect([receiveAll(outbox), outbox.waiting()]).toEqual([reports, false]);
});

it('never waits for a reader that does not read, drops only what may be dropped, and loses no count', () => {
  const outbox = createOutbox(fdOf(sender));
  const pushed = 3 * Math.ceil(QUEUE_BYTES_MAX / 1_000);
  outbox.push({ kind: 'undead', runId: 'r1', pids: [1] });
  for (let count = 0; count < pushed; count += 1) {
    outbox.push(denied('r1', 1));
    outbox.flush();
  }
  outbox.push({ kind: 'undead', runId: 'r1', pids: [2] });
  const first = receiveAll(outbox);
  // What was dropped last is told with the next one that finds room.
  outbox.push(denied('r1'));
  const received = [...first, ...receiveAll(outbox)];
  const told = received.map((report) => (report.kind === 'denied' ? 1 + report.suppressed : 0));
  expect(received.length).toBeLessThan(pushed);
  expect(told.reduce((sum, count) => sum + count, 0)).toBe(2 * pushed + 1);
  expect(received.filter(({ kind }) => kind === 'undead')).toHaveLength(2);
});

it('gives back what was not sent when the daemon is gone', async () => {
  const outbox = createOutbox(fdOf(sender));
  const closed = once(receiver, 'close');
  receiver.destroy();
  await closed;
  outbox.push({ kind: 'undead', runId: 'r1', pids: [7] });
  expect(outbox.flush()).toBe('closed');
  expect(outbox.drain()).toEqual([{ kind: 'undead', runId: 'r1', pids: [7] }]);
});
