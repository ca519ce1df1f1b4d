import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { messageOf } from '../core/errors.ts';
import { TURNING_MS } from '../core/turning.ts';
import { endWithParent, originalDestination } from '../kernel/libc.ts';
import { OOM_SCORES, protectFromOom } from '../kernel/oom.ts';
import { createChecker } from './checker.ts';
import { createInspector } from './inspect/inspector.ts';
import type { CheckerReport, CheckerRequest, CheckVerdict } from './messages.ts';
import { ReportQueue } from './reports.ts';

/**
 * The name checker as a process: a child of the gate, told what to do over the IPC channel. It reads what agents send,
 * so it gives up its privileges as soon as its port is open. It ends with the gate: without it connections that must
 * show a name reach nobody.
 */
const FLUSH_MS = 1_000;
const CONNECTIONS_MAX = 4_096;
/** A connection has two sockets; the rest of the process needs some descriptors as well. */
const DESCRIPTORS_PER_CONNECTION = 2;
const DESCRIPTORS_OTHER = 128;
const NOBODY = 65_534;

const reports = new ReportQueue((report, sent) => {
  if (process.send === undefined || !process.connected) return;
  process.send(report, undefined, undefined, sent);
});
const waiting = new Map<number, (verdict: CheckVerdict) => void>();
let questions = 0;

const inspector = createInspector();
const checker = createChecker({
  ask: async (question, signal) =>
    await new Promise((resolve) => {
      questions += 1;
      const id = questions;
      waiting.set(id, resolve);
      signal.addEventListener('abort', () => waiting.delete(id), { once: true });
      reports.push({ kind: 'ask', id, question });
    }),
  report: (report) => reports.push(report),
  inspector,
  originalDestination: (socket) => originalDestination(descriptorOf(socket)),
  connectionsMax: Math.min(
    CONNECTIONS_MAX,
    Math.floor((descriptorsMax() - DESCRIPTORS_OTHER) / DESCRIPTORS_PER_CONNECTION),
  ),
});

protectFromOom(OOM_SCORES.checker);
// With the exit code that is set: 1 after a failure.
process.on('disconnect', () => process.exit());
// A terminal sends these to the whole group; the daemon decides when the checker may go.
process.on('SIGINT', () => undefined);
process.on('SIGHUP', () => undefined);
process.on('message', (message) => {
  // The channel carries what the gate of the same program sent, nothing else.
  handle(message as CheckerRequest).catch((error: unknown) => {
    tell({ kind: 'failed', message: messageOf(error) });
    process.exitCode = 1;
    process.disconnect();
  });
});

async function handle(request: CheckerRequest): Promise<void> {
  switch (request.kind) {
    case 'start':
      await checker.listen(request.config.port, '0.0.0.0');
      dropPrivileges();
      endWithParent();
      setInterval(() => checker.flush(), FLUSH_MS).unref();
      setInterval(() => tell({ kind: 'turning' }), TURNING_MS).unref();
      return tell({ kind: 'listening' });
    case 'verdict':
      waiting.get(request.id)?.(request.verdict);
      waiting.delete(request.id);
      return;
    case 'close':
      return checker.close(request.source, request.names);
    case 'authority': {
      // A run without an authority is not started, and the others go on.
      const made = await inspector.authority(request.source, request.runId).catch((error: unknown) => error);
      if (typeof made !== 'string') return tell({ kind: 'failed', message: messageOf(made) });
      return tell({ kind: 'authority', id: request.id, certificatePem: made });
    }
    case 'forget':
      checker.close(request.source, null);
      return inspector.forget(request.source);
  }
}

/** Nothing after the bind needs root: no file, no device, no port. */
function dropPrivileges(): void {
  if (process.getuid?.() !== 0) return;
  process.setgroups?.([]);
  process.setgid?.(NOBODY);
  process.setuid?.(NOBODY);
}

/** Node.js has no public way to the descriptor of a connected socket, and its first destination hangs on it. */
function descriptorOf(socket: Socket): number {
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd;
  if (fd === undefined || fd < 0) throw new Error('the socket has no descriptor');
  return fd;
}

/** The soft limit, which Node.js has raised to the hard one at its start. */
function descriptorsMax(): number {
  const limit = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return limit === undefined ? CONNECTIONS_MAX : Number(limit);
}

function tell(report: CheckerReport): void {
  process.send?.(report);
}
