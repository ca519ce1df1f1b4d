import { hostname } from 'node:os';
import { messageOf } from '../core/errors.ts';
import type { AlertOutbox } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';
import type { OpenedLedger } from '../ledger/ledger.ts';
import { checkpointNotice } from '../report/notice.ts';

/** A busy ledger signs often; outside the host one checkpoint a minute is as good as sixty. */
const SEND_EVERY_MS = 60_000;

export type CheckpointDeskOptions = {
  readonly ledger: Pick<OpenedLedger, 'subscribe' | 'latestCheckpoint' | 'publicKey'>;
  readonly outbox: Pick<AlertOutbox, 'enqueue'>;
  readonly sinkNames: readonly string[];
  readonly log: Log;
};

/** Sends checkpoints to every sink that takes them: only what has left this host proves something about it. */
export function sendCheckpoints(options: CheckpointDeskOptions): () => void {
  const { ledger, outbox, sinkNames, log } = options;
  let sentAtMs = Number.NEGATIVE_INFINITY;
  let timer: NodeJS.Timeout | null = null;
  const send = (): void => {
    timer = null;
    sentAtMs = performance.now();
    const checkpoint = ledger.latestCheckpoint();
    const key = ledger.publicKey();
    if (checkpoint === null || key === null) return;
    const at = new Date().toISOString();
    const notice = checkpointNotice({ ...checkpoint, key }, { host: hostname(), at });
    for (const sink of sinkNames) {
      outbox.enqueue({ ...notice, sink }).catch((error: unknown) => {
        log.error({ sink, error: messageOf(error) }, 'a checkpoint could not be queued');
      });
    }
  };
  const unsubscribe = ledger.subscribe((record) => {
    if (record.kind !== 'ledger.checkpoint' || timer !== null) return;
    timer = setTimeout(send, Math.max(0, sentAtMs + SEND_EVERY_MS - performance.now()));
    timer.unref();
  });
  return () => {
    unsubscribe();
    if (timer !== null) clearTimeout(timer);
  };
}
