import { appendFileSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { WardenReport } from '../core/ports/warden.ts';
import { RUN_ID_PATTERN } from '../core/ids.ts';
import { parseNote } from './note.ts';
import type { RunNote } from './note.ts';

/**
 * The time after the daemon died: the warden goes on holding its runs to their budgets. Who holds a run, and who reads
 * the feed of denied packets (the kernel gives it to one process only), stands in small files; the warden of the next
 * daemon writes its own number there, and the old one lets go of what is no longer its own.
 */
export type Afterlife = {
  hold(what: string): void;
  /** Who wrote its number there last; null when nobody did. */
  holder(what: string): number | null;
  /** Another living process has taken it. */
  takenByOther(what: string): boolean;
  release(what: string): void;
  /** What the next warden must know of a run; the last note stands. */
  note(runId: string, note: RunNote): void;
  /** What the warden before noted of it, for who holds it now. */
  noteOf(runId: string): RunNote | null;
  /** What was done while no daemon heard it; for the next one. Bounded: when the file is full, nothing more. */
  record(report: WardenReport, at: string): void;
};

export const FEED = 'feed';
export const AFTERLIFE_FILE = 'afterlife.ndjson';
const AFTERLIFE_BYTES_MAX = 1024 * 1024;

export function openAfterlife(directory: string): Afterlife {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const own = String(process.pid);
  const file = join(directory, AFTERLIFE_FILE);
  const place = (what: string): string => join(directory, `${what}.holder`);
  const notes = (runId: string): string => join(directory, `${runId}.note`);
  let full = false;
  return {
    hold: (what) => {
      const next = join(directory, `${what}.${own}.new`);
      writeFileSync(next, own, { mode: 0o600 });
      renameSync(next, place(what));
    },
    holder: (what) => holderOf(place(what)),
    takenByOther: (what) => {
      const holder = holderOf(place(what));
      return holder !== null && holder !== process.pid && isAlive(holder);
    },
    release: (what) => {
      if (holderOf(place(what)) !== process.pid) return;
      rmSync(place(what), { force: true });
      rmSync(notes(what), { force: true });
    },
    note: (runId, note) => {
      try {
        writeFileSync(`${notes(runId)}.new`, JSON.stringify(note), { mode: 0o600 });
        renameSync(`${notes(runId)}.new`, notes(runId));
      } catch {
        // As with the record: a full disk costs the next warden what stood here, and the run nothing.
      }
    },
    noteOf: (runId) => {
      try {
        return parseNote(readFileSync(notes(runId), 'utf8'));
      } catch {
        return null;
      }
    },
    record: (report, at) => {
      if (full) return;
      try {
        const size = statSync(file, { throwIfNoEntry: false })?.size ?? 0;
        full = size > AFTERLIFE_BYTES_MAX;
        if (!full) appendFileSync(file, `${JSON.stringify({ at, report })}\n`, { mode: 0o600 });
      } catch {
        // The record is a courtesy to the next daemon; a full disk must not end the supervision of living agents.
        full = true;
      }
    },
  };
}

function holderOf(file: string): number | null {
  try {
    const pid = Number(readFileSync(file, 'latin1'));
    return Number.isInteger(pid) && pid > 0 ? pid : null;
  } catch {
    return null;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Takes the records that an earlier warden left; they are given once. A torn or foreign line is left out. */
export function takeAfterlife(directory: string): readonly { readonly at: string; readonly report: WardenReport }[] {
  const file = join(directory, AFTERLIFE_FILE);
  const taken = join(directory, `${AFTERLIFE_FILE}.taken`);
  try {
    // An old warden that is still there writes a new file from now on.
    renameSync(file, taken);
  } catch {
    return [];
  }
  const records: { at: string; report: WardenReport }[] = [];
  for (const line of readFileSync(taken, 'utf8').split('\n')) {
    const record = parseRecord(line);
    if (record !== null) records.push(record);
  }
  rmSync(taken, { force: true });
  return records;
}

function parseRecord(line: string): { at: string; report: WardenReport } | null {
  try {
    const { at, report } = JSON.parse(line) as { at: unknown; report: WardenReport };
    const known = typeof at === 'string' && 'runId' in report && RUN_ID_PATTERN.test(report.runId);
    return known ? { at, report } : null;
  } catch {
    return null;
  }
}
