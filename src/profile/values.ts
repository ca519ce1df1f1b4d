import type { DenialBudget } from './spec.ts';
import { parseDuration } from '../core/units.ts';

export type ParsedDenials =
  | { readonly ok: true; readonly value: DenialBudget }
  | { readonly ok: false; readonly rule: string };

const DENIALS_MAX = 1_000_000;

/** `50`: over the whole run. `20/1m`: within any minute. `0`: the first one is a breach. */
export function parseDenials(text: string): ParsedDenials {
  const match = /^(0|[1-9][0-9]{0,6})(?:\/([0-9.]+ ?[a-z]+))?$/.exec(text);
  const count = Number(match?.[1]);
  if (match === null || count > DENIALS_MAX) {
    return { ok: false, rule: 'must be a count, or a count within a time, such as 20/1m' };
  }
  if (match[2] === undefined) return { ok: true, value: { count, windowMs: null } };
  const window = parseDuration(match[2]);
  if (!window.ok) return { ok: false, rule: 'must have a time with a unit after the slash, such as 20/1m' };
  if (window.value < 1000 || window.value > 86_400_000) {
    return { ok: false, rule: 'must have a time from 1s to 1d after the slash' };
  }
  return { ok: true, value: { count, windowMs: window.value } };
}

/** `10001` or `10001:10002`. The group is the user's number when left out, as the engine would take root's. */
export function parseUser(user: number | string): { readonly uid: number; readonly gid: number } {
  const [uid = '', gid = uid] = String(user).split(':');
  return { uid: Number(uid), gid: Number(gid) };
}

/** `80%` → 0.8. */
export function parseShare(text: string): number {
  return Number(text.slice(0, -1)) / 100;
}
