import type { AllowedDestination } from '../api/service.ts';
import { messageOf } from '../core/errors.ts';
import type { Fence, FenceDestination } from '../core/ports/fence.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger } from '../core/ports/record.ts';
import type { GatePassed } from '../gate/client.ts';
import { TRAFFIC_NONE, trafficSince, type PassedName, type TrafficState } from '../report/traffic.ts';
import type { KnownSecrets } from './known-secrets.ts';
import { withDeadline } from './deadline.ts';

const EVERY_MS = 60_000;
/** The end of a run waits no longer than this for its last counters. */
const LOOK_MS_MAX = 1_000;
/** Names of one run told apart within a minute; a wildcard has many. */
const NAMES_MAX = 200;
const OTHER_NAMES = 'other names';

export type TrafficDeskOptions = {
  readonly fence: Pick<Fence, 'destinations'>;
  readonly ledger: Pick<Ledger, 'append'>;
  readonly secrets: KnownSecrets;
  readonly log: Log;
  /** The run that leaves by this address. */
  readonly runAt: (address: string) => string | null;
  readonly nowIso: () => string;
};

type Kept = { readonly profile: string; state: TrafficState; names: Map<string, PassedName>; fromAt: string };

/** What runs were let through, into the record: once a minute what has changed, and once more when a run is over. */
export class TrafficDesk {
  private readonly options: TrafficDeskOptions;
  private readonly runs = new Map<string, Kept>();

  constructor(options: TrafficDeskOptions) {
    this.options = options;
  }

  async run(signal: AbortSignal): Promise<void> {
    const timer = setInterval(() => void this.lookAtAll(), EVERY_MS);
    signal.addEventListener('abort', () => clearInterval(timer), { once: true });
  }

  begin(runId: string, profile: string): void {
    this.runs.set(runId, { profile, state: TRAFFIC_NONE, names: new Map(), fromAt: this.options.nowIso() });
  }

  /** From the name check, by the address of the run. */
  passed({ address, ...passed }: GatePassed): void {
    const runId = this.options.runAt(address);
    const names = this.runs.get(runId ?? '')?.names;
    if (runId === null || names === undefined) return;
    const shown = this.options.secrets.hide(runId, passed.name);
    const wanted = `${shown} ${passed.port}`;
    const key = names.has(wanted) || names.size < NAMES_MAX ? wanted : `${OTHER_NAMES} ${passed.port}`;
    const known = names.get(key);
    names.set(key, {
      name: key === wanted ? shown : OTHER_NAMES,
      port: passed.port,
      connections: passed.connections + (known?.connections ?? 0),
      egressBytes: passed.egressBytes + (known?.egressBytes ?? 0),
      ingressBytes: passed.ingressBytes + (known?.ingressBytes ?? 0),
    });
  }

  /** One after the other: each look reads a set of the kernel that all runs share. */
  async lookAtAll(): Promise<void> {
    for (const runId of this.runs.keys()) await this.look(runId);
  }

  /** What the fence counted of this run since the last look. Never rejects. */
  async look(runId: string): Promise<readonly AllowedDestination[]> {
    const kept = this.runs.get(runId);
    if (kept === undefined) return [];
    const destinations = await this.destinationsOf(runId);
    if (destinations === null) return kept.state.last;
    const { ledger, nowIso } = this.options;
    const { profile, fromAt } = kept;
    const toAt = nowIso();
    const { state, flows } = trafficSince(kept.state, { destinations, names: [...kept.names.values()], at: toAt });
    Object.assign(kept, { state, names: new Map(), fromAt: toAt });
    for (const flow of flows) {
      ledger.append({ kind: 'egress.allowed', runId, profile, ...flow, fromAt, toAt }).flushed.catch(() => undefined);
    }
    return state.last;
  }

  forget(runId: string): void {
    this.runs.delete(runId);
  }

  private async destinationsOf(runId: string): Promise<readonly FenceDestination[] | null> {
    try {
      return await withDeadline(this.options.fence.destinations(runId), LOOK_MS_MAX);
    } catch (error) {
      this.options.log.warn({ runId, message: messageOf(error) }, 'traffic could not be read');
      return null;
    }
  }
}
