import type { CheckerReport } from './messages.ts';

type Passed = Extract<CheckerReport, { kind: 'passed' }>;

/** What passed since the last report, per run, name and port: told once a second however many connections there are. */
export class Traffic {
  #totals = new Map<string, { -readonly [Key in keyof Passed]: Passed[Key] }>();

  add(
    key: { readonly source: string; readonly name: string; readonly port: number },
    more: { readonly connections: number; readonly egressBytes: number; readonly ingressBytes: number },
  ): void {
    if (more.connections === 0 && more.egressBytes === 0 && more.ingressBytes === 0) return;
    const { source, name, port } = key;
    const index = `${source} ${port} ${name}`;
    const total = this.#totals.get(index) ?? {
      kind: 'passed',
      source,
      name,
      port,
      connections: 0,
      egressBytes: 0,
      ingressBytes: 0,
    };
    total.connections += more.connections;
    total.egressBytes += more.egressBytes;
    total.ingressBytes += more.ingressBytes;
    this.#totals.set(index, total);
  }

  /** Everything since the last call. */
  take(): readonly Passed[] {
    const all = [...this.#totals.values()];
    this.#totals = new Map();
    return all;
  }
}
