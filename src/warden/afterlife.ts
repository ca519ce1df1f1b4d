import { appendFileSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { WardenReport } from '../core/ports/warden.ts';
import { RUN_ID_PATTERN } from '../core/ids.ts';
import { isGone } from '../meter/counters.ts';
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
  /** What the next warden must know of a run; the last note stands. False when it could not be written. */
  note(runId: string, note: RunNote): boolean;
  /** What the warden before noted of it, for who holds it now. */
  noteOf(runId: string): RunNote | null;
  /** What was done while no daemon heard it; for the next one. Bounded: when the file is full, nothing more. */
  record(report: WardenReport, at: string): void;
  /** Writes what a disk did not take before. False while there is some left. */
  save(): boolean;
};

export const FEED = 'feed';
export const AFTERLIFE_FILE = 'afterlife.ndjson';
const AFTERLIFE_BYTES_MAX = 1024 * 1024;
const UNSAVED_LINES_MAX = 4_096;

export function openAfterlife(directory: string): Afterlife {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const own = String(process.pid);
  const file = join(directory, AFTERLIFE_FILE);
  const place = (what: string): string => join(directory, `${what}.holder`);
  const notes = (runId: string): string => join(directory, `${runId}.note`);
  /** Lines that are not in the file. A disk that takes nothing now may do so later, and must not end the supervision. */
  const unsaved: string[] = [];
  let isTorn = false;
  const append = (line: string): void => {
    const size = statSync(file, { throwIfNoEntry: false })?.size ?? 0;
    if (size > AFTERLIFE_BYTES_MAX) return;
    // A disk that became full may have taken the first half of a line.
    appendFileSync(file, isTorn ? `\n${line}` : line, { mode: 0o600 });
    isTorn = false;
  };
  const save = (): boolean => {
    try {
      for (let line = unsaved[0]; line !== undefined; line = unsaved[0]) {
        append(line);
        unsaved.shift();
      }
    } catch (error) {
      isTorn = true;
      // Without the folder there is no next daemon that could read it.
      if (isGone(error)) unsaved.length = 0;
    }
    return unsaved.length === 0;
  };
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
      try {
        rmSync(place(what), { force: true });
        rmSync(notes(what), { force: true });
      } catch {
        // On a disk that takes nothing the number stays, of a process that is gone soon: nobody is taken for it.
      }
    },
    note: (runId, note) => {
      try {
        writeFileSync(`${notes(runId)}.new`, JSON.stringify(note), { mode: 0o600 });
        renameSync(`${notes(runId)}.new`, notes(runId));
        return true;
      } catch {
        // A full disk costs the next warden what stood here, and the run nothing.
        return false;
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
      if (unsaved.length < UNSAVED_LINES_MAX) unsaved.push(`${JSON.stringify({ at, report })}\n`);
      save();
    },
    save,
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
