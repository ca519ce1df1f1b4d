/**
 * Hundreds of agents that come and go under one daemon for some minutes, a few of them bad; then everything must be as it
 * was: open files, threads and memory of the four processes, rules, sets, networks, cgroups, mounts, connections,
 * processes and files. Ends with 1 when it is not. Needs a lab with its images:
 *
 *   scripts/lab exec -- node test/bench/soak.ts [--agents 200] [--minutes 10] [--life SECONDS]
 *
 * An agent fetches a page and then sleeps, for `--life` seconds in the middle (default: as long as this machine needs to
 * start all of them). One in twenty burns its CPU budget, takes too much memory or sends a forbidden packet.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { connectClient } from '../../src/api/client.ts';
import type { Client } from '../../src/api/client.ts';
import { describeMachine, markdown, stopAfter, writeProfile } from '../support/bench.ts';
import { startDaemon } from '../support/daemon.ts';
import { measure } from '../support/soak-measures.ts';
import type { Measures } from '../support/soak-measures.ts';

const IMAGE = 'ringfence/agent-shell:local';
const LAUNCHES_AT_ONCE = 4;
const BAD_SHARE = 0.05;
const SECONDS_PER_LAUNCH = 1;
const LIFE_SECONDS_MIN = 10;
const LOOK_EVERY_MS = 15_000;
const SETTLE_MS_MAX = 120_000;
const EXTRA_MINUTES_MAX = 15;
/** What a heap may keep of its peak, and the answers of finished runs that the daemon keeps on purpose. */
const MEMORY_GROWTH_MIB_MAX = 96;
/** libuv and V8 start threads when they are first needed. */
const THREADS_MORE_MAX = 4;
/** Connections to the engine and to clients that are kept for the next call. */
const FILES_MORE_MAX = 8;

const { values } = parseArgs({
  options: {
    agents: { type: 'string', default: '200' },
    minutes: { type: 'string', default: '10' },
    life: { type: 'string' },
  },
});
const agents = Number(values.agents);
const minutes = Number(values.minutes);
const lifeSeconds = Number(values.life ?? Math.max(LIFE_SECONDS_MIN, Math.round(agents * SECONDS_PER_LAUNCH)));
const PAGE = String.raw`printf 'GET / HTTP/1.0\r\nHost: docs.example.test\r\n\r\n' | nc -w 5 docs.example.test 80`;

const stop = stopAfter(minutes + EXTRA_MINUTES_MAX);
await using daemon = await startDaemon({ config: { runsMax: agents + LAUNCHES_AT_ONCE } });
const client: Client = connectClient({ socketPath: daemon.socket });
const wall = `${lifeSeconds * 4}s`;
const good = [0.5, 1, 1.5].map((share) => goodProfile(Math.round(lifeSeconds * share)));
const bad = [
  badProfile('burn', 'while :; do :; done', { reason: 'budget.cpu', cpu: '500ms' }),
  badProfile('fill', 'tail /dev/zero', { reason: 'oom', cpu: '1m' }),
  badProfile('send', 'nc -w 5 198.51.100.77 80 < /dev/null; sleep 60', { reason: 'egress.forbidden', cpu: '1m' }),
];
type Kind = { readonly path: string; readonly reason: string };

const runIds = new Set<string>();
const endings = new Map<string, number>();
const faults: string[] = [];
const alive = new Set<string>();
let launched = 0;

process.stdout.write(`before: ${await describeMachine()}\n`);
// One of each first: what is loaded and compiled once belongs to the baseline.
for (const kind of [...good, ...bad]) await live(kind, (run) => (kind.reason === 'exited' ? client.kill(run) : null));
const before = await settled(null);
const peaks = new Map(before.counts);
await churn();
const after = await settled(before);
const failures = [...faults, ...differences(before, after)];
report(before, after, failures);
process.exitCode = failures.length === 0 && launched > 0 ? 0 : 1;

function goodProfile(seconds: number): Kind {
  const command = ['sh', '-c', `${PAGE} > /dev/null; exec sleep ${seconds}`];
  const egress = { allow: ['docs.example.test:80'] };
  const name = `soak-sleep-${seconds}`;
  return { path: writeProfile(daemon, { name, image: IMAGE, command, egress, budget: { wall } }), reason: 'exited' };
}

function badProfile(
  name: string,
  script: string,
  { reason, cpu }: { readonly reason: string; readonly cpu: string },
): Kind {
  const budget = { wall, cpu, denials: 0 };
  return {
    path: writeProfile(daemon, { name: `soak-${name}`, image: IMAGE, command: ['sh', '-c', script], budget }),
    reason,
  };
}

