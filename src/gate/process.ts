import { Socket } from 'node:net';
import { messageOf } from '../core/errors.ts';
import type { FenceDenial } from '../core/ports/fence.ts';
import { openIpset } from '../kernel/ipset.ts';
import { DenialFeed } from './denials.ts';
import { createGate } from './gate.ts';
import type { Gate } from './gate.ts';
import { listen } from './listen.ts';
import type { GateConfig, GateGrant, GateReport, GateRequest } from './messages.ts';
import { resolveName } from './upstream.ts';

/**
 * The DNS gate as a process: told what to do over the IPC channel, reporting refused names straight to the warden on
 * descriptor 4. It ends with the daemon: without it names stop resolving, and what was learned runs out in minutes.
 */
const WARDEN_DESCRIPTOR = 4;
const WARDEN_BUFFER_BYTES_MAX = 256 * 1024;
const FLUSH_MS = 1_000;

let gate: Gate | null = null;
let denialsLost = 0;

process.on('disconnect', () => process.exit(0));
// A terminal sends these to the whole group; the daemon decides when the gate may go.
process.on('SIGINT', () => undefined);
process.on('SIGHUP', () => undefined);
process.on('message', (message) => {
  // The channel carries what the daemon of the same program sent, nothing else.
  handle(message as GateRequest).catch((error: unknown) => {
    tell({ kind: 'failed', message: messageOf(error) });
    process.exitCode = 1;
    process.disconnect();
  });
});

async function handle(request: GateRequest): Promise<void> {
  if (request.kind === 'start') {
    const made = create(request.config, request.grants);
    // From here on grants are taken, also those that arrive while the sockets are being opened.
    gate = made.gate;
    await listen(made.gate, request.config.port);
    setInterval(() => made.denials.flush(), FLUSH_MS).unref();
    tell({ kind: 'listening' });
    return;
  }
  if (gate === null) throw new Error(`the gate got ${request.kind} before its configuration`);
  switch (request.kind) {
    case 'grant':
      gate.grant(request.grant);
      return tell({ kind: 'done', id: request.id });
    case 'revoke':
      gate.revoke(request.address);
      return tell({ kind: 'done', id: request.id });
    case 'stats':
      return tell({ kind: 'stats', id: request.id, stats: { ...gate.stats(), denialsLost } });
  }
}

function create(
  config: GateConfig,
  grants: readonly GateGrant[],
): { readonly gate: Gate; readonly denials: DenialFeed } {
  const send = config.wardenPipe ? wardenSender() : () => true;
  const denials = new DenialFeed({ send, now: Date.now });
  const made = createGate({
    config,
    ipset: openIpset(),
    resolve: (name) => resolveName(name, config.upstreams),
    denials,
    now: Date.now,
  });
  for (const grant of grants) made.grant(grant);
  return { gate: made, denials };
}

/** Never waits: a warden that does not read makes the feed count instead of the gate hang. */
function wardenSender(): (denial: FenceDenial) => boolean {
  const pipe = new Socket({ fd: WARDEN_DESCRIPTOR, readable: false, writable: true });
  let broken = false;
  pipe.on('error', () => {
    broken = true;
  });
  return (denial) => {
    if (broken || pipe.writableLength > WARDEN_BUFFER_BYTES_MAX) {
      denialsLost += 1;
      return false;
    }
    pipe.write(`${JSON.stringify(denial)}\n`);
    return true;
  };
}

function tell(report: GateReport): void {
  process.send?.(report);
}
