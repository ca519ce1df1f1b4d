/** Plain text for terminals: aligned, without colours unless they are asked for. */
export type TextOptions = { readonly colour: boolean };

export const PLAIN: TextOptions = { colour: false };

const CODES = { bold: '1', dim: '2', red: '31', yellow: '33', green: '32' } as const;

export function styled(text: string, style: keyof typeof CODES, options: TextOptions): string {
  return options.colour ? `\u001b[${CODES[style]}m${text}\u001b[0m` : text;
}

/** A label and its lines; further lines and wrapped ones stand under the first. */
export type Row = readonly [label: string, ...values: readonly string[]];

const WIDTH = 110;

export function renderRows(rows: readonly Row[], options: TextOptions): string {
  const labelWidth = Math.max(...rows.map(([label]) => label.length));
  const indent = ' '.repeat(labelWidth + 2);
  return rows
    .flatMap(([label, ...values]) =>
      values
        .flatMap((value) => wrapped(value, WIDTH - indent.length))
        .map((line, index) =>
          index === 0 ? `${styled(label.padEnd(labelWidth), 'dim', options)}  ${line}` : `${indent}${line}`,
        ),
    )
    .join('\n');
}

/** Breaks at spaces; a word that is longer than a line is left whole, so that it can be copied. */
function wrapped(text: string, width: number): readonly string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}

/** Columns as wide as their widest cell. */
export function renderTable(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, index) => (widths[index] = Math.max(widths[index] ?? 0, cell.length)));
  return rows
    .map((row) =>
      row
        .map((cell, index) => cell.padEnd(widths[index] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
