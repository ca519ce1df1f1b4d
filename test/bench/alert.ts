/**
 * From the death of an agent to the arrival of its alert at a receiver, with real containers and a signed webhook. Needs a
 * lab with its images:
 *
 *   scripts/lab exec -- node test/bench/alert.ts [breaches]
 */
import type { Incident } from '../../src/api/service.ts';
import { describeMachine, quantile, writeProfile } from '../support/bench.ts';
import { startDaemon } from '../support/daemon.ts';
import { startReceiver } from '../support/receiver.ts';
import { until } from '../support/until.ts';

const breaches = Number(process.argv[2] ?? 8);
const MS_MAX = 2_000;
const ARRIVAL_MS_MAX = 20_000;

await using receiver = await startReceiver();
// More than a few within a minute would become one digest.
const config = { incidents: { logLines: 20 } };
await using daemon = await startDaemon({ config, sinks: { ops: { url: receiver.url, secret: receiver.secret } } });
const profile = writeProfile(daemon, {
  name: 'bench-alert',
  image: 'ringfence/agent-python:local',
  command: ['sh', '-c', 'echo hello; sleep 30'],
  budget: { wall: '1s' },
  alerts: ['ops'],
});

const values: number[] = [];
for (let count = 0; count < breaches; count += 1) {
  const { stdout } = await daemon.cli(['run', '--json', profile]);
  const { incidentId } = JSON.parse(stdout) as { incidentId: string };
  const delivery = await until('it arrives', () => receiver.deliveries.find(({ id }) => id === incidentId), {
    deadlineMs: ARRIVAL_MS_MAX,
  });
  const { data } = JSON.parse(delivery.body) as { data: Incident };
  values.push(Date.parse(delivery.at) - Date.parse(data.times.emptyAt ?? ''));
}
print(await describeMachine());
const [p50, max] = [quantile(values, 0.5), Math.max(...values)];
print(`dead → at the receiver: p50 ${p50} ms, max ${max} ms (n=${values.length})`);
if (max > MS_MAX) throw new Error(`above ${MS_MAX} ms`);

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
