import { fail } from '../core/errors.ts';
import { runTool, tryTool } from './command.ts';
import type { Tool } from './command.ts';
import type { Table, TableRules } from './rules/words.ts';

/**
 * Putting tables of rules in force and reading them back. A batch of iptables-restore is atomic for one table, not for
 * several, so each call carries one; our chains are re-declared in it, which swaps their content without a gap, and
 * jumps are moved to the top in the same batch.
 */
const WAIT = ['-w', '5'] as const;

/** `iptables-save` of one table, without counters. */
export type SavedTable = { readonly family: 4 | 6; readonly table: Table; readonly lines: readonly string[] };

/** Which of the two kernels' interfaces the tools speak; rules of one are invisible to the other. */
export async function detectBackend(family: 4 | 6): Promise<'nf_tables' | 'legacy'> {
  const version = await runTool(toolOf(family, ''), ['--version']);
  if (version.includes('nf_tables')) return 'nf_tables';
  // Before 1.8 there was one kind and no word for it.
  return 'legacy';
}

export async function saveTable(family: 4 | 6, table: Table): Promise<SavedTable> {
  const saved = await tryTool(toolOf(family, '-save'), ['-t', table]);
  if (saved.exitCode !== 0) {
    throw fail('FENCE_FAILED', {
      detail: `the table ${table} cannot be read: ${saved.stderr.trim().split('\n')[0] ?? ''}`,
      hint: `load the module with \`modprobe ip${family === 6 ? '6' : ''}table_${table}\``,
    });
  }
  return tablesIn(saved.stdout, family).get(table) ?? { family, table, lines: [] };
}

/** All tables of a family, with one program instead of one for each. */
export async function saveTables(family: 4 | 6): Promise<ReadonlyMap<Table, SavedTable>> {
  return tablesIn(await runTool(toolOf(family, '-save'), []), family);
}

function tablesIn(saved: string, family: 4 | 6): ReadonlyMap<Table, SavedTable> {
  const tables = new Map<Table, SavedTable>();
  let lines: string[] = [];
  for (const line of saved.split('\n')) {
    if (line.startsWith('*')) {
      lines = [];
      // The names of ours are what they are asked for by; those of others are not.
      const table = line.slice(1) as Table;
      tables.set(table, { family, table, lines });
    } else if (line.startsWith('-A ')) lines.push(line);
  }
  return tables;
}

export async function applyTable(rules: TableRules): Promise<SavedTable> {
  const before = await saveTable(rules.family, rules.table);
  const batch = [
    `*${rules.table}`,
    ...rules.chains.map((chain) => `:${chain.name} - [0:0]`),
    ...rules.chains.flatMap((chain) => chain.rules.map((rule) => `-A ${chain.name} ${rule}`)),
    ...jumpLines(rules, before),
    'COMMIT',
    '',
  ];
  await runTool(toolOf(rules.family, '-restore'), [...WAIT, '--noflush'], batch.join('\n'));
  for (const jump of rules.jumps.filter(({ anywhere }) => anywhere)) await applyComfortJump(rules, jump);
  return await saveTable(rules.family, rules.table);
}

/** Nothing when ours already stand at the top, in order; otherwise each copy out and one of each in, at one stroke. */
function jumpLines(rules: TableRules, before: SavedTable): string[] {
  const lines: string[] = [];
  for (const [chain, wanted] of jumpsByChain(rules)) {
    const present = before.lines.filter((line) => line.startsWith(`-A ${chain} `));
    const ours = wanted.map((rule) => `-A ${chain} ${rule}`);
    // Also what an earlier configuration left: a jump for another pool would hold our chains fast.
    const copies = present.filter((line) => ours.includes(line) || isStaleJump(rules, line));
    const inPlace = ours.every((line, index) => present[index] === line) && copies.length === ours.length;
    if (inPlace) continue;
    for (const copy of copies) lines.push(copy.replace('-A ', '-D '));
    wanted.forEach((rule, index) => lines.push(`-I ${chain} ${index + 1} ${rule}`));
  }
  return lines;
}

/** A rule outside our chains that leads into one of them, and is none of those we send. */
function isStaleJump(rules: TableRules, line: string): boolean {
  return leadsToUs(rules, line) && !rules.jumps.some((jump) => line === `-A ${jump.chain} ${jump.rule}`);
}

function leadsToUs(rules: TableRules, line: string): boolean {
  const target = targetOf(line).slice('j:'.length);
  return (
    rules.chains.some(({ name }) => name === target) && !rules.chains.some(({ name }) => line.startsWith(`-A ${name} `))
  );
}

