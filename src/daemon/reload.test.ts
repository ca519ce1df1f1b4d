import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import type { Caller, ReloadReport } from '../api/service.ts';
import { fail, RingfenceError } from '../core/errors.ts';
import type { RecordDraft } from '../core/ports/record.ts';
import { parseProfile } from '../profile/parse.ts';
import { resolveProfile } from '../profile/resolve.ts';
import type { Spec } from '../profile/spec.ts';
import type { Driver } from '../run/driver.ts';
import { initialState, type RunPhase } from '../run/state.ts';
import { digestOf } from './profile-file.ts';
import { reloadProfile } from './reload.ts';
import { RunTable } from './run-table.ts';

const ME: Caller = { uid: process.getuid?.() ?? 0, gid: 0, pid: 1 };
const OTHER: Caller = { uid: 54_321, gid: 54_321, pid: 2 };
const ROOT: Caller = { uid: 0, gid: 0, pid: 3 };
const folder = mkdtempSync(join(tmpdir(), 'reload-'));
afterAll(() => rmSync(folder, { recursive: true }));
const FILE = join(folder, 'probe.yaml');

const TEXT = `apiVersion: ringfence/v1
name: probe
image: ringfence/agent-shell:local
command: any
limits: { cpu: 0.5, memory: 64MiB, pids: 16 }
budget: { wall: 1m }
egress: { allow: [a.example.com] }
`;

function specFrom(text: string): Spec {
  const parsed = parseProfile({ text, file: FILE });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  const resolved = resolveProfile({ parsed, digest: digestOf(text), folder });
  if (!resolved.ok) throw new Error(JSON.stringify(resolved.problems));
  return { ...resolved.spec, command: ['/bin/agent'] };
}

/** Runs of the profile, and what they were told. */
class Host {
  readonly table = new RunTable();
  readonly changed: { readonly runId: string; readonly spec: Spec; readonly draft: RecordDraft }[] = [];

  add(
    runId: string,
    options: {
      readonly caller?: Caller;
      readonly phase?: RunPhase;
      readonly path?: string;
      readonly fails?: Error;
    } = {},
  ): this {
    const { caller = ME, phase = 'running', path = FILE, fails } = options;
    const spec = specFrom(TEXT);
    const state = { ...initialState({ runId, spec, imageDigest: null }), phase };
    const driver = {
      state,
      change: async (to: Spec, draft: RecordDraft) => {
        if (fails !== undefined) throw fails;
        this.changed.push({ runId, spec: to, draft });
      },
    };
    this.table.add({
      driver: driver as unknown as Driver,
      spec,
      profilePath: path,
      labels: {},
      caller,
      admittedAt: '2026-01-01T00:00:00.000Z',
      admittedSeq: 1,
      denialsByDestination: new Map(),
    });
    return this;
  }

  async reload(text: string, caller: Caller = ME): Promise<ReloadReport> {
    writeFileSync(FILE, text, { mode: 0o644 });
    return await reloadProfile({ profilePath: FILE, profileText: text }, caller, {
      admission: {
        engineFacts: { cpus: 2, memoryBytes: 2 ** 31 } as never,
        sinkNames: new Set<string>(),
      },
      table: this.table,
      approvals: { whileChanging: (_, change) => change() },
    });
  }

  async refusal(text: string, caller: Caller = ME): Promise<RingfenceError> {
    const error: unknown = await this.reload(text, caller).then(
      () => null,
      (thrown: unknown) => thrown,
    );
    if (!(error instanceof RingfenceError)) throw new Error(`not refused: ${String(error)}`);
    return error;
  }
}

const WIDER = TEXT.replace('a.example.com', 'a.example.com, b.example.com');

test('tells every run of the file the new profile, with the command of its own caller and the whole text', async () => {
  const host = new Host()
    .add('r000000000001')
    .add('r000000000002')
    .add('r000000000003', { path: join(folder, 'x') });
  const report = await host.reload(WIDER);
  expect(report.profileDigest).toBe(digestOf(WIDER));
  expect(report.runs.map(({ runId }) => runId)).toEqual(['r000000000001', 'r000000000002']);
  const [first] = host.changed;
  expect(first?.spec).toMatchObject({ command: ['/bin/agent'], profileDigest: digestOf(WIDER) });
  expect(first?.draft).toEqual({
    kind: 'run.changed',
    runId: 'r000000000001',
    profile: 'probe',
    fromDigest: digestOf(TEXT),
    toDigest: digestOf(WIDER),
    profilePath: FILE,
    profileText: WIDER,
    caller: ME,
    changes: ['egress.allow: added b.example.com (wider)'],
  });
});

