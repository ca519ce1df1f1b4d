/**
 * What Ringfence adds to a launch: `ringfence run` of /bin/true beside `docker run --rm` of the same image, in turns on
 * the same engine, and where the daemon's share of the time goes. Needs a lab with its images:
 *
 *   scripts/lab exec -- node test/bench/launch.ts [pairs]
 *
 * Each side starts its own command-line program, waits for the end and has removed everything when its clock stops.
 */
import { startDaemon, type TestDaemon } from '../support/daemon.ts';
import { describeMachine, ledgerLines, median, writeProfile } from '../support/bench.ts';
import { docker } from '../support/lab.ts';

const IMAGE = 'ringfence/agent-shell:local';
const pairs = Number(process.argv[2] ?? 10);
const STAGES = [
  ['run.admitted', 'run.started', 'admitted → started'],
  ['run.started', 'run.verified', 'started → verified'],
  ['run.verified', 'run.ended', 'verified → ended'],
  ['run.ended', 'run.cleaned', 'ended → cleaned'],
] as const;

await using daemon = await startDaemon();
const profile = writeProfile(daemon, {
  name: 'bench-true',
  image: IMAGE,
  command: ['/bin/true'],
  budget: { wall: '1m' },
});

// One of each first: caches of the engine and of the file system are not what is measured.
await ringfenceRun();
await dockerRun();
const columns: Record<'ringfence' | 'docker', number[]> = { ringfence: [], docker: [] };
const fromSeq = ledgerLines(daemon).length;
for (let pair = 0; pair < pairs; pair += 1) {
  const first = pair % 2 === 0;
  if (first) columns.ringfence.push(await timed(ringfenceRun));
  columns.docker.push(await timed(dockerRun));
  if (!first) columns.ringfence.push(await timed(ringfenceRun));
}

print(await describeMachine());
print(`${pairs} pairs in turns, /bin/true; milliseconds`);
row('ringfence run', columns.ringfence);
row('docker run --rm', columns.docker);
print(`ratio of medians: ${(median(columns.ringfence) / median(columns.docker)).toFixed(2)}`);
print('');
print('of which, by the ledger:');
for (const [stage, values] of stages(daemon)) row(stage, values);
const starts: number[] = [];
for (let count = 0; count < pairs; count += 1) starts.push(await timed(async () => void (await daemon.cli(['ps']))));
row('for comparison: `ringfence ps`', starts);
const networks: number[] = [];
for (let count = 0; count < pairs; count += 1) networks.push(await timed(dockerRunWithNetwork));
row('docker, a network for each run', networks);

async function ringfenceRun(): Promise<void> {
  const { exitCode, stderr } = await daemon.cli(['run', profile]);
  if (exitCode !== 0) throw new Error(`ringfence run ended with ${exitCode}: ${stderr}`);
}

async function dockerRun(): Promise<void> {
  await docker('run', '--rm', IMAGE, '/bin/true');
}

/** What the engine takes when each run has a bridge of its own, as ours have; three commands, each with its start. */
async function dockerRunWithNetwork(): Promise<void> {
  await docker('network', 'create', 'bench-own');
  try {
    await docker('run', '--rm', '--init', '--network', 'bench-own', IMAGE, '/bin/true');
  } finally {
    await docker('network', 'rm', 'bench-own');
  }
}

async function timed(work: () => Promise<void>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

function stages(of: TestDaemon): ReadonlyMap<string, readonly number[]> {
  const times = new Map<string, Map<string, number>>();
  for (const { runId, kind, at } of ledgerLines(of).slice(fromSeq)) {
    if (runId === undefined) continue;
    const run = times.get(runId) ?? new Map<string, number>();
    times.set(runId, run.set(kind, Date.parse(at)));
  }
  const spans = new Map<string, number[]>();
  for (const run of times.values()) {
    for (const [from, to, label] of STAGES) {
      const between = (run.get(to) ?? Number.NaN) - (run.get(from) ?? Number.NaN);
      if (Number.isNaN(between)) continue;
      spans.set(label, [...(spans.get(label) ?? []), between]);
    }
  }
  return spans;
}

function row(label: string, values: readonly number[]): void {
  const parts = [median(values), Math.min(...values), Math.max(...values)].map((ms) => ms.toFixed(0).padStart(6));
  print(`${label.padEnd(32)} median ${parts[0] ?? ''}   min ${parts[1] ?? ''}   max ${parts[2] ?? ''}`);
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
