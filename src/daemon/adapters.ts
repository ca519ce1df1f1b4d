import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openOutbox } from '../alert/outbox.ts';
import type { HeldRequest } from '../core/approval.ts';
import { FENCE_SETS } from '../core/fence-names.ts';
import type { AlertOutbox, Sink } from '../core/ports/alert.ts';
import type { Fence } from '../core/ports/fence.ts';
import type { Log } from '../core/ports/log.ts';
import type { WardenReport } from '../core/ports/warden.ts';
import type { DockerEngine } from '../engine/docker.ts';
import { createFence } from '../fence/fence.ts';
import { createGateClient, type GateClient, type GatePassed } from '../gate/client.ts';
import type { Upstream } from '../gate/upstream.ts';
import type { OpenedLedger } from '../ledger/ledger.ts';
import { NEVER_RANGES } from '../policy/egress.ts';
import { withCheckpoint } from '../report/notice.ts';
import { startWarden, type WardenClient } from '../warden/client.ts';
import type { DaemonConfig } from './config.ts';
import type { Notifier } from './notify.ts';
import { upstreamsOf } from './upstreams.ts';

/** Adapters with what they need to know of the configuration; `compose.ts` says in which order and joins them. */
export function openAlerts(parts: {
  readonly statePath: string;
  readonly sinks: Readonly<Record<string, Sink>>;
  readonly ledger: OpenedLedger;
  readonly log: Log;
}): Promise<AlertOutbox> {
  const { ledger } = parts;
  return openOutbox({
    directory: join(parts.statePath, 'spool'),
    sinks: parts.sinks,
    log: parts.log,
    stamp: (alert) => withCheckpoint(alert, ledger.latestCheckpoint()),
    onDelivered: (delivered) =>
      void ledger.append({ kind: 'alert.delivered', ...delivered }).flushed.catch(() => undefined),
    onFailed: (failed) => void ledger.append({ kind: 'alert.failed', ...failed }).flushed.catch(() => undefined),
  });
}

/** Who asks is known before who answers: what comes until then is about no run of this daemon. */
export type Hooks = {
  onReport(report: WardenReport): void;
  onLost(detail: string): void;
  onAsked(address: string, request: HeldRequest & { readonly kind: 'name' }): void;
  onGateRestarted(): void;
  onPassed(passed: GatePassed): void;
};

export function openWarden(
  options: { readonly statePath: string },
  config: DaemonConfig,
  { hooks, notifier }: { readonly hooks: Hooks; readonly notifier: Notifier },
): Promise<WardenClient> {
  return startWarden({
    directory: join(options.statePath, 'warden'),
    nflogGroup: config.fence.nflogGroup,
    silenceSet: FENCE_SETS.bridge,
    trafficSets: { egress: FENCE_SETS.egress, ingress: FENCE_SETS.ingress, connections: FENCE_SETS.connections },
    egressHeldByKernel: true,
    turningEveryMs: notifier.watchdogEveryMs,
    onTurning: () => notifier.feedWatchdog(),
    onReport: (report) => hooks.onReport(report),
    onLost: (detail) => hooks.onLost(detail),
  });
}

export async function upstreamsFor(config: DaemonConfig): Promise<readonly Upstream[]> {
  const resolvConf = await readFile('/etc/resolv.conf', 'utf8').catch(() => '');
  return upstreamsOf(config.dns?.upstreams ?? null, resolvConf);
}

export async function openFence(parts: {
  readonly config: DaemonConfig;
  readonly upstreams: readonly Upstream[];
  readonly statePath: string;
  readonly engine: DockerEngine;
  readonly warden: WardenClient;
  readonly log: Log;
  readonly hooks: Hooks;
}): Promise<{ readonly fence: Fence; readonly gate: GateClient }> {
  const { config, upstreams, engine, warden, log, hooks } = parts;
  const { pool, gatePort, checkPort, nflogGroup } = config.fence;
  const gate = createGateClient({
    config: {
      port: gatePort,
      checkPort,
      pool,
      upstreams,
      neverRanges: NEVER_RANGES,
      holdMs: config.approvals.holdSeconds * 1000,
    },
    wardenPipe: warden.feedSocket,
    onAsked: (address, request) => hooks.onAsked(address, request),
    onRestarted: () => hooks.onGateRestarted(),
    onPassed: (passed) => hooks.onPassed(passed),
    log,
  });
  const fence = createFence({
    pool,
    gatePort,
    checkPort,
    nflogGroup,
    gate,
    stateDirectory: join(parts.statePath, 'fence'),
    listSubnets: () => engine.listSubnets(),
    neverRanges: NEVER_RANGES,
    log,
  });
  try {
    await fence.install();
    await gate.start();
  } catch (error) {
    await gate.close();
    throw error;
  }
  return { fence, gate };
}
