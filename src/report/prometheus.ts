/**
 * Figures in the text format of Prometheus (version 0.0.4). Names are `ringfence_…` in base units; a counter ends in
 * `_total`. Run ids, addresses and domain names are never labels: an agent could make as many of those as it likes.
 */
export type Labels = Readonly<Record<string, string>>;

export type Sample = { readonly labels: Labels; readonly value: number };

export type Histogram = {
  readonly labels: Labels;
  /** Upper bounds, ascending, with how many were at most that; the last is every one. */
  readonly buckets: readonly { readonly atMost: number; readonly count: number }[];
  readonly sum: number;
  readonly count: number;
};

export type Family = { readonly name: string; readonly help: string } & (
  | { readonly type: 'counter' | 'gauge'; readonly samples: readonly Sample[] }
  | { readonly type: 'histogram'; readonly histograms: readonly Histogram[] }
);

export const PROMETHEUS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** A family without samples is left out: a zero that nobody measured is no figure. */
export function renderMetrics(families: readonly Family[]): string {
  return families.map(renderFamily).join('');
}

function renderFamily(family: Family): string {
  const lines = family.type === 'histogram' ? histogramLines(family) : sampleLines(family);
  if (lines.length === 0) return '';
  const head = [`# HELP ${family.name} ${escapeHelp(family.help)}`, `# TYPE ${family.name} ${family.type}`];
  return `${[...head, ...lines].join('\n')}\n`;
}

function sampleLines(family: Family & { readonly type: 'counter' | 'gauge' }): string[] {
  return family.samples.map(({ labels, value }) => `${family.name}${labelText(labels)} ${numberText(value)}`);
}

function histogramLines(family: Family & { readonly type: 'histogram' }): string[] {
  const { name } = family;
  return family.histograms.flatMap(({ labels, buckets, sum, count }) => [
    ...buckets.map(
      ({ atMost, count: below }) => `${name}_bucket${labelText({ ...labels, le: numberText(atMost) })} ${below}`,
    ),
    `${name}_bucket${labelText({ ...labels, le: '+Inf' })} ${count}`,
    `${name}_sum${labelText(labels)} ${numberText(sum)}`,
    `${name}_count${labelText(labels)} ${count}`,
  ]);
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function escapeLabel(value: string): string {
  return value
    .replaceAll('\\', String.raw`\\`)
    .replaceAll('"', String.raw`\"`)
    .replaceAll('\n', String.raw`\n`);
}

function escapeHelp(text: string): string {
  return text.replaceAll('\\', String.raw`\\`).replaceAll('\n', String.raw`\n`);
}

function numberText(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? '+Inf' : '-Inf';
  return String(value);
}
