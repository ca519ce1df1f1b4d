import type { LedgerRecord } from '../core/ports/record.ts';
import { printable } from '../core/text.ts';
import { renderEvent } from './events.ts';

/** One record on one line for a spreadsheet: what most questions need, and at the end the whole record. */
const COLUMNS = ['seq', 'at', 'kind', 'profile', 'run', 'caller_uid', 'rule', 'destination', 'text', 'record'] as const;
const CELL_CHARS_MAX = 32_000;

export const CSV_HEAD = `${COLUMNS.join(',')}\r\n`;

export function csvOf(record: LedgerRecord): string {
  const denial = fieldsOf(record['denial']);
  const breach = fieldsOf(record['breach']);
  const cells: Readonly<Record<(typeof COLUMNS)[number], unknown>> = {
    seq: record.seq,
    at: record.at,
    kind: record.kind,
    profile: record.profile,
    run: record.runId,
    caller_uid: fieldsOf(record['caller'])['uid'],
    rule: denial['rule'] ?? breach['rule'] ?? record['rule'],
    destination: denial['destination'] ?? record['destination'] ?? record['address'],
    text: renderEvent(record),
    record: JSON.stringify(record),
  };
  return `${COLUMNS.map((column) => cellOf(cells[column])).join(',')}\r\n`;
}

/** Quoted after RFC 4180. A cell that a spreadsheet would take for a formula is text: agents choose some of these. */
function cellOf(value: unknown): string {
  if (typeof value === 'number') return String(value);
  const shown = typeof value === 'string' ? printable(value, CELL_CHARS_MAX) : '';
  const safe = /^[=+\-@\t\r]/.test(shown) ? `'${shown}` : shown;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
}
