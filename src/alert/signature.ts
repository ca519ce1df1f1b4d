import { createHmac } from 'node:crypto';
import { fail } from '../core/errors.ts';

const KEY_PREFIX = 'whsec_';
/** Standard Webhooks 1.0: a symmetric key has 24 to 64 bytes. */
const KEY_BYTES_MIN = 24;
const KEY_BYTES_MAX = 64;

/** `whsec_` and base64 → the bytes. The error never holds the key. */
export function parseKey(text: string): Buffer {
  const encoded = text.startsWith(KEY_PREFIX) ? text.slice(KEY_PREFIX.length) : '';
  const key = Buffer.from(encoded, 'base64');
  const canonical = key.toString('base64').replace(/=+$/, '') === encoded.replace(/=+$/, '');
  if (!canonical || key.length < KEY_BYTES_MIN || key.length > KEY_BYTES_MAX) {
    const detail = `a webhook key must be ${KEY_PREFIX} and the base64 of ${KEY_BYTES_MIN} to ${KEY_BYTES_MAX} bytes`;
    throw fail('CONFIG_INVALID', { detail });
  }
  return key;
}

/** The value of `webhook-signature`: one `v1,…` for each key, so that a receiver may know the old or the new one. */
export function signatures(
  keys: readonly Buffer[],
  message: { readonly id: string; readonly timestamp: number; readonly body: string },
): string {
  const signed = `${message.id}.${message.timestamp}.${message.body}`;
  return keys.map((key) => `v1,${createHmac('sha256', key).update(signed).digest('base64')}`).join(' ');
}
