import { expect, test } from 'vitest';
import type { FenceDestination } from '../core/ports/fence.ts';
import type { RecordDraft } from '../core/ports/record.ts';
import { KnownSecrets } from './known-secrets.ts';
import { TrafficDesk } from './traffic-desk.ts';

const AT = '2026-10-05T08:00:00.000Z';
const SILENT = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const site: FenceDestination = { address: '192.0.2.40', port: 443, protocol: 'tcp', egressBytes: 900, packets: 9 };

function deskOf(destinations: () => Promise<readonly FenceDestination[]>) {
  const drafts: RecordDraft[] = [];
  const secrets = new KnownSecrets();
  const desk = new TrafficDesk({
    fence: { destinations },
    ledger: {
      append: (draft) => {
        drafts.push(draft);
        return { seq: drafts.length, hash: '', flushed: Promise.resolve() };
      },
    },
    secrets,
    log: SILENT,
    runAt: (address) => (address === '10.213.0.2' ? 'r1' : null),
    nowIso: () => AT,
  });
  return { desk, drafts, secrets };
}

test('records for each destination what moved, and nothing when nothing did', async () => {
  const { desk, drafts } = deskOf(async () => [site]);
  desk.begin('r1', 'rome');
  await desk.lookAtAll();
  await desk.lookAtAll();
  expect(drafts).toMatchObject([
    { kind: 'egress.allowed', runId: 'r1', profile: 'rome', destination: '192.0.2.40', egressBytes: 900, toAt: AT },
  ]);
});

test('names come with their run, without its secrets, and bounded', async () => {
  const { desk, drafts, secrets } = deskOf(async () => []);
  secrets.learn('r1', [{ fileName: 'API_KEY', value: Buffer.from('canary0123456789') }]);
  desk.begin('r1', 'rome');
  const passed = { port: 443, connections: 1, egressBytes: 10, ingressBytes: 20 };
  desk.passed({ ...passed, address: '10.213.0.2', name: 'canary0123456789.example.com' });
  desk.passed({ ...passed, address: '10.213.0.66', name: 'nobody.example.com' });
  for (let count = 0; count < 500; count += 1)
    desk.passed({ ...passed, address: '10.213.0.2', name: `n${count}.example.com` });
  await desk.look('r1');
  expect(drafts.length).toBe(64);
  expect(JSON.stringify(drafts)).not.toContain('canary');
  expect(drafts.reduce((sum, draft) => sum + Number(draft['connections']), 0)).toBe(501);
});

test('a fence that cannot tell leaves what is known, and the names for the next look', async () => {
  let fails = false;
  const { desk, drafts } = deskOf(() => (fails ? Promise.reject(new Error('no')) : Promise.resolve([site])));
  desk.begin('r1', 'rome');
  const before = await desk.look('r1');
  fails = true;
  desk.passed({
    address: '10.213.0.2',
    name: 'a.example.com',
    port: 443,
    connections: 1,
    egressBytes: 1,
    ingressBytes: 1,
  });
  expect(await desk.look('r1')).toEqual(before);
  fails = false;
  await desk.look('r1');
  expect(drafts.map((draft) => draft['destination'])).toEqual(['192.0.2.40', 'a.example.com']);
  desk.forget('r1');
  expect(await desk.look('r1')).toEqual([]);
});
