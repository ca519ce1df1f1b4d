/**
 * How long an agent lives after it has crossed its CPU budget, and after its first forbidden packet, through the whole
 * product: profile, daemon, warden, real containers. Needs a lab with its images:
 *
 *   scripts/lab exec -- node test/bench/breach.ts [breaches]
 *
 * Ringfence's own figure is the Outcome's `latencyMs`, from the detection to the empty cgroup. Beside it stands one that
 * does not come from its clock: CPU time that the kernel counted beyond the budget, and for the packet the time that the
 * agent itself still saw pass after it had handed the packet to the kernel.
 */
import type { Outcome } from '../../src/core/outcome.ts';
import { describeMachine, quantile, writeProfile } from '../support/bench.ts';
import { startDaemon } from '../support/daemon.ts';
import { mark, packetsTo } from '../support/lab.ts';

const IMAGE = 'ringfence/agent-python:local';
const breaches = Number(process.argv[2] ?? 20);
const CPU_BUDGET_MS = 1_000;
/** The agent's last word is at most this much older than its end. */
const CLOCK_EVERY_MS = 0.5;
const FORBIDDEN = '198.51.100.77';

const SPIN = `
while True: pass
`;
const SEND = `
import os, socket, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
start = time.monotonic_ns()
out.sendto(b"x", ("${FORBIDDEN}", 9))
while True:
    os.write(1, b"%d\\n" % (time.monotonic_ns() - start))
    time.sleep(${CLOCK_EVERY_MS / 1000})
`;

await using daemon = await startDaemon();
const spin = writeProfile(daemon, {
  name: 'bench-cpu',
  image: IMAGE,
  command: ['python3', '-c', SPIN],
  budget: { wall: '1m', cpu: `${CPU_BUDGET_MS}ms` },
});
const send = writeProfile(daemon, {
  name: 'bench-packet',
  image: IMAGE,
  command: ['python3', '-c', SEND],
  budget: { wall: '1m', denials: 0 },
});

const columns = new Map<string, number[]>();
const since = await mark();
for (let count = 0; count < breaches; count += 1) {
  const cpu = await breach(spin, 'budget.cpu');
  add('CPU budget: detected → empty', cpu.outcome.latencyMs);
  add('CPU budget: CPU time beyond the budget', cpu.outcome.usage.cpuMs - CPU_BUDGET_MS);
  const packet = await breach(send, 'egress.forbidden');
  add('packet: detected → empty', packet.outcome.latencyMs);
  add('packet: sent → last sign of life', lastClockMs(packet.agentSaid));
}
const arrived = await packetsTo(FORBIDDEN, { since });

print(await describeMachine());
print(`${breaches} breaches of each kind, in turns; milliseconds`);
for (const [label, values] of columns) {
  const parts = [quantile(values, 0.5), quantile(values, 0.9), Math.max(...values)];
  const [p50, p90, max] = parts.map((ms) => ms.toFixed(1).padStart(7));
  print(`${label.padEnd(40)} p50 ${p50 ?? ''}   p90 ${p90 ?? ''}   max ${max ?? ''}   (n=${values.length})`);
}
print(`forbidden packets that arrived at ${FORBIDDEN}: ${arrived.length}`);

async function breach(
  profile: string,
  reason: string,
): Promise<{ readonly outcome: Outcome; readonly agentSaid: string }> {
  const { stdout, stderr } = await daemon.cli(['run', '--json', profile]);
  const outcome = JSON.parse(stdout) as Outcome;
  if (outcome.reason !== reason) throw new Error(`wanted ${reason}, got ${stdout}\n${stderr}`);
  return { outcome, agentSaid: stderr };
}

/** The last whole line of nanoseconds that the agent wrote; 0 when it did not live to write one. */
function lastClockMs(text: string): number {
  const clocks = text.split('\n').filter((line) => /^\d+$/.test(line));
  return Number(clocks.at(-1) ?? 0) / 1e6;
}

function add(label: string, value: number | null): void {
  if (value === null) throw new Error(`${label}: not measured`);
  columns.set(label, [...(columns.get(label) ?? []), value]);
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
