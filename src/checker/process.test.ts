import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { until } from '../../test/support/until.ts';
import { connectRaw, LOOPBACK } from './testing.ts';
import type { CheckerReport } from './messages.ts';

const WAIT = { deadlineMs: 15_000 };
const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, LOOPBACK);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

function startProcess(): { readonly child: ChildProcess; readonly reports: CheckerReport[] } {
  const child = fork(join(import.meta.dirname, 'process.ts'), { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  children.push(child);
  const reports: CheckerReport[] = [];
  child.on('message', (message) => reports.push(message as CheckerReport));
  return { child, reports };
}

test('listens, closes what no packet rule led to it, and ends with its gate', async () => {
  const { child, reports } = startProcess();
  const port = await freePort();
  child.send({ kind: 'start', config: { port } });
  await until('it listens', () => reports.length > 0, WAIT);
  expect(reports).toEqual([{ kind: 'listening' }]);
  // Root is what the packet rules need, not what reads the bytes of agents.
  const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
  if (process.getuid?.() === 0) expect(status).toMatch(/^Uid:\t65534\t65534\t65534\t65534$/m);
  expect(status).toMatch(/^CapEff:\t0000000000000000$/m);
  const client = await connectRaw(port);
  await until('the connection is closed', () => client.ended() !== 'open', WAIT);
  await until('it is reported', () => reports.length > 1, WAIT);
  expect(reports[1]).toMatchObject({ kind: 'denied', source: LOOPBACK, rule: 'check.protocol', port });
  const exited = once(child, 'exit');
  child.disconnect();
  expect(await exited).toEqual([0, null]);
});

test('says why it cannot listen, and ends', async () => {
  const server = createServer();
  server.listen(0, '0.0.0.0');
  await once(server, 'listening');
  const { child, reports } = startProcess();
  const exited = once(child, 'exit');
  child.send({ kind: 'start', config: { port: (server.address() as AddressInfo).port } });
  expect(await exited).toEqual([1, null]);
  expect(reports).toEqual([{ kind: 'failed', message: expect.stringContaining('EADDRINUSE') as string }]);
  server.close();
});
