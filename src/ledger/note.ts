import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  hash,
  sign,
  verify,
  type KeyObject,
} from 'node:crypto';

/**
 * Signed notes as of C2SP (signed-note, tlog-checkpoint): text, an empty line, and one line for each signature. Whoever
 * holds a checkpoint and the public key can tell that a ledger is the one that was signed, with public tools.
 *
 *   ringfence/host.example
 *   4711
 *   <base64 of the SHA-256 of record 4711>
 *
 *   — ringfence/host.example <base64 of 4 bytes of key id and 64 bytes of signature>
 */
const ALGORITHM_ED25519 = 1;
const PUBLIC_KEY_BYTES = 32;
const KEY_ID_BYTES = 4;
const SIGNATURE_BYTES = 64;
const NOTE_CHARS_MAX = 2_048;
/** What precedes the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410). */
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');

/** A public key: its name, the text that people keep (`name+hash+key`), and what checks with it. */
export type NoteKey = { readonly name: string; readonly text: string; readonly id: Buffer; readonly key: KeyObject };

export type NoteSigner = { readonly public: NoteKey; sign(text: string): string };

export type Checkpoint = { readonly origin: string; readonly seq: number; readonly hash: string };

/** A name that both halves of a key text can carry: no space and no plus. */
export function keyName(host: string): string {
  return `ringfence/${host
    .toLowerCase()
    .replaceAll(/[^a-z0-9.-]/g, '-')
    .slice(0, 100)}`;
}

export function newPrivateKeyPem(): string {
  return generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
}

/** Throws when the text is not a private Ed25519 key. */
export function signerOf(name: string, privateKeyPem: string): NoteSigner {
  const privateKey = createPrivateKey(privateKeyPem);
  if (privateKey.asymmetricKeyType !== 'ed25519') throw new Error('it is not an Ed25519 key');
  const publicKey = keyOf(name, createPublicKey(privateKey));
  return {
    public: publicKey,
    sign: (text) => {
      const signature = sign(null, Buffer.from(text), privateKey);
      return `${text}\n— ${name} ${Buffer.concat([publicKey.id, signature]).toString('base64')}\n`;
    },
  };
}

function keyOf(name: string, key: KeyObject): NoteKey {
  const raw = key.export({ type: 'spki', format: 'der' }).subarray(-PUBLIC_KEY_BYTES);
  const typed = Buffer.concat([Buffer.from([ALGORITHM_ED25519]), raw]);
  const id = hash('sha256', Buffer.concat([Buffer.from(`${name}\n`), typed]), 'buffer').subarray(0, KEY_ID_BYTES);
  return { name, key, id, text: `${name}+${id.toString('hex')}+${typed.toString('base64')}` };
}

/** The key of a `name+hash+key` text, or null when it is none or its hash is not its own. */
export function parseNoteKey(text: string): NoteKey | null {
  const match = /^([^\s+]{1,200})\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})$/.exec(text.trim());
  if (match === null) return null;
  const typed = Buffer.from(match[3] ?? '', 'base64');
  if (typed.length !== 1 + PUBLIC_KEY_BYTES || typed[0] !== ALGORITHM_ED25519) return null;
  const der = Buffer.concat([SPKI_PREFIX, typed.subarray(1)]);
  const key = keyOf(match[1] ?? '', createPublicKey({ key: der, format: 'der', type: 'spki' }));
  return key.id.toString('hex') === match[2] ? key : null;
}

export type OpenedNote =
  | { readonly ok: true; readonly text: string; readonly key: NoteKey }
  | { readonly ok: false; readonly text: string | null; readonly why: string };

/** The text of a note that one of the keys has signed. A signature by another key counts for nothing. */
export function openNote(note: string, keys: readonly NoteKey[]): OpenedNote {
  if (note.length > NOTE_CHARS_MAX) return { ok: false, text: null, why: 'it is longer than any note' };
  const end = note.lastIndexOf('\n\n');
  if (end === -1 || !note.endsWith('\n')) return { ok: false, text: null, why: 'it is not a signed note' };
  const text = note.slice(0, end + 1);
  for (const line of note.slice(end + 2, -1).split('\n')) {
    const match = /^— (\S+) ([A-Za-z0-9+/]+={0,2})$/.exec(line);
    if (match === null) return { ok: false, text, why: 'a line of its signatures is not one' };
    const bytes = Buffer.from(match[2] ?? '', 'base64');
    const key = keys.find(({ name, id }) => name === match[1] && id.equals(bytes.subarray(0, KEY_ID_BYTES)));
    if (key === undefined || bytes.length !== KEY_ID_BYTES + SIGNATURE_BYTES) continue;
    if (!verify(null, Buffer.from(text), key.key, bytes.subarray(KEY_ID_BYTES))) {
      return { ok: false, text, why: `the signature of ${key.name} does not fit it` };
    }
    return { ok: true, text, key };
  }
  return { ok: false, text, why: 'no known key has signed it' };
}

export function checkpointText({ origin, seq, hash: head }: Checkpoint): string {
  return `${origin}\n${seq}\n${Buffer.from(head, 'hex').toString('base64')}\n`;
}

export function parseCheckpoint(text: string): Checkpoint | null {
  const match = /^(\S{1,200})\n([1-9]\d{0,14})\n([A-Za-z0-9+/]{43}=)\n$/.exec(text);
  if (match === null) return null;
  return { origin: match[1] ?? '', seq: Number(match[2]), hash: Buffer.from(match[3] ?? '', 'base64').toString('hex') };
}
