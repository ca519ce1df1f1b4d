import { expect, test } from 'vitest';
import type { OpenRun } from '../ledger/replay.ts';
import { LABEL_RUN } from '../run/plan.ts';
import { reconcile, type Found, type Reconciled } from './reconcile.ts';

/** The table of docs/recovery.md, line by line. */
const RUN = 'r00000000run0';
const LABELS = { [LABEL_RUN]: RUN };
const CONTAINER = { id: 'c1', name: 'ringfence-probe-r00000000run0', state: 'running', labels: LABELS };
const NETWORK = {
  id: 'n1',
  name: 'ringfence-r00000000run0',
  bridge: 'rf-00000000',
  subnet: '10.213.0.0/30',
  labels: LABELS,
  containerIds: [],
};
const OPEN: OpenRun = {
  runId: RUN,
  profile: 'probe',
  admittedAt: '2026-10-05T08:00:00.000Z',
  admission: { kind: 'run.admitted', seq: 1, at: '2026-10-05T08:00:00.000Z', prev: '' },
  launchDigest: null,
  containerId: 'c1',
  startedAtMs: 1,
  bootId: null,
  breach: null,
  denialsOnRecord: 0,
  incidentId: null,
};
const EVERYTHING = { containers: [CONTAINER], networks: [NETWORK], cgroupRunIds: [RUN] };
const NOTHING: Reconciled = { containerIds: [], networkIds: [], cgroupRunIds: [], ended: [], foreign: [] };
const known = new Set([RUN]);
const unknown = new Set<string>();

const TABLE: readonly (readonly [what: string, found: Found, todo: Partial<Reconciled>])[] = [
  [
    'of a run that this daemon holds: everything is kept',
    { ...EVERYTHING, open: [OPEN], admittedRunIds: known, aliveRunIds: known },
    {},
  ],
  [
    'of an open run that could not be taken over: everything goes, and the run ends',
    { ...EVERYTHING, open: [OPEN], admittedRunIds: known, aliveRunIds: unknown },
    { containerIds: ['c1'], networkIds: ['n1'], cgroupRunIds: [RUN], ended: [OPEN] },
  ],
  [
    'of a run that is open and has left nothing: the run ends',
    { containers: [], networks: [], cgroupRunIds: [], open: [OPEN], admittedRunIds: known, aliveRunIds: unknown },
    { ended: [OPEN] },
  ],
  [
    'of a launch that was cut short before its container: what there is goes, and the run ends',
    { ...EVERYTHING, containers: [], open: [OPEN], admittedRunIds: known, aliveRunIds: unknown },
    { networkIds: ['n1'], cgroupRunIds: [RUN], ended: [OPEN] },
  ],
  [
    'of a run that has ended: everything goes, and it does not end again',
    { ...EVERYTHING, open: [], admittedRunIds: known, aliveRunIds: unknown },
    { containerIds: ['c1'], networkIds: ['n1'], cgroupRunIds: [RUN] },
  ],
  [
    'with our label, of a run that this ledger never admitted: said, and left alone',
    { ...EVERYTHING, open: [], admittedRunIds: unknown, aliveRunIds: unknown },
    { foreign: [`container ${CONTAINER.name}`, `network ${NETWORK.name}`] },
  ],
  [
    'of an admission that is not in the list of admitted runs yet, and is held: kept, and not foreign',
    { ...EVERYTHING, open: [], admittedRunIds: unknown, aliveRunIds: known },
    {},
  ],
  [
    'with a label of ours that names no run: said, and left alone',
    {
      containers: [{ ...CONTAINER, labels: { 'ringfence.profile': 'probe' } }],
      networks: [],
      cgroupRunIds: [],
      open: [],
      admittedRunIds: known,
      aliveRunIds: unknown,
    },
    { foreign: [`container ${CONTAINER.name}`] },
  ],
];

test.each(TABLE)('what is found %s', (_what, found, todo) => {
  expect(reconcile(found)).toEqual({ ...NOTHING, ...todo });
});
