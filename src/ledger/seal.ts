import type { Head } from './verify.ts';
import { checkpointText, type NoteKey, type NoteSigner } from './note.ts';
import { rotateSigner } from './keys.ts';
import type { RecordDraft, RecordKind } from '../core/ports/record.ts';

/** A place in the ledger with the signature of this host under it: what leaves the host with every alert. */
export type SignedCheckpoint = Head & { readonly note: string };

export type SealOptions = {
  readonly signer: NoteSigner;
  /** Where the private key lies, for its rotation. */
  readonly keyDirectory: string;
  /** A checkpoint after so many records, and after so long when there are any new ones. */
  readonly everyRecords: number;
  readonly everyMs: number;
};

type Writer = {
  append(draft: RecordDraft): { readonly seq: number; readonly flushed: Promise<void> };
  head(): Head;
  failure(): Error | null;
};

/** Records that a checkpoint causes by leaving the host: on a quiet host they alone must not cause the next one. */
const ABOUT_CHECKPOINTS: ReadonlySet<RecordKind> = new Set(['ledger.checkpoint', 'alert.delivered', 'alert.failed']);

/**
 * Signs where the chain stands. A checkpoint is itself a record, so that a reader of the files alone sees every one;
 * it is of use to somebody who has one that left the host.
 */
export class Seal {
  readonly #options: SealOptions;
  readonly #writer: Writer;
  readonly #timer: NodeJS.Timeout;
  #signer: NoteSigner;
  #sealedSeq: number;
  #worthSigning = false;
  #latest: SignedCheckpoint | null = null;

  constructor(options: SealOptions, writer: Writer, sealedSeq: number) {
    this.#options = options;
    this.#writer = writer;
    this.#signer = options.signer;
    this.#sealedSeq = sealedSeq;
    const onTime = (): void => void (this.#worthSigning && this.sign());
    this.#timer = setInterval(onTime, options.everyMs).unref();
  }

  get publicKey(): NoteKey {
    return this.#signer.public;
  }

  get latest(): SignedCheckpoint | null {
    return this.#latest;
  }

  /** Called after each record. */
  noteRecord(seq: number, kind: RecordKind): void {
    this.#worthSigning ||= !ABOUT_CHECKPOINTS.has(kind);
    if (seq - this.#sealedSeq >= this.#options.everyRecords) this.sign();
  }

  /** Signs the last record, unless that is a checkpoint already. */
  sign(): SignedCheckpoint | null {
    const { seq, hash } = this.#writer.head();
    if (seq <= this.#sealedSeq || this.#writer.failure() !== null) return this.#latest;
    const note = this.#signer.sign(checkpointText({ origin: this.#signer.public.name, seq, hash }));
    // Before the append, or the record of this checkpoint would ask for the next one.
    this.#sealedSeq = seq + 1;
    this.#worthSigning = false;
    this.#latest = { seq, hash, note };
    this.#writer.append({ kind: 'ledger.checkpoint', of: seq, hash, note });
    return this.#latest;
  }

  /** Says which key signs from here on. `endorsed`: by the one before it. */
  announce(key: NoteKey, endorsed: boolean): Promise<void> {
    const endorsement = endorsed ? this.#signer.sign(endorsementText(key)) : null;
    return this.#writer.append({ kind: 'ledger.key', key: key.text, endorsement }).flushed;
  }

  /** At the head of each file: who has only the later files still learns the key. */
  renew(): void {
    this.announce(this.#signer.public, true).catch(() => undefined);
    this.sign();
  }

  async rotateKey(): Promise<NoteKey> {
    const { name } = this.#signer.public;
    this.sign();
    this.#signer = await rotateSigner(this.#options.keyDirectory, name, (next) => this.announce(next.public, true));
    this.sign();
    return this.#signer.public;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

/** What the old key signs about the new one. */
export function endorsementText(key: NoteKey): string {
  return `ringfence ledger key\n${key.text}\n`;
}
