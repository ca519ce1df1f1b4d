import { expect, it } from 'vitest';
import { FENCE_PREFIXES } from '../core/fence-names.ts';
import type { NflogPacket } from '../kernel/nflog.ts';
import { createRefusals } from './refusals.ts';

const AT = { utc: '2026-01-01T00:00:00.000Z', nowMs: 0 };

function packet(prefix: string, more: Partial<NonNullable<NflogPacket['packet']>> = {}): NflogPacket {
  return {
    prefix,
    sequence: 0,
    packet: {
      family: 4,
      source: '10.213.0.2',
      destination: '198.51.100.9',
      protocol: 'tcp',
      sourcePort: 40_000,
      destinationPort: 22,
      ...more,
    },
    inputDevice: 3,
    outputDevice: null,
    uid: null,
  };
}

it('takes a packet that is sent again for one attempt, and every forged one for its own', () => {
  const kindsOf = (prefix: string): unknown[] => {
    const refusals = createRefusals();
    return [0, 1, 2].map(() => refusals.ofPacket(packet(prefix), AT)?.kind ?? null);
  };
  expect([kindsOf(FENCE_PREFIXES.deny), kindsOf(FENCE_PREFIXES.spoof)]).toEqual([
    ['refused', null, null],
    ['refused', 'refused', 'refused'],
  ]);
});

it('asks about what waits, where there is something to ask', () => {
  const refusals = createRefusals();
  expect([
    refusals.ofPacket(packet(FENCE_PREFIXES.ask), AT),
    refusals.ofPacket(packet(FENCE_PREFIXES.ask), AT),
    refusals.ofPacket(packet(FENCE_PREFIXES.ask, { protocol: 'icmp', destinationPort: null }), AT),
    refusals.ofPacket({ ...packet(FENCE_PREFIXES.ask), packet: null }, AT),
    refusals.total,
  ]).toEqual([{ kind: 'waits', address: '198.51.100.9', port: 22, protocol: 'tcp' }, null, null, null, 0]);
});

it('keeps a cut-off until the budget is another, and counts refused attempts once for the next judgement', () => {
  const refusals = createRefusals();
  for (const prefix of [FENCE_PREFIXES.ingress, FENCE_PREFIXES.connections, FENCE_PREFIXES.deny]) {
    const news = refusals.ofPacket(packet(prefix), AT);
    if (news?.kind === 'refused') refusals.note(news.denial, prefix === FENCE_PREFIXES.deny ? 4 : 1);
  }
  expect(refusals.unjudged).toMatchObject({ cutOff: ['ingress', 'connections'], newDenials: 4 });
  refusals.judged();
  refusals.forgetCutOff(['connections', 'cpu']);
  expect(refusals.unjudged).toMatchObject({ cutOff: ['ingress'], newDenials: 0, lastDenial: { rule: 'egress' } });
  expect(refusals.total).toBe(4);
});
