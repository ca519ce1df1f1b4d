import { printable } from '../core/text.ts';

export type Column = {
  readonly head: string;
  readonly align?: 'left' | 'right';
  /** May be cut down to this many characters when the table is wider than the screen. */
  readonly charsMin?: number;
};

const CELL_CHARS_MAX = 200;
const GAP = '  ';

/**
 * A table as text. Every cell is made printable here, so no caller can forget it. Where `columnsMax` is given, columns
 * that allow it are cut until the table fits; a table that cannot fit stays as it is.
 */
export function renderTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  columnsMax: number | null = null,
): string {
  const cells = rows.map((row) => row.map((cell) => printable(cell, CELL_CHARS_MAX)));
  const widths = columns.map((column, index) =>
    Math.max(column.head.length, ...cells.map((row) => row[index]?.length ?? 0)),
  );
  const fitted = columnsMax === null ? widths : fit(columns, widths, columnsMax);
  const lines = [columns.map((column) => column.head), ...cells].map((row) =>
    columns
      .map((column, index) => padded({ text: row[index] ?? '', width: fitted[index] ?? 0, align: column.align }))
      .join(GAP)
      .trimEnd(),
  );
  return lines.join('\n');
}

/** `name   value` lines, for one thing whole. */
export function renderPairs(pairs: readonly (readonly [string, string])[]): string {
  const width = Math.max(0, ...pairs.map(([name]) => name.length));
  return pairs.map(([name, value]) => `${name.padEnd(width)}${GAP}${printable(value, 1_000)}`.trimEnd()).join('\n');
}

function fit(columns: readonly Column[], widths: readonly number[], columnsMax: number): readonly number[] {
  let excess = widths.reduce((sum, width) => sum + width + GAP.length, -GAP.length) - columnsMax;
  return widths.map((width, index) => {
    const spare = Math.max(0, width - (columns[index]?.charsMin ?? width));
    const cut = Math.min(spare, Math.max(0, excess));
    excess -= cut;
    return width - cut;
  });
}

function padded(options: {
  readonly text: string;
  readonly width: number;
  readonly align?: 'left' | 'right' | undefined;
}): string {
  const { text, width, align } = options;
  const cut = text.length > width ? `${text.slice(0, Math.max(0, width - 1))}…` : text;
  return align === 'right' ? cut.padStart(width) : cut.padEnd(width);
}
