import { runTool } from './command.ts';
import { applyRouting, checkRouting, removeRouting } from './routing.ts';
import { baseRules } from './rules.ts';
import type { RulePiece } from './rules.ts';
import type { RuleOptions, TableRules } from './rules/words.ts';
import { checkSets, destroySets } from './sets.ts';
import { applyTable, assertInstalled, compareTable, detectBackend, removeTable, saveTables } from './tables.ts';
import type { SavedTable } from './tables.ts';

/** The base rules of this host: tables and routing, put in force, compared with what was put in force, taken away. */
export class BaseRules {
  readonly #options: RuleOptions;
  readonly #tables: readonly TableRules[];
  #installed: readonly SavedTable[] | null = null;
  #backend: string | null = null;

  constructor(options: RuleOptions, pieces: readonly RulePiece[] | undefined) {
    this.#options = options;
    this.#tables = baseRules(options, pieces);
  }

  /** Before anything is changed: the tools have to be there. */
  async prepare(): Promise<void> {
    this.#backend = await backendOfBoth();
    await Promise.all([runTool('conntrack', ['--version']), runTool('ipset', ['--version']), runTool('ip', ['-V'])]);
  }

  /** The value of the sysctl before it was changed, or null when it was right already. */
  async install(runs: readonly { readonly network: string }[]): Promise<string | null> {
    const srcValidMarkBefore = await applyRouting(this.#options, runs);
    const installed: SavedTable[] = [];
    for (const table of this.#tables) {
      const saved = await applyTable(table);
      assertInstalled(table, saved);
      installed.push(saved);
    }
    this.#installed = installed;
    return srcValidMarkBefore;
  }

  get count(): number {
    return this.#tables.reduce(
      (sum, { chains, jumps }) => sum + jumps.length + chains.reduce((rules, chain) => rules + chain.rules.length, 0),
      0,
    );
  }

  async findings(): Promise<string[]> {
    const installed = this.#installed;
    if (installed === null) return ['the base rules have not been put in force'];
    const tables = Promise.all([saveTables(4), saveTables(6)]).then(([four, six]) =>
      this.#tables.flatMap((rules, index) => {
        const { family, table } = rules;
        const saved = (family === 4 ? four : six).get(table) ?? { family, table, lines: [] };
        const before = installed[index];
        return before === undefined ? [] : compareTable(rules, saved, before);
      }),
    );
    const backend = backendOfBoth().then((now) =>
      now === this.#backend ? [] : [`iptables: the backend was ${this.#backend ?? ''} and is ${now}`],
    );
    const found = await Promise.all([tables, checkRouting(this.#options), checkSets(), backend]);
    return found.flat();
  }

  async uninstall(srcValidMarkBefore: string | null): Promise<void> {
    for (const table of [...this.#tables].toReversed()) await removeTable(table);
    await removeRouting(this.#options, srcValidMarkBefore);
    await destroySets();
    this.#installed = null;
  }
}

async function backendOfBoth(): Promise<string> {
  const [four, six] = await Promise.all([detectBackend(4), detectBackend(6)]);
  return four === six ? four : `${four} and ${six}`;
}
