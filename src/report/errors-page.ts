import { ERRORS } from '../core/errors.ts';

/** What stands between the two marks of `docs/errors.md` is generated from the catalogue. */
const START = '<!-- generated from src/core/errors.ts: start -->';
const END = '<!-- generated: end -->';

/** The page with a new table between its marks, or null when the marks are not there. */
export function withErrorsTable(page: string): string | null {
  const start = page.indexOf(START);
  const end = page.indexOf(END);
  if (start === -1 || end < start) return null;
  return `${page.slice(0, start + START.length)}\n\n${errorsTable()}\n${page.slice(end)}`;
}

function errorsTable(): string {
  const head = ['| Code | What happened | What to do | HTTP | Exit |', '|---|---|---|---|---|'];
  const rows = Object.entries(ERRORS).map(
    ([code, entry]) =>
      `| \`${code}\` | ${cell(entry.message)} | ${cell(entry.hint)} | ${entry.httpStatus} | ${entry.exitCode} |`,
  );
  return `${[...head, ...rows].join('\n')}\n`;
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}
