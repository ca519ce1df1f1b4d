import { FENCE_BUDGET_BASE, FENCE_SETS } from '../core/fence-names.ts';
import { fail } from '../core/errors.ts';
import type { FenceGrant } from '../core/ports/fence.ts';
import type { Ipset, IpsetEntry } from '../kernel/ipset.ts';
import { contains, parseIpv4 } from '../profile/ipv4.ts';
import { bridgeEntry, entryText, restore, sourceOf } from './sets.ts';

/** What the sets hold for one run, as its grant says: opened in one batch before the container exists, changed in another. */
const COUNTER_SETS = [FENCE_SETS.egress, FENCE_SETS.ingress, FENCE_SETS.connections, FENCE_SETS.denied] as const;

/** Opens what a grant says, the bridge last: until then the run is silent. Counters that exist go on counting. */
export async function openGrant(grant: FenceGrant, ipset: Ipset): Promise<void> {
  const entry: IpsetEntry = { kind: 'ip', address: grant.lease.address };
  const lines: string[] = [];
  for (const set of COUNTER_SETS) if (!ipset.test(set, entry)) lines.push(`add ${set} ${entryText(entry)}`);
  for (const budget of budgetsOf(grant)) {
    // A run that is armed again after a restart of the daemon must not get its budget a second time.
    if (budget.max !== null && !ipset.test(budget.set, entry)) lines.push(budgetLine(budget, entry, 0n));
  }
  for (const { set, wanted } of addressesOf(grant)) {
    for (const each of wanted) lines.push(`add ${set} ${entryText(each)}`);
  }
  lines.push(`add ${FENCE_SETS.bridge} ${entryText(bridgeEntry(grant.lease))}`);
  await restore(lines);
  const missing = missingOf(grant, ipset);
  if (!ipset.test(FENCE_SETS.bridge, bridgeEntry(grant.lease))) missing.push(FENCE_SETS.bridge);
  assertNothing(missing, grant);
}

/**
 * Makes the entries of a run those of another grant: what is not in it goes first, then the new comes. The bridge is
 * not touched: a run that was silenced meanwhile stays silent. Budgets count on from what was counted. `before` is the
 * grant whose entries the sets hold, or null when that has to be read from them.
 */
export async function changeGrant(
  { before, after }: { readonly before: FenceGrant | null; readonly after: FenceGrant },
  ipset: Ipset,
): Promise<void> {
  const entry: IpsetEntry = { kind: 'ip', address: after.lease.address };
  const removed: SetEntry[] = [];
  const additions: string[] = [];
  const present = before === null ? presentEntries(after, ipset) : profileEntries(before);
  const wanted = profileEntries(after);
  const presentTexts = new Set(present.map(textOf));
  const wantedTexts = new Set(wanted.map(textOf));
  removed.push(...present.filter((each) => !wantedTexts.has(textOf(each))));
  additions.push(...wanted.map(textOf).flatMap((text) => (presentTexts.has(text) ? [] : `add ${text}`)));
  // What a person decided stands as long as the question can still be asked.
  for (const set of [FENCE_SETS.approved, FENCE_SETS.refused]) {
    for (const decided of entriesOf(set, after, ipset)) {
      if (decided.kind !== 'ip,port,ip' || !coveredBy(after, decided, 'ask')) removed.push({ set, entry: decided });
    }
  }
  for (const budget of budgetsOf(after)) {
    if (budget.max === null) removed.push({ set: budget.set, entry });
    else {
      const counted = ipset.counters(budget.countedBy).get(after.lease.address);
      additions.push(budgetLine(budget, entry, counted?.[budget.unit] ?? 0n));
    }
  }
  await restore([...removed.map((each) => `del ${textOf(each)}`), ...additions]);
  assertNothing(
    [...missingOf(after, ipset), ...removed.filter((each) => isThere(each, after, ipset)).map(({ set }) => set)],
    after,
  );
}

type SetEntry = { readonly set: string; readonly entry: IpsetEntry };

function textOf({ set, entry }: SetEntry): string {
  return `${set} ${entryText(entry)}`;
}

function presentEntries(grant: FenceGrant, ipset: Ipset): SetEntry[] {
  return [FENCE_SETS.written, FENCE_SETS.ask].flatMap((set) =>
    entriesOf(set, grant, ipset).map((entry) => ({ set, entry })),
  );
}

