import type { RunIds } from '../core/ids.ts';
import { messageOf } from '../core/errors.ts';
import type { Log } from '../core/ports/log.ts';
import type { GateClient } from '../gate/client.ts';
import type { ImageTrust, StagedTrust, TrustStore } from './trust.ts';

type Inspected = { readonly address: string; readonly trust: ImageTrust };

/**
 * Who vouches for inspected connections, run by run. The key of an authority lives and dies with the process that holds
 * it, so after a restart of the gate each run that lives gets a new one, written over the old where it is mounted.
 */
export class TrustDesk {
  private readonly gate: Pick<GateClient, 'authority'>;
  private readonly store: TrustStore;
  private readonly log: Log;
  private readonly runs = new Map<string, Inspected>();

  constructor(parts: { readonly gate: Pick<GateClient, 'authority'>; readonly store: TrustStore; readonly log: Log }) {
    this.gate = parts.gate;
    this.store = parts.store;
    this.log = parts.log;
  }

  /** The gate must know the address already. */
  async stage(runId: string, inspected: Inspected): Promise<StagedTrust> {
    const certificatePem = await this.gate.authority(inspected.address, runId);
    const staged = await this.store.stage(runId, inspected.trust, certificatePem);
    this.runs.set(runId, inspected);
    return staged;
  }

  async unstage(runId: string): Promise<void> {
    this.runs.delete(runId);
    await this.store.unstage(runId);
  }

  /** Until it is done, inspected names answer with a refusal; a run whose new authority fails stays that way. */
  async restage(): Promise<void> {
    for (const [runId, inspected] of this.runs) {
      try {
        await this.stage(runId, inspected);
      } catch (error) {
        this.log.error({ runId, error: messageOf(error) }, 'inspected names of the run stay refused');
      }
    }
  }

  collectGarbage(runIdsToKeep: RunIds): Promise<readonly string[]> {
    return this.store.collectGarbage(runIdsToKeep);
  }
}
