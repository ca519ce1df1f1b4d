import { describe, expect, it } from 'vitest';
import { newsOf } from '../kernel/links.ts';
import type { LinkFacts, LinkNews } from '../kernel/links.ts';
import { attribute, nested, textAttribute } from '../kernel/netlink.ts';
import { createForeignLinks } from './foreign-links.ts';

const NAMES: Readonly<Record<number, string>> = { 2: 'docker0', 3: 'rf-one', 4: 'rf-two', 5: 'br-other' };

/** Runs on `rf-one` and `rf-two`; what is removed, and which runs are told of. */
function world(batches: readonly (readonly LinkNews[])[], dead: readonly string[] = []) {
  const removed: number[] = [];
  const foreign: string[] = [];
  const waiting = [...batches];
  const runs = new Set(['rf-one', 'rf-two']);
  const links = createForeignLinks({
    links: {
      fd: -1,
      read: () => [...(waiting.shift() ?? [])],
      remove: (index) => {
        removed.push(index);
        return true;
      },
      close: () => undefined,
    },
    isOfRun: (bridge) => runs.has(bridge),
    isOfLivingRun: (bridge) => runs.has(bridge) && !dead.includes(bridge),
    complain: () => undefined,
    nameOf: (index) => NAMES[index] ?? null,
  });
  const told = (bridge: string): void => void foreign.push(bridge);
  return { removed, foreign, runs, read: () => links.read(told), lookAgain: () => links.lookAgain(told) };
}

const veth = (index: number, master: number | null, peerNamespace: number | null): LinkNews & LinkFacts => ({
  kind: 'link',
  index,
  linkKind: 'veth',
  master,
  peerNamespace,
});
const gone = (index: number, linkKind: string, movedTo: number | null): LinkNews => ({
  kind: 'gone',
  index,
  linkKind,
  movedTo,
});
const OWN = veth(10, 3, 7);

describe('a second road of a run', () => {
  const cases: readonly (readonly [string, readonly LinkNews[], readonly number[], readonly string[]])[] = [
    ['its own port is none', [OWN, veth(11, 4, 8), OWN], [], []],
    ['a port of another bridge is removed', [OWN, veth(20, 2, 7)], [20], ['rf-one']],
    ['so is one of another run’s bridge, which is its own of nobody else', [OWN, veth(20, 5, 7)], [20], ['rf-one']],
    ['so is one without a bridge', [OWN, veth(20, null, 7)], [20], ['rf-one']],
    ['a port of a container of somebody else is left alone', [OWN, veth(20, 2, 9)], [], []],
    ['a pair that lies here whole is left alone', [OWN, veth(20, 2, null)], [], []],
    ['its own port may be gone by then', [OWN, gone(10, 'veth', null), veth(20, 2, 7)], [20], ['rf-one']],
    ['a device that is no pair is told of', [OWN, gone(30, 'macvlan', 7)], [], ['rf-one']],
    ['the end that is moved into it is not', [OWN, gone(31, 'veth', 7)], [], []],
    ['a device that goes elsewhere is not', [OWN, gone(30, 'macvlan', 9), gone(32, 'macvlan', null)], [], []],
    ['what is known is known after a loss', [OWN, { kind: 'reset' }, veth(20, 2, 7)], [20], ['rf-one']],
  ];
  it.each(cases)('%s', (_, news, removed, foreign) => {
    const host = world([news]);
    host.read();
    expect({ removed: host.removed, foreign: host.foreign }).toEqual({ removed, foreign });
  });

  it('is found when it was there before the run was known', () => {
    const host = world([[veth(20, 2, 7), OWN]]);
    host.runs.delete('rf-one');
    host.read();
    expect(host.removed).toEqual([]);
    host.runs.add('rf-one');
    host.lookAgain();
    expect({ removed: host.removed, foreign: host.foreign }).toEqual({ removed: [20], foreign: ['rf-one'] });
  });

  it('is none when the run has no process: the number may mean another namespace by then', () => {
    const host = world([[OWN, veth(20, 2, 7)]], ['rf-one']);
    host.read();
    expect({ removed: host.removed, foreign: host.foreign }).toEqual({ removed: [], foreign: [] });
  });
});

describe('the news of the kernel', () => {
  const message = (type: number, attributes: readonly Buffer[], family = 0): { type: number; body: Buffer } => {
    const header = Buffer.alloc(16);
    header.writeUInt8(family, 0);
    header.writeInt32LE(20, 4);
    return { type, body: Buffer.concat([header, ...attributes]) };
  };
  const number = (type: number, value: number): Buffer => {
    const payload = Buffer.alloc(4);
    payload.writeInt32LE(value, 0);
    return attribute(type, payload);
  };
  const kind = nested(18, [textAttribute(1, 'veth')]);

  it('is read by its attributes', () => {
    expect(newsOf(message(16, [number(10, 2), number(37, 7), kind]))).toEqual([veth(20, 2, 7)]);
    expect(newsOf(message(16, []))).toEqual([{ ...veth(20, null, null), linkKind: '' }]);
    expect(newsOf(message(17, [number(45, 7), kind]))).toEqual([gone(20, 'veth', 7)]);
  });

  it('is left out when it is a bridge’s, of another kind, or torn', () => {
    expect(newsOf(message(16, [number(10, 2)], 7))).toEqual([]);
    expect(newsOf(message(24, []))).toEqual([]);
    expect(newsOf({ type: 16, body: Buffer.alloc(8) })).toEqual([]);
    expect(newsOf(message(16, [Buffer.from([200, 0, 10, 0])]))).toEqual([{ ...veth(20, null, null), linkKind: '' }]);
  });
});
