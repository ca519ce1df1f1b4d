import { assertNever } from '../core/assert.ts';
import { decisionRules } from './rules/decision.ts';
import { countRules, exitRules, lastRules } from './rules/exit.ts';
import { comfortRules, hostRules, redirectRules, sourceRules } from './rules/host.ts';
import { sixExitRules, sixRules } from './rules/six.ts';
import type { RuleOptions, TableRules } from './rules/words.ts';

/**
 * The base rules of a host, as text. They name no run: runs are entries of sets. What a packet passes, in order:
 *
 *   raw PREROUTING → mangle PREROUTING (mark) → nat PREROUTING (53 → gate, checked → checker) → routing (no mark: prohibit)
 *     on to the host:  filter INPUT (refuse politely) → security INPUT (drop)
 *     through it:      mangle FORWARD (no mark: drop) → filter FORWARD (refuse politely) → security FORWARD (drop)
 *                      → mangle POSTROUTING (no mark: drop; count what comes in)
 *
 * `source` ties a run to its bridge, `decision` marks what may pass and looks at the source once more by the routes.
 * `exit` and `last` each drop on the way out whatever carries no mark, and `last` guards the host beside `host`.
 * `six` and `six-exit` each deny IPv6. `redirect`, `count` and `comfort` protect nothing: they lead names to the gate
 * and the checker, count and cut what comes in, and turn a silent drop into a refusal.
 */
export type RulePiece =
  | 'source'
  | 'decision'
  | 'exit'
  | 'last'
  | 'redirect'
  | 'count'
  | 'host'
  | 'six'
  | 'six-exit'
  | 'comfort';

/** In the order in which they are put in force: what denies comes first. */
export const RULE_PIECES: readonly RulePiece[] = [
  'source',
  'decision',
  'exit',
  'last',
  'count',
  'redirect',
  'host',
  'six',
  'six-exit',
  'comfort',
];

/** The base rules by table, in the order in which they are put in force: what denies comes first. */
export function baseRules(options: RuleOptions, pieces: readonly RulePiece[] = RULE_PIECES): readonly TableRules[] {
  const parts = pieces.map((piece) => rulesOfPiece(piece, options));
  const tables: TableRules[] = [];
  for (const part of parts) {
    const index = tables.findIndex((table) => table.family === part.family && table.table === part.table);
    const known = tables[index];
    if (known === undefined) tables.push(part);
    else {
      const merged = { chains: [...known.chains, ...part.chains], jumps: [...known.jumps, ...part.jumps] };
      tables[index] = { ...known, ...merged };
    }
  }
  return tables;
}

function rulesOfPiece(piece: RulePiece, options: RuleOptions): TableRules {
  switch (piece) {
    case 'source':
      return sourceRules(options);
    case 'decision':
      return decisionRules(options);
    case 'exit':
      return exitRules(options);
    case 'last':
      return lastRules(options);
    case 'count':
      return countRules(options);
    case 'redirect':
      return redirectRules(options);
    case 'host':
      return hostRules(options);
    case 'comfort':
      return comfortRules(options);
    case 'six':
      return sixRules(options);
    case 'six-exit':
      return sixExitRules();
    default:
      return assertNever(piece);
  }
}