test('changes the digest although only a comment changed, and nothing when nothing did', async () => {
  const host = new Host().add('r000000000001');
  expect((await host.reload(TEXT)).runs).toEqual([{ runId: 'r000000000001', fromDigest: digestOf(TEXT), changes: [] }]);
  expect(host.changed).toEqual([]);
  await host.reload(`# a comment\n${TEXT}`);
  expect(host.changed.map(({ draft }) => draft['changes'])).toEqual([[]]);
});

test.each([
  ['image', 'image: ringfence/agent-shell:local', 'image: other:1', '3:8 image'],
  ['command', 'command: any', 'command: [/bin/true]', '4:10 command'],
  ['memory', '64MiB', '65MiB', '5:29 limits.memory'],
  ['pids', 'pids: 16', 'pids: 17', '5:42 limits.pids'],
  ['user', 'image:', 'user: 20000\nimage:', '3:7 user'],
  ['env', 'image:', 'env: { A: b }\nimage:', '3:11 env.A'],
  ['mounts', 'image:', 'mounts: [{ host: ./w, path: /w }]\nimage:', '3:9 mounts'],
])('refuses for all runs what only a new launch can change: %s', async (_, from, to, place) => {
  const host = new Host().add('r000000000001').add('r000000000002');
  const { code, facts } = await host.refusal(WIDER.replace(from, to));
  expect(code).toBe('RELOAD_NEEDS_RESTART');
  expect(facts.problems?.map(({ line, column, path }) => `${line}:${column} ${path}`)).toEqual([place]);
  expect(host.changed).toEqual([]);
});

test.each([
  ['budget', 'wall: 1m', 'wall: 2m, cpu: 10s, denials: 5/1m'],
  ['actions', 'budget:', 'on: { budget.wall: stop, grace: 9s, quarantine: true, supervisor.lost: kill }\nbudget:'],
  ['owner', 'image:', 'owner: b@example.com\nimage:'],
  ['description', 'image:', 'description: Other.\nimage:'],
  ['warnings', 'image:', 'warnAt: [50%]\nimage:'],
  ['egress that asks', 'allow: [a.example.com]', 'ask: [a.example.com]'],
])('changes without a restart: %s', async (_, from, to) => {
  const host = new Host().add('r000000000001');
  const [run] = (await host.reload(TEXT.replace(from, to))).runs;
  expect(run?.changes.length).toBeGreaterThan(0);
  expect(host.changed).toHaveLength(1);
});

test.each<readonly [what: string, host: Host, text: string, code: string, says: string]>([
  [
    'a profile with an error',
    new Host().add('r000000000001'),
    TEXT.replace('pids: 16', 'pids: -1'),
    'PROFILE_INVALID',
    '',
  ],
  [
    'a bound that the host does not have',
    new Host().add('r000000000001'),
    TEXT.replace('0.5', '64'),
    'HOST_CANNOT_ENFORCE',
    '',
  ],
  ['no run at all', new Host(), WIDER, 'RUN_NOT_FOUND', 'no run of probe that was launched from'],
  [
    'another name',
    new Host().add('r000000000001'),
    WIDER.replace('name: probe', 'name: prober'),
    'RUN_NOT_FOUND',
    'is called prober now',
  ],
  [
    'another file',
    new Host().add('r000000000001', { path: '/x.yaml' }),
    WIDER,
    'RUN_NOT_FOUND',
    'run r000000000001 is of another file',
  ],
  [
    'a launch under way',
    new Host().add('r000000000001', { phase: 'preparing' }),
    WIDER,
    'RUN_NOT_RUNNING',
    'still being launched',
  ],
])('is refused for %s', async (_, host, text, code, says) => {
  const refused = await host.refusal(text);
  expect({ code: refused.code, says: refused.message.includes(says) }).toEqual({ code, says: true });
  expect(host.changed).toEqual([]);
});

test('is for who launched the runs, and for root', async () => {
  writeFileSync(FILE, WIDER, { mode: 0o644 });
  const host = new Host().add('r000000000001', { caller: OTHER });
  const isRoot = ME.uid === 0;
  if (!isRoot) expect((await host.refusal(WIDER)).code).toBe('FORBIDDEN');
  const stranger = { ...OTHER, uid: OTHER.uid + 1 };
  const refused = await host.refusal(WIDER, isRoot ? stranger : ME);
  expect(refused.code).toBe('FORBIDDEN');
  await host.reload(WIDER, isRoot ? ROOT : OTHER);
  expect(host.changed).toHaveLength(1);
});

test('says which run could not be changed, and how many were', async () => {
  const fails = fail('RUN_OVER', { detail: 'run r000000000002 ended while it was being changed' });
  const host = new Host().add('r000000000001').add('r000000000002', { fails });
  expect(await host.refusal(WIDER)).toMatchObject({
    code: 'RUN_OVER',
    message: 'run r000000000002 ended while it was being changed; 1 of 2 runs were changed',
  });
});
