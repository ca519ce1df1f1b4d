import { parseLine } from './line.ts';
import { openNote, parseCheckpoint, parseNoteKey, type NoteKey } from './note.ts';
import { endorsementText } from './seal.ts';
import type { Head } from './verify.ts';
import type { WalkedLine } from './walk.ts';

const KEYS_MAX = 1_000;

/**
 * The keys that a ledger announces and the checkpoints that they sign, as a reader meets them. Each new key must be
 * signed by one before it, or be the one that the reader brought along. Who writes a ledger anew has no such signature.
 */
export class KeyRing {
  readonly #anchor: NoteKey | null;
  readonly #known: NoteKey[] = [];
  #anchored: boolean;
  #checkpoints = 0;
  #last: Head | null = null;

  constructor(anchor: NoteKey | null) {
    this.#anchor = anchor;
    this.#anchored = anchor === null;
  }

  get checkpoints(): number {
    return this.#checkpoints;
  }

  get lastCheckpoint(): Head | null {
    return this.#last;
  }

  get keys(): readonly string[] {
    return this.#known.map(({ text }) => text);
  }

  /** What is wrong with a record about keys or checkpoints, or null; `before` is the record that it follows. */
  look(line: WalkedLine, before: Head): string | null {
    const { kind } = line;
    if (kind === 'ledger.key') return this.#key(line);
    return kind === 'ledger.checkpoint' ? this.#checkpoint(line, before) : null;
  }

  /** Said at the end: a key that was brought along and signed nothing here. */
  complaint(): string | null {
    return this.#anchored ? null : 'no checkpoint in this ledger is signed by the key given';
  }

  #key(line: WalkedLine): string | null {
    const record = parseLine(line.bytes);
    const text = record?.['key'];
    const key = typeof text === 'string' ? parseNoteKey(text) : null;
    if (key === null) return 'the record announces a key that is none';
    // Said again at the head of each file, so that the rest verifies when the first file is gone.
    if (this.#known.at(-1)?.text === key.text) return null;
    if (this.#known.length >= KEYS_MAX) return 'the ledger announces more keys than anybody uses';
    const endorsement = record?.['endorsement'];
    const opened = typeof endorsement === 'string' ? openNote(endorsement, this.#known) : null;
    const endorsed = opened?.ok === true && opened.text === endorsementText(key);
    const first = this.#known.length === 0;
    if (!first && !endorsed && this.#anchor?.text !== key.text) {
      return 'the key was changed without the signature of the one before; if a person did that, give `--key` the new one';
    }
    this.#known.push(key);
    return null;
  }

  #checkpoint(line: WalkedLine, before: Head): string | null {
    // Only where the file with the first key was deleted for its age: these prove nothing, and count for nothing.
    if (this.#known.length === 0) return null;
    const note = parseLine(line.bytes)?.['note'];
    const opened = openNote(typeof note === 'string' ? note : '', this.#known);
    if (!opened.ok) return `the checkpoint proves nothing: ${opened.why}`;
    const checkpoint = parseCheckpoint(opened.text);
    if (checkpoint === null || checkpoint.seq !== before.seq || checkpoint.hash !== before.hash) {
      return 'the checkpoint was signed for another record than the one before it';
    }
    this.#checkpoints += 1;
    this.#last = { seq: checkpoint.seq, hash: checkpoint.hash };
    if (opened.key.text === this.#anchor?.text) this.#anchored = true;
    return null;
  }
}
