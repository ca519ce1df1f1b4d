import type { IncidentSummary, RunView } from '../api/service.ts';
import { printable } from '../core/text.ts';
import { formatAmount } from '../report/measure.ts';
import { nearest, usesOf, type Use } from '../report/use.ts';
import { shortAge } from './amounts.ts';

/** What `top` shows at one moment, as lines that fit the screen. Knows nothing of terminals but their size. */
export type TopView = {
  readonly runs: readonly RunView[];
  readonly incidents: readonly IncidentSummary[];
  /** Lines of `events` about refused attempts, latest last. */
  readonly denials: readonly string[];
  readonly nowMs: number;
  readonly columns: number;
  readonly rows: number;
  readonly colour: boolean;
  /** Blocks where the terminal can show them, else ASCII. */
  readonly unicode: boolean;
  /** Why the daemon could not be asked, or null. */
  readonly failure: string | null;
};

const COLUMNS_MIN = 40;
const BAR_CHARS = 12;
const CELL_CHARS = 44;
const NAME_CHARS = 12;
/** A bound without its amounts. */
const SHORT_CELL_CHARS = NAME_CHARS + BAR_CHARS + 5;
const RUN_CHARS = 14;
const PROFILE_CHARS = 18;
const LOWER_LINES_MAX = 5;
const HIGH = 0.9;
const NOTABLE = 0.7;

const RESET = '\u001b[0m';
const BOLD = '\u001b[1m';
const RED = '\u001b[31m';
const YELLOW = '\u001b[33m';
const GREEN = '\u001b[32m';

/** Nearest to its end first, so that what matters is on the screen however many runs there are. */
export function renderTop(view: TopView): readonly string[] {
  const columns = Math.max(COLUMNS_MIN, view.columns);
  const ordered = view.runs
    .map((run) => ({ run, uses: usesOf(run).toSorted((left, right) => right.ratio - left.ratio) }))
    .toSorted((left, right) => (nearest(right.uses)?.ratio ?? 0) - (nearest(left.uses)?.ratio ?? 0));
  const lower = [...section('DENIED', view.denials, view), ...section('INCIDENTS', incidentLines(view), view)];
  const room = Math.max(1, view.rows - lower.length - 1);
  const shown = ordered.slice(0, room).map(({ run, uses }) => runLine({ run, uses, columns }, view));
  const more = ordered.length - shown.length;
  const head = headLine(view, more);
  const body = view.failure === null ? shown : [paint(RED, printable(view.failure, columns), view)];
  return [paint(BOLD, cut(head, columns), view), ...body, ...lower.map((line) => cut(line, columns))].slice(
    0,
    view.rows,
  );
}

function headLine({ runs, nowMs }: TopView, more: number): string {
  const count = `${runs.length} ${runs.length === 1 ? 'run' : 'runs'}`;
  const hidden = more > 0 ? `, ${more} further from their bounds not shown` : '';
  return `ringfence  ${count}${hidden}  ${new Date(nowMs).toISOString().slice(11, 19)} UTC  q quits`;
}

type Row = { readonly run: RunView; readonly uses: readonly Use[]; readonly columns: number };

/** Of a narrow screen the amounts go first, then what says the run and its age, then the bar: the percentage stays. */
function runLine({ run, uses, columns }: Row, view: TopView): string {
  const phase = run.held === null ? run.phase : run.held.action === 'pause' ? 'paused' : 'slowed';
  const age = shortAge(view.nowMs - Date.parse(run.admittedAt));
  const name = cut(printable(run.profile, PROFILE_CHARS), PROFILE_CHARS).padEnd(PROFILE_CHARS);
  const whole = `${printable(run.runId, RUN_CHARS).padEnd(RUN_CHARS)} ${name} ${phase.padEnd(9)} ${age.padStart(4)} `;
  const head = columns - whole.length >= SHORT_CELL_CHARS ? whole : `${name} `;
  const room = columns - head.length;
  const cells = Math.max(1, Math.floor(room / CELL_CHARS));
  return `${head}${uses
    .slice(0, cells)
    .map((use) => cellOf(use, room, view))
    .join('')}`.trimEnd();
}

/** `budget.cpu  ██████░░░░░░  52% 10m of 20m` */
function cellOf(use: Use, room: number, view: TopView): string {
  const name = cut(use.path.replace(/^(?:budget|limits)\./, ''), NAME_CHARS - 1).padEnd(NAME_CHARS);
  const percent = `${Math.min(999, Math.round(use.ratio * 100))}%`.padStart(4);
  if (room < SHORT_CELL_CHARS) return `${name}${paint(colourOf(use.ratio), percent, view)}`;
  const bar = `${name}${paint(colourOf(use.ratio), barOf(use.ratio, view.unicode), view)} ${percent}`;
  if (room < CELL_CHARS) return bar;
  const amounts = ` ${formatAmount(use.used, use.unit)} of ${formatAmount(use.limit, use.unit)}`;
  return `${bar}${cut(amounts, CELL_CHARS - SHORT_CELL_CHARS).padEnd(CELL_CHARS - SHORT_CELL_CHARS)}`;
}

export function barOf(ratio: number, unicode: boolean): string {
  const filled = Math.round(Math.min(1, Math.max(0, ratio)) * BAR_CHARS);
  const [full, empty] = unicode ? ['█', '░'] : ['#', '-'];
  return (full ?? '').repeat(filled) + (empty ?? '').repeat(BAR_CHARS - filled);
}

function colourOf(ratio: number): string {
  if (ratio >= HIGH) return RED;
  return ratio >= NOTABLE ? YELLOW : GREEN;
}

function incidentLines({ incidents }: TopView): readonly string[] {
  return incidents.map(
    ({ at, id, profile, severity, summary }) => `${at.slice(11, 19)}  ${id}  ${profile}  ${severity}  ${summary}`,
  );
}

function section(title: string, lines: readonly string[], view: TopView): readonly string[] {
  if (lines.length === 0) return [];
  return [paint(BOLD, title, view), ...lines.slice(-LOWER_LINES_MAX).map((line) => printable(line, 1_000))];
}

function paint(code: string, text: string, { colour }: TopView): string {
  return colour ? `${code}${text}${RESET}` : text;
}

/** Colour codes are only put around what has been cut already. */
function cut(text: string, charsMax: number): string {
  return text.length > charsMax ? `${text.slice(0, charsMax - 1)}…` : text;
}
