import { Socket } from 'node:net';
import type { CheckerReport } from '../checker/messages.ts';
import { assertNever } from '../core/assert.ts';
import { messageOf } from '../core/errors.ts';
import type { FenceDenial } from '../core/ports/fence.ts';
import type { NameResolved } from '../core/ports/warden.ts';
import { printable } from '../core/text.ts';
import { TURNING_MS } from '../core/turning.ts';
import { openIpset } from '../kernel/ipset.ts';
import { endWithParent } from '../kernel/libc.ts';
import { OOM_SCORES, protectFromOom } from '../kernel/oom.ts';
import { linkChecker } from './checker-link.ts';
import type { CheckerLink } from './checker-link.ts';
import { DenialFeed } from './denials.ts';
import type { Refused } from './denials.ts';
import { createGate } from './gate.ts';
import type { Gate } from './gate.ts';
import { createHostAddresses } from './host-addresses.ts';
import { listen } from './listen.ts';
import type { GateConfig, GateGrant, GateReport, GateRequest } from './messages.ts';
import { createResolver } from './upstream.ts';

/**
 * The gate as a process: told what to do over the IPC channel, reporting refused names straight to the warden on
 * descriptor 4, with the checker as its child. It ends with the daemon and with the checker: without it names stop
 * resolving and show nothing, and what was learned runs out in minutes.
 */
const WARDEN_DESCRIPTOR = 4;
const WARDEN_BUFFER_BYTES_MAX = 256 * 1024;
const FLUSH_MS = 1_000;
const SWEEP_MS = 200;
const EXPLANATION_CHARS_MAX = 300;
const ADDRESS_IPV4 = /^\d{1,3}(\.\d{1,3}){3}$/;

type Parts = { readonly gate: Gate; readonly denials: DenialFeed; readonly checker: CheckerLink };

let parts: Parts | null = null;
let denialsLost = 0;

protectFromOom(OOM_SCORES.gate);
endWithParent();
process.on('disconnect', () => process.exit());
// A terminal sends these to the whole group; the daemon decides when the gate may go.
process.on('SIGINT', () => undefined);
process.on('SIGHUP', () => undefined);
process.on('message', (message) => {
  // The channel carries what the daemon of the same program sent, nothing else.
  const request = message as GateRequest;
  handle(request).catch((error: unknown) => {
    // What could not be done for one run is no reason to end the gate of all.
    if ('id' in request) tell({ kind: 'refused', id: request.id, message: messageOf(error) });
    else end(messageOf(error));
  });
});

/** Says why, and goes: the daemon starts the next gate, and until then nothing opens. */
function end(message: string): void {
  tell({ kind: 'failed', message });
  process.exitCode = 1;
  if (process.connected) process.disconnect();
}

async function handle(request: GateRequest): Promise<void> {
  if (request.kind === 'start') {
    // From here on grants are taken, also those that arrive while the sockets are being opened.
    parts = create(request.config, request.grants);
    const { gate, denials, checker } = parts;
    await checker.start({ port: request.config.checkPort });
    await listen(gate, request.config.port);
    setInterval(() => denials.flush(), FLUSH_MS).unref();
    setInterval(() => gate.sweep(), SWEEP_MS).unref();
    setInterval(() => tell({ kind: 'turning' }), TURNING_MS).unref();
    tell({ kind: 'listening' });
    return;
  }
  if (parts === null) throw new Error(`the gate got ${request.kind} before its configuration`);
  const { gate, checker } = parts;
  switch (request.kind) {
    case 'grant':
      gate.grant(request.grant);
      return tell({ kind: 'done', id: request.id });
    case 'revoke':
      gate.revoke(request.address);
      checker.forget(request.address);
      return tell({ kind: 'done', id: request.id });
    case 'change':
      gate.change(request.grant);
      return tell({ kind: 'done', id: request.id });
    case 'decide':
      gate.decide(request.address, request.request, request.lifetime);
      return tell({ kind: 'done', id: request.id });
    case 'authority': {
      const certificatePem = await checker.authority(request.address, request.runId);
      return tell({ kind: 'authority', id: request.id, certificatePem });
    }
    case 'stats':
      return tell({ kind: 'stats', id: request.id, stats: { ...gate.stats(), denialsLost } });
    default:
      return assertNever(request);
  }
}

function create(config: GateConfig, grants: readonly GateGrant[]): Parts {
  const send = config.wardenPipe ? wardenSender() : (): boolean => true;
  const denials = new DenialFeed({ send, now: monotonicMs, utc: () => new Date().toISOString() });
  const checker = linkChecker({
    check: (question) => gate.check(question),
    onDenied: (denied) => {
      if (gate.knows(denied.source)) denials.report(denied.source, refusedByChecker(denied));
    },
    onPassed: ({ source, ...figures }) => tell({ ...figures, address: source }),
    onLost: end,
  });
  const gate = createGate({
    config,
    ipset: openIpset(),
    resolve: createResolver(config.upstreams),
    isHost: createHostAddresses({ now: monotonicMs }),
    denials,
    now: monotonicMs,
    onAsked: (address, request) => tell({ kind: 'asked', address, request }),
    onResolved: send,
    onClose: (address, names) => checker.close(address, names),
  });
  for (const grant of grants) gate.grant(grant);
  return { gate, denials, checker };
}

/** A clock that nobody sets: a step of the wall clock must not lengthen an approval. */
function monotonicMs(): number {
  return performance.now();
}

/** The checker reads what agents send: its words are cut and made fit to show before they go on. */
function refusedByChecker(denied: Extract<CheckerReport, { kind: 'denied' }>): Refused {
  const { destination, port, rule, explanation } = denied;
  return {
    kind: ADDRESS_IPV4.test(destination) ? 'packet' : 'name',
    destination: printable(destination, EXPLANATION_CHARS_MAX),
    port,
    protocol: 'tcp',
    rule,
    explanation: printable(explanation, EXPLANATION_CHARS_MAX),
  };
}

/** Never waits: a warden that does not read makes the feed count instead of the gate hang. */
function wardenSender(): (line: FenceDenial | NameResolved) => boolean {
  const pipe = new Socket({ fd: WARDEN_DESCRIPTOR, readable: false, writable: true });
  let broken = false;
  pipe.on('error', () => {
    broken = true;
  });
  return (line) => {
    if (broken || pipe.writableLength > WARDEN_BUFFER_BYTES_MAX) {
      if ('denial' in line) denialsLost += 1;
      return false;
    }
    pipe.write(`${JSON.stringify(line)}\n`);
    return true;
  };
}

function tell(report: GateReport): void {
  process.send?.(report);
}
