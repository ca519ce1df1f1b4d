import type { Caller, DoctorReport, LedgerCheckpoint } from '../api/service.ts';
import { fail } from '../core/errors.ts';
import type { AlertOutbox, OutboxListing, RetrySelection, SinkTestResult } from '../core/ports/alert.ts';
import type { OpenedLedger } from '../ledger/ledger.ts';
import type { Metrics } from './metrics.ts';
import type { HostService } from './service.ts';

export type HostDeskOptions = {
  readonly ledger: OpenedLedger;
  readonly outbox: AlertOutbox;
  readonly metrics: Metrics;
  examine(): Promise<DoctorReport>;
  collectGarbage(): Promise<readonly string[]>;
};

export class HostDesk implements HostService {
  private readonly options: HostDeskOptions;
  private examination: Promise<DoctorReport> | null = null;

  constructor(options: HostDeskOptions) {
    this.options = options;
  }

  /** It starts a dozen programs, so whoever asks while one is under way is given that one's answer. */
  doctor(): Promise<DoctorReport> {
    this.examination ??= this.options.examine().finally(() => (this.examination = null));
    return this.examination;
  }

  async gc(caller: Caller): Promise<{ readonly removed: readonly string[] }> {
    const removed = await this.options.collectGarbage();
    this.options.ledger.append({ kind: 'garbage.collected', removed, caller }).flushed.catch(() => undefined);
    return { removed };
  }

  async checkpoint(caller: Caller): Promise<LedgerCheckpoint> {
    const { ledger } = this.options;
    const { flushed } = ledger.append({ kind: 'command.issued', command: 'ledger checkpoint', caller });
    const signed = ledger.checkpoint();
    const key = ledger.publicKey();
    // What leaves signed must be on disk: a later daemon would write another record there, and stand accused by the note.
    await flushed;
    if (signed === null || key === null) throw fail('LEDGER_UNWRITABLE', { detail: 'this ledger has no key' });
    return { ...signed, key };
  }

  /** Who makes a key and keeps the old public text elsewhere can still check everything: each key vouches for the next. */
  async rotateKey(caller: Caller): Promise<{ readonly key: string }> {
    this.note('ledger rotate-key', caller);
    return { key: await this.options.ledger.rotateKey() };
  }

  alerts(): Promise<OutboxListing> {
    return this.options.outbox.list();
  }

  testAlert(sink: string, caller: Caller): Promise<SinkTestResult> {
    this.note('alerts test', caller);
    return this.options.outbox.test(sink);
  }

  async retryAlerts(which: RetrySelection, caller: Caller): Promise<{ readonly retried: number }> {
    this.note('alerts retry', caller);
    return { retried: await this.options.outbox.retry(which) };
  }

  metrics(): Promise<string> {
    return this.options.metrics.render();
  }

  /** For root alone: a sink may wake somebody, and a key is what the record is believed by. */
  private note(command: string, caller: Caller): void {
    if (caller.uid !== 0) throw fail('FORBIDDEN', { detail: `only root may use \`ringfence ${command}\`` });
    this.options.ledger.append({ kind: 'command.issued', command, caller }).flushed.catch(() => undefined);
  }
}