function jumpsByChain(rules: TableRules): Map<string, string[]> {
  const chains = new Map<string, string[]>();
  for (const jump of rules.jumps) {
    if (jump.anywhere) continue;
    chains.set(jump.chain, [...(chains.get(jump.chain) ?? []), jump.rule]);
  }
  return chains;
}

/** DOCKER-USER is the engine's: it may be missing, and declaring it in a batch would empty it. */
async function applyComfortJump(rules: TableRules, jump: TableRules['jumps'][number]): Promise<void> {
  const tool = toolOf(rules.family, '');
  const inTable = [...WAIT, '-t', rules.table];
  const spec = jump.rule.split(' ');
  const present = await tryTool(tool, [...inTable, '-C', jump.chain, ...spec]);
  if (present.exitCode === 0) return;
  if (jump.chain !== 'FORWARD') await tryTool(tool, [...inTable, '-N', jump.chain]);
  await runTool(tool, [...inTable, '-I', jump.chain, '1', ...spec]);
}

/** What differs from the rules as they were put in force; empty when every rule and every place is ours. */
export function compareTable(rules: TableRules, saved: SavedTable, installed: SavedTable): string[] {
  const where = `${rules.family === 6 ? 'ip6tables' : 'iptables'} ${rules.table}`;
  const findings: string[] = [];
  for (const { name } of rules.chains) {
    const now = chainLines(saved, name);
    if (now.length === 0) findings.push(`${where}: our chain ${name} is empty or gone`);
    else if (now.join('\n') !== chainLines(installed, name).join('\n')) {
      findings.push(`${where}: our chain ${name} was changed`);
    }
  }
  for (const [chain, wanted] of jumpsByChain(rules)) {
    const now = chainLines(saved, chain);
    wanted.forEach((rule, index) => {
      const line = `-A ${chain} ${rule}`;
      if (!now.includes(line)) findings.push(`${where}: the rule ${line} is gone`);
      else if (now[index] !== line) findings.push(`${where}: ${now[index] ?? ''} stands above ${line}`);
    });
  }
  return findings;
}

/** Straight after installing: every rule that was sent has to be there, with the target it was sent with. */
export function assertInstalled(rules: TableRules, saved: SavedTable): void {
  const findings = compareTable(rules, saved, saved);
  for (const chain of rules.chains) {
    const now = chainLines(saved, chain.name).map(targetOf);
    const sent = chain.rules.map(targetOf);
    if (now.join(' ') !== sent.join(' ')) findings.push(`${rules.table} ${chain.name}: read back [${now.join(' ')}]`);
  }
  if (findings.length === 0) return;
  throw fail('FENCE_FAILED', { detail: `the rules read back are not the rules sent: ${findings[0] ?? ''}`, findings });
}

function targetOf(rule: string): string {
  const match = /(?:^| )-([jg]) ([A-Za-z0-9_-]+)/.exec(rule);
  return match === null ? 'count' : `${match[1] ?? ''}:${match[2] ?? ''}`;
}

function chainLines(saved: SavedTable, chain: string): string[] {
  return saved.lines.filter((line) => line.startsWith(`-A ${chain} `));
}

/** Takes out every jump to our chains and every chain of ours, each table at one stroke. */
export async function removeTable(rules: TableRules): Promise<void> {
  const saved = await saveTable(rules.family, rules.table);
  const ours = new Set(rules.jumps.map((jump) => `-A ${jump.chain} ${jump.rule}`));
  const lines = [
    `*${rules.table}`,
    ...saved.lines.filter((line) => ours.has(line) || leadsToUs(rules, line)).map((line) => line.replace('-A ', '-D ')),
    ...rules.chains.map((chain) => `:${chain.name} - [0:0]`),
    ...rules.chains.map((chain) => `-X ${chain.name}`),
    'COMMIT',
    '',
  ];
  await runTool(toolOf(rules.family, '-restore'), [...WAIT, '--noflush'], lines.join('\n'));
  // Only an empty chain that nothing jumps to can be deleted: ours if no engine ever came, and never the engine's.
  if (rules.jumps.some((jump) => jump.chain === 'DOCKER-USER')) {
    await tryTool(toolOf(rules.family, ''), [...WAIT, '-t', rules.table, '-X', 'DOCKER-USER']);
  }
}

function toolOf(family: 4 | 6, suffix: '' | '-save' | '-restore'): Tool {
  return `${family === 6 ? 'ip6tables' : 'iptables'}${suffix}`;
}
