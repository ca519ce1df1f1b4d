import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Incident, IncidentSummary, RunDetail, RunView } from '../../src/api/service.ts';
import type { Outcome } from '../../src/core/outcome.ts';
import { startDaemon, type TestDaemon } from '../support/daemon.ts';
import { lab } from '../support/lab.ts';
import { ROUTING_KEY, startPagerDuty, type PagerDutyReceiver } from '../support/pagerduty-receiver.ts';
import { startReceiver, type Receiver } from '../support/receiver.ts';
import { until } from '../support/until.ts';

/** From a breach of a real agent to three receivers of different kinds, also across the death of the daemon. */
const FACT_MS_MAX = 30_000;
const folder = mkdtempSync(`${lab.scratch}/alerts-`);
const heard = `${folder}/heard`;
const receivers: AsyncDisposable[] = [];
let webhook: Receiver;
let pager: PagerDutyReceiver;
let daemon: TestDaemon;

const secretFile = (name: string, text: string): string => {
  writeFileSync(`${folder}/${name}`, `${text}\n`, { mode: 0o600 });
  return `${folder}/${name}`;
};

beforeAll(async () => {
  webhook = await startReceiver();
  pager = await startPagerDuty();
  receivers.push(webhook, pager);
  // A line for each alert, written in one go.
  const script = `#!/bin/sh\nbody=$(cat)\nprintf '%s %s %s\\n' "$RINGFENCE_TYPE" "$RINGFENCE_KEY" "\${#body}" >>${heard}\n`;
  writeFileSync(`${folder}/on-alert`, script, { mode: 0o755 });
  writeFileSync(heard, '');
  const sinks = {
    hook: {
      type: 'webhook',
      url: webhook.url,
      secretFiles: [secretFile('hook.key', webhook.secret)],
      allowPrivate: true,
    },
    pager: {
      type: 'pagerduty',
      url: pager.url,
      routingKeyFile: secretFile('pager.key', ROUTING_KEY),
      allowPrivate: true,
    },
    script: { type: 'exec', command: [`${folder}/on-alert`] },
  };
  daemon = await startDaemon({ config: { sinks } });
});
afterEach(async () => {
  await until('every run is over', async () => (await json<readonly RunView[]>('ps')).length === 0, {
    deadlineMs: FACT_MS_MAX,
  });
});
afterAll(async () => {
  await daemon.close();
  for (const each of receivers) await each[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

async function json<T>(...args: readonly string[]): Promise<T> {
  const { stdout, stderr, exitCode } = await daemon.cli([...args, '--json']);
  if (exitCode !== 0 && exitCode !== 124) throw new Error(`ringfence ${args.join(' ')}: ${exitCode}: ${stderr}`);
  return JSON.parse(stdout) as T;
}

function profile(name: string, more: Readonly<Record<string, unknown>> = {}): string {
  const path = `${folder}/${name}.yaml`;
  const text = {
    apiVersion: 'ringfence/v1',
    name,
    image: 'ringfence/agent-shell:local',
    command: ['sleep', '60'],
    limits: { cpu: 1, memory: '64MiB', pids: 16 },
    budget: { wall: '2s' },
    egress: {},
    on: { quarantine: true },
    alerts: ['hook', 'pager', 'script'],
    ...more,
  };
  writeFileSync(path, JSON.stringify(text));
  return path;
}

const hooksOf = (id: string): readonly { readonly type: string; readonly at: string; readonly id: string }[] =>
  webhook.deliveries
    .filter(({ body }) => body.includes(id))
    .map((delivery) => ({ ...(JSON.parse(delivery.body) as { type: string }), at: delivery.at, id: delivery.id }));
const heardOf = (id: string): readonly string[] =>
  readFileSync(heard, 'utf8')
    .split('\n')
    .filter((line) => line.includes(id))
    .map((line) => line.split(' ')[0] ?? '');
const askedOfPager = (id: string): readonly string[] =>
  pager.requests
    .map((request) => request.json as { readonly event_action: string; readonly dedup_key: string })
    .filter((event) => event.dedup_key === id)
    .map((event) => event.event_action);

test('a breach reaches every sink of its profile, and so does its end', async () => {
  const { incidentId } = await json<Outcome>('run', profile('three-sinks'));
  const id = incidentId ?? '';
  await until('all three have heard', () => hooksOf(id).length + askedOfPager(id).length + heardOf(id).length === 3, {
    deadlineMs: FACT_MS_MAX,
  });
  const incident = await json<Incident>('incident', id);
  const [opened] = hooksOf(id);
  const [delivery] = webhook.deliveries.filter((each) => each.id === id);
  expect(delivery).toMatchObject({ verified: true, refusal: null });
  expect(JSON.parse(delivery?.body ?? '{}')).toMatchObject({
    type: 'incident.opened',
    data: { id, what: incident.what },
  });
  expect(Date.parse(opened?.at ?? '')).toBeGreaterThan(Date.parse(incident.times.emptyAt ?? ''));
  expect(pager.alerts.get(id)).toBe('triggered');

  await json('release', 'three-sinks');
  await until('all three have heard of its end', () => heardOf(id).length === 3 && askedOfPager(id).length === 3, {
    deadlineMs: FACT_MS_MAX,
  });
  await until('so has the webhook', () => hooksOf(id).length === 3, { deadlineMs: FACT_MS_MAX });
  expect(hooksOf(id).map(({ type }) => type)).toEqual(['incident.opened', 'incident.released', 'incident.resolved']);
  expect(askedOfPager(id)).toEqual(['trigger', 'acknowledge', 'resolve']);
  expect(heardOf(id)).toEqual(['incident.opened', 'incident.released', 'incident.resolved']);
  expect(pager.alerts.get(id)).toBe('resolved');
});

test('killed between the kill and the sending, the daemon sends after its start, once', async () => {
  // Nobody takes it before the daemon is dead, so what comes then comes from the disk.
  webhook.answerNext({ status: 503 }, { status: 503 }, { status: 503 }, { status: 503 }, { status: 503 });
  const { incidentId } = await json<Outcome>('run', profile('killed', { alerts: ['hook'] }));
  const id = incidentId ?? '';
  await daemon.crash();
  const before = hooksOf(id).length;
  await daemon.start();
  const taken = (): number => webhook.deliveries.filter((each) => each.id === id && each.answered === 204).length;
  await until('it was taken', () => taken() > 0, { deadlineMs: FACT_MS_MAX });
  await until(
    'nothing waits',
    async () => (await json<{ waiting: readonly unknown[] }>('alerts', 'ls')).waiting.length === 0,
    {
      deadlineMs: FACT_MS_MAX,
    },
  );
  expect({ taken: taken(), sentBefore: before <= 5 }).toEqual({ taken: 1, sentBefore: true });
  expect(await json<readonly IncidentSummary[]>('incidents')).toEqual(
    expect.arrayContaining([expect.objectContaining({ id, quarantined: true })]),
  );
});

test('a breach that the daemon never read is the incident that it would have been', async () => {
  const { runId } = await json<RunView>(
    'run',
    '--detach',
    profile('unread', { budget: { wall: '6s' }, alerts: ['hook'] }),
  );
  const { pid } = await until(
    'it runs',
    async () => {
      const run = await json<RunDetail>('inspect', runId);
      return run.phase === 'running' && run.pid !== null ? { pid: run.pid } : null;
    },
    { deadlineMs: FACT_MS_MAX },
  );
  // It stands still while the warden kills, and reads nothing of it any more.
  process.kill(daemon.pid, 'SIGSTOP');
  await until('the agent is dead', () => !isAlive(pid), { deadlineMs: FACT_MS_MAX });
  await daemon.crash();
  await daemon.start();
  const outcome = await json<Outcome>('wait', runId);
  expect(outcome).toMatchObject({ reason: 'budget.wall', rule: 'budget.wall' });
  const id = outcome.incidentId ?? '';
  const incident = await json<Incident>('incident', id);
  expect(incident.evidence.alsoBreached).toEqual([]);
  await until('the receiver has it', () => hooksOf(id).length > 0, { deadlineMs: FACT_MS_MAX });
  expect(hooksOf(id).map(({ type }) => type)).toEqual(['incident.opened']);
});

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