/** The kernel finds a single address in a wider network as well; that network may be wanted. */
function isThere({ set, entry }: SetEntry, grant: FenceGrant, ipset: Ipset): boolean {
  if (!ipset.test(set, entry)) return false;
  if (entry.kind !== 'ip,port,net' || entry.prefixLength !== 32) return true;
  const { network: destination, port, protocol } = entry;
  return !coveredBy(grant, { destination, port, protocol }, set === FENCE_SETS.ask ? 'ask' : 'allow');
}

type Budget = {
  readonly set: string;
  readonly countedBy: string;
  readonly max: number | null;
  readonly unit: 'bytes' | 'packets';
};

function budgetsOf(grant: FenceGrant): readonly Budget[] {
  return [
    { set: FENCE_SETS.budget, countedBy: FENCE_SETS.egress, max: grant.egressBytesMax, unit: 'bytes' },
    { set: FENCE_SETS.ingressBudget, countedBy: FENCE_SETS.ingress, max: grant.ingressBytesMax, unit: 'bytes' },
    { set: FENCE_SETS.connectionBudget, countedBy: FENCE_SETS.connections, max: grant.connectionsMax, unit: 'packets' },
  ];
}

function budgetLine({ set, max, unit }: Budget, entry: IpsetEntry, used: bigint): string {
  const start = FENCE_BUDGET_BASE - BigInt(max ?? 0) + used;
  const other = unit === 'bytes' ? 'packets' : 'bytes';
  return `add ${set} ${entryText(entry)} ${other} 0 ${unit} ${start}`;
}

/** Every entry that the addresses of a grant make. */
export function profileEntries(grant: FenceGrant): SetEntry[] {
  return addressesOf(grant).flatMap(({ set, wanted }) => wanted.map((entry) => ({ set, entry })));
}

/** Does an address of the grant, allowed or asked about, hold this very destination? */
export function coveredBy(
  grant: Pick<FenceGrant, 'addresses'>,
  to: { readonly destination: string; readonly port: number; readonly protocol: string },
  how: 'allow' | 'ask',
): boolean {
  const value = parseIpv4(to.destination);
  if (value === null) return false;
  return grant.addresses.some(
    ({ network, prefixLength, ports, ask }) =>
      ask === (how === 'ask') &&
      contains({ network: parseIpv4(network) ?? -1, prefixLength }, value) &&
      ports.some(({ port, protocol }) => port === to.port && protocol === to.protocol),
  );
}

function addressesOf(grant: FenceGrant): readonly { readonly set: string; readonly wanted: readonly IpsetEntry[] }[] {
  const entries = (ask: boolean): IpsetEntry[] =>
    grant.addresses
      .filter((address) => address.ask === ask)
      .flatMap(({ network, prefixLength, ports }) =>
        ports.map(({ port, protocol }): IpsetEntry => ({
          kind: 'ip,port,net',
          source: grant.lease.address,
          port,
          protocol,
          network,
          prefixLength,
        })),
      );
  return [
    { set: FENCE_SETS.written, wanted: entries(false) },
    { set: FENCE_SETS.ask, wanted: entries(true) },
  ];
}

function entriesOf(set: string, grant: FenceGrant, ipset: Ipset): IpsetEntry[] {
  return ipset
    .list(set)
    .map(({ entry }) => entry)
    .filter((entry) => sourceOf(entry) === grant.lease.address);
}

function missingOf(grant: FenceGrant, ipset: Ipset): string[] {
  const entry: IpsetEntry = { kind: 'ip', address: grant.lease.address };
  return [
    ...addressesOf(grant).flatMap(({ set, wanted }) => wanted.filter((each) => !ipset.test(set, each)).map(() => set)),
    ...COUNTER_SETS.filter((set) => !ipset.test(set, entry)),
    ...budgetsOf(grant).flatMap(({ set, max }) => ((max !== null) === ipset.test(set, entry) ? [] : [set])),
  ];
}

function assertNothing(missing: readonly string[], grant: FenceGrant): void {
  if (missing.length === 0) return;
  throw fail('FENCE_FAILED', {
    detail: `the grant read back from ${missing[0] ?? ''} is not the grant given`,
    address: grant.lease.address,
    missing,
  });
}
