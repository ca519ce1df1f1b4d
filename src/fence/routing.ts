import { openSync, readSync, writeFileSync } from 'node:fs';
import { contains, parseIpv4 } from '../profile/ipv4.ts';
import { runTool, tryTool } from './command.ts';
import { parseNetwork } from './pool.ts';
import type { FenceMarks } from './rules/words.ts';

/**
 * The dead man's switch: a packet from the pool without a mark has no route. It holds when somebody flushes every
 * table, since then nothing marks. Packets that the host itself makes with a gateway's address are exempt.
 */
const TABLE = '21300';
const PREFERENCE_LOCAL = 212;
const PREFERENCE_PROHIBIT = 213;
const SRC_VALID_MARK = '/proc/sys/net/ipv4/conf/all/src_valid_mark';
const SYSCTL_BYTES_MAX = 32;

/** `pool` and `marks` as the base rules have them. */
export type Routing = { readonly pool: string; readonly marks: FenceMarks };

/** Rules as `ip rule show` prints them; how it prints a mark of zero depends on its version. */
function expectedRules({
  pool,
  marks,
}: Routing): readonly { readonly shown: string; readonly args: readonly string[] }[] {
  const mask = `0/0x${((marks.open | marks.deny) >>> 0).toString(16)}`;
  return [
    {
      shown: `${PREFERENCE_LOCAL}: from ${pool} iif lo lookup main`,
      args: ['from', pool, 'iif', 'lo', 'lookup', 'main', 'priority', String(PREFERENCE_LOCAL)],
    },
    {
      shown: `${PREFERENCE_PROHIBIT}: from ${pool} fwmark ${mask} lookup ${TABLE}`,
      args: ['from', pool, 'fwmark', mask, 'lookup', TABLE, 'priority', String(PREFERENCE_PROHIBIT)],
    },
  ];
}

/** Whose packets the rules of another pool still have to stop. */
type Network = { readonly network: string };

/** The value of the sysctl before it was changed, or null when it was right already. */
export async function applyRouting(routing: Routing, runs: readonly Network[]): Promise<string | null> {
  const before = readSrcValidMark();
  // With it the reverse-path check of a reply looks at its mark, and does not end at the prohibit route.
  if (before !== '1') writeFileSync(SRC_VALID_MARK, '1');
  await runTool('ip', ['-4', 'route', 'replace', 'prohibit', 'default', 'table', TABLE]);
  const present = await shownRules();
  for (const rule of expectedRules(routing)) {
    if (!present.includes(rule.shown)) await runTool('ip', ['-4', 'rule', 'add', ...rule.args]);
  }
  await removeStale(routing, { present, runs });
  return before === '1' ? null : before;
}

/** Rules of ours for an earlier pool, once no run of it is left, or for other marks. */
async function removeStale(
  routing: Routing,
  { present, runs }: { readonly present: readonly string[]; readonly runs: readonly Network[] },
): Promise<void> {
  const expected = expectedRules(routing).map(({ shown }) => shown);
  for (const shown of present) {
    const match = /^(212|213): from (\S+) (iif lo lookup main|fwmark (\S+) lookup 21300)$/.exec(shown);
    if (match === null || expected.includes(shown)) continue;
    const [, preference = '', pool = '', rest = ''] = match;
    const network = parseNetwork(pool);
    const inUse = runs.some(({ network: of }) => network !== null && contains(network, parseIpv4(of) ?? -1));
    if (pool !== routing.pool && inUse) continue;
    await runTool('ip', ['-4', 'rule', 'del', 'from', pool, ...rest.split(' '), 'priority', preference]);
  }
}

export async function checkRouting(routing: Routing): Promise<string[]> {
  const findings: string[] = [];
  const [present, route] = await Promise.all([shownRules(), tryTool('ip', ['-4', 'route', 'show', 'table', TABLE])]);
  for (const { shown } of expectedRules(routing)) {
    if (!present.includes(shown)) findings.push(`ip rule: "${shown}" is gone`);
  }
  if (!route.stdout.includes('prohibit default')) findings.push(`ip route: table ${TABLE} has no prohibit route`);
  if (readSrcValidMark() !== '1') findings.push('sysctl net.ipv4.conf.all.src_valid_mark is not 1');
  return findings;
}

/** Kept open, so that a process without descriptors can still tell whether its rules are in force. */
let srcValidMark: number | null = null;

function readSrcValidMark(): string {
  srcValidMark ??= openSync(SRC_VALID_MARK, 'r');
  const text = Buffer.alloc(SYSCTL_BYTES_MAX);
  return text.toString('latin1', 0, readSync(srcValidMark, text, 0, text.length, 0)).trim();
}

export async function removeRouting(routing: Routing, srcValidMarkBefore: string | null): Promise<void> {
  for (const rule of expectedRules(routing)) await tryTool('ip', ['-4', 'rule', 'del', ...rule.args]);
  await tryTool('ip', ['-4', 'route', 'flush', 'table', TABLE]);
  if (srcValidMarkBefore !== null) writeFileSync(SRC_VALID_MARK, srcValidMarkBefore);
}

async function shownRules(): Promise<string[]> {
  const text = await runTool('ip', ['-4', 'rule', 'show']);
  return text.split('\n').map((line) => line.replaceAll(/\s+/g, ' ').replace('fwmark 0x0/', 'fwmark 0/').trim());
}