/** Launches, lives and ends; what it ends with is counted, and anything but what was meant is a fault. */
async function live(kind: Kind, onRunning: (run: string) => Promise<void> | null = () => null): Promise<void> {
  const text = readFileSync(kind.path, 'utf8');
  const request = { profilePath: kind.path, profileText: text, command: null, labels: {}, attach: false, tty: false };
  const { runId } = await client.launch({ ...request, stdin: false });
  runIds.add(runId);
  alive.add(runId);
  launched += 1;
  await onRunning(runId);
  const outcome = await client.wait(runId);
  alive.delete(runId);
  endings.set(outcome.reason, (endings.get(outcome.reason) ?? 0) + 1);
  const byHand = outcome.reason === 'killed' || outcome.reason === 'stopped';
  if (outcome.reason !== kind.reason && !byHand)
    faults.push(`run ${runId} was to end with ${kind.reason}: ${outcome.reason}, ${outcome.detail}`);
}

async function churn(): Promise<void> {
  const endsAt = performance.now() + minutes * 60_000;
  const over = (): boolean => stop.aborted || performance.now() >= endsAt;
  const lives = new Set<Promise<void>>();
  let launching = 0;
  let lookAt = performance.now() + LOOK_EVERY_MS;
  while (!over()) {
    while (launching < LAUNCHES_AT_ONCE && alive.size + launching < agents) {
      launching += 1;
      let isLaunching = true;
      const launchedNow = (): null => {
        if (isLaunching) launching -= 1;
        isLaunching = false;
        return null;
      };
      const life: Promise<void> = live(anyKind(), launchedNow)
        .catch((error: unknown) => void faults.push(String(error)))
        .finally(() => {
          launchedNow();
          lives.delete(life);
        });
      lives.add(life);
    }
    await delay(100);
    if (performance.now() >= lookAt) {
      lookAt = performance.now() + LOOK_EVERY_MS;
      await notePeaks();
    }
  }
  await notePeaks();
  while (lives.size > 0) {
    await Promise.all([...alive].map((run) => client.kill(run).catch(() => undefined)));
    await Promise.race([Promise.all(lives), delay(5_000)]);
  }
}

function anyKind(): Kind {
  const from = Math.random() < BAD_SHARE ? bad : good;
  const kind = from[Math.floor(Math.random() * from.length)];
  if (kind === undefined) throw new Error('there are kinds of agents');
  return kind;
}

async function notePeaks(): Promise<void> {
  const looked = await measure(daemon, (run) => runIds.has(run)).catch((error: unknown) => {
    // What is counted goes while it is counted; the looks before and after are the ones that must not fail.
    process.stderr.write(`a look failed: ${String(error)}\n`);
    return null;
  });
  if (looked === null) return;
  const { counts } = looked;
  for (const [what, count] of counts) peaks.set(what, Math.max(count, peaks.get(what) ?? 0));
  const fault = faults.at(-1) ?? 'none';
  process.stderr.write(`${alive.size} alive, ${launched} launched, ${faults.length} faults (last: ${fault})\n`);
}

/** Measured when nothing changes any more: connections of a moment, and what a removal takes. */
async function settled(baseline: Measures | null): Promise<Measures> {
  const deadline = performance.now() + SETTLE_MS_MAX;
  let last = await measure(daemon, (run) => runIds.has(run));
  for (;;) {
    await delay(2_000);
    const now = await measure(daemon, (run) => runIds.has(run));
    const still = [...now.things].toSorted().join('\n') === [...last.things].toSorted().join('\n');
    if (performance.now() > deadline) return now;
    if (still && (baseline === null || differences(baseline, now).length === 0)) return now;
    last = now;
  }
}

function differences(from: Measures, to: Measures): readonly string[] {
  const left = [...to.things].filter((thing) => !from.things.has(thing)).map((thing) => `left behind: ${thing}`);
  const grown = [...to.counts].flatMap(([what, count]) => {
    const was = from.counts.get(what) ?? 0;
    return count - was > allowance(what) ? [`${what}: ${was} before, ${count} after`] : [];
  });
  const gone = [...from.things].filter((thing) => /^(?:ip6?tables|routing rule) /.test(thing) && !to.things.has(thing));
  return [...left, ...grown, ...gone.map((thing) => `gone: ${thing}`)];
}

function allowance(what: string): number {
  if (what.endsWith('MiB')) return MEMORY_GROWTH_MIB_MAX;
  if (what.endsWith('threads')) return THREADS_MORE_MAX;
  return what.endsWith('open files') ? FILES_MORE_MAX : 0;
}

function report(from: Measures, to: Measures, failed: readonly string[]): void {
  const rows = [...from.counts].map(([what, count]) => [what, count, peaks.get(what) ?? 0, to.counts.get(what) ?? 0]);
  const how = [...endings].map(([reason, count]) => `${reason} ${count}`).join(', ');
  process.stdout.write(`${agents} agents at once for ${minutes} minutes, ${launched} launched; ended with: ${how}\n\n`);
  process.stdout.write(
    `${markdown(
      ['', 'before', 'most', 'after'],
      rows.map((row) => row.map(String)),
    )}\n\n`,
  );
  if (stop.aborted) process.stdout.write(`${String(stop.reason)}\n`);
  process.stdout.write(failed.length === 0 ? 'nothing is left behind\n' : `${failed.join('\n')}\n`);
}
