import { setTimeout as delay } from 'node:timers/promises';
import { assertNever } from '../core/assert.ts';
import type { ContainerFacts, Engine, EngineEvent } from '../core/ports/engine.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger } from '../core/ports/record.ts';
import { networkName } from '../run/plan.ts';
import { containerIdOf } from '../run/state.ts';
import type { CleanAgain } from './clean-again.ts';
import type { RunEntry, RunTable } from './run-table.ts';

const DETACHED_MS = 500;
const DETACHED = 'the network of the run was detached';

export type EngineWatchParts = {
  readonly engine: Engine;
  readonly ledger: Ledger;
  readonly table: RunTable;
  readonly cleanAgain: Pick<CleanAgain, 'engineBack'>;
  readonly log: Log;
};

/** What the engine says of containers, for the run that each is about; what somebody else did to one ends its run. */
export class EngineWatch {
  private readonly parts: EngineWatchParts;

  constructor(parts: EngineWatchParts) {
    this.parts = parts;
  }

  onEvent(event: EngineEvent): void {
    if (event.kind === 'reconnected') {
      // Its own failures are logged run by run; nobody waits for it.
      void this.relist();
      this.parts.cleanAgain.engineBack();
      return;
    }
    const entry = this.parts.table.alive().find(({ driver }) => containerIdOf(driver.state) === event.containerId);
    if (entry === undefined) return;
    const { driver } = entry;
    const { runId } = driver.state;
    switch (event.kind) {
      case 'died':
        driver.post({ kind: 'died', exitCode: event.exitCode, oomKilledFlag: false });
        break;
      case 'oom':
        break;
      case 'touched':
        // The container is not what was verified any more: whoever did it has the engine's socket, and must use ours.
        this.drift(entry, `somebody did "${event.action}" to the container`);
        break;
      case 'network-attached':
      case 'network-detached': {
        const own = event.network === driver.network?.bridge || event.network === networkName(runId);
        if (!own) this.drift(entry, `the container was attached to or detached from network ${event.network}`);
        else if (event.kind === 'network-detached') void this.detached(entry);
        break;
      }
      default:
        assertNever(event);
    }
  }

  /**
   * Engines may tell of the end of a container's network before that of the container, and a busy daemon may hear of the
   * second one late. Without its network a run reaches nothing, so there is time to see which of the two it is.
   */
  private async detached(entry: RunEntry): Promise<void> {
    await delay(DETACHED_MS);
    const { phase, empty } = entry.driver.state;
    if (phase !== 'running' || empty) return;
    await this.compare(entry).catch(() => this.drift(entry, DETACHED));
  }

  private drift(entry: RunEntry, what: string): void {
    const { driver, spec } = entry;
    const { runId, phase } = driver.state;
    if (phase !== 'running' && phase !== 'preparing') return;
    this.parts.ledger
      .append({ kind: 'drift.detected', runId, profile: spec.name, what })
      .flushed.catch(() => undefined);
    driver.post({ kind: 'end-requested', how: 'kill', reason: 'enforcement.lost', rule: 'drift', detail: what });
  }

  /** Events were lost: look at every container of ours once, for its end and for what somebody did to it. */
  private async relist(): Promise<void> {
    for (const entry of this.parts.table.alive()) {
      const { state } = entry.driver;
      if (state.container.kind !== 'started') continue;
      await this.compare(entry).catch((error: unknown) =>
        this.parts.log.warn({ err: error, runId: state.runId }, 'container could not be inspected after a reconnect'),
      );
    }
  }

  /** Rejects when the engine cannot tell. */
  private async compare(entry: RunEntry): Promise<void> {
    const { driver } = entry;
    const containerId = containerIdOf(driver.state);
    if (containerId === null) return;
    const facts = await this.parts.engine.inspectContainer(containerId);
    const over = facts.state === 'exited' || facts.state === 'dead';
    if (over) driver.post({ kind: 'died', exitCode: facts.exitCode, oomKilledFlag: facts.oomKilledFlag });
    const what = over ? null : changeOf(entry, facts);
    if (what !== null) this.drift(entry, what);
  }
}

/** What differs from the container that was verified, or null. Its process and its network were this run's own. */
function changeOf({ driver, spec }: RunEntry, facts: ContainerFacts): string | null {
  const { state, network } = driver;
  const own = new Set([network?.bridge, networkName(state.runId)]);
  const foreign = facts.networks.find(({ name }) => !own.has(name));
  if (foreign !== undefined) return `the container was attached to network ${foreign.name}`;
  if (facts.networks.length === 0) return DETACHED;
  if (facts.state === 'paused' && state.held?.action !== 'pause') return 'the container was paused';
  const pid = state.container.kind === 'started' ? state.container.pid : null;
  if (pid !== null && facts.pid !== null && facts.pid !== pid) return 'the container was started again';
  const { limits } = spec;
  const same = facts.memoryBytesMax === limits.memoryBytesMax && facts.pidsMax === limits.pidsMax;
  return same ? null : 'the limits of the container were changed';
}
