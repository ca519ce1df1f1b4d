import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { command, lab } from '../support/lab.ts';
import { SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** The figures as a scraper reads them, and the rules over them, both judged by Prometheus's own tool. */
const FACT_MS_MAX = 20_000;
const RULES = join(import.meta.dirname, '../../monitoring/ringfence.rules.yaml');
const port = await freePort();
const supervised = useSupervised({ config: { metrics: { port } } });

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port: free } = server.address() as AddressInfo;
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return free;
}

const scrape = async (...args: readonly string[]): Promise<string> => {
  const { stdout, stderr, exitCode } = await command('curl', ['-sS', '--fail', '-m', '10', ...args]);
  if (exitCode !== 0) throw new Error(`curl ${args.join(' ')}: ${stderr}`);
  return `${stdout}\n`;
};
const bySocket = (): Promise<string> =>
  scrape('--unix-socket', supervised.daemon.socket, 'http://localhost/v1/metrics');
const byPort = (): Promise<string> => scrape(`http://127.0.0.1:${port}/metrics`);

test('the rules are what promtool takes', async () => {
  const { stdout, stderr, exitCode } = await command('promtool', ['check', 'rules', RULES]);
  expect({ exitCode, said: /SUCCESS: \d+ rules found/.test(stdout + stderr) }).toEqual({ exitCode: 0, said: true });
});

test('the first incident of an agent calls, and one of long ago does not', async () => {
  const series = (agent: string): string =>
    `ringfence_incidents_total{agent="${agent}", instance="a", job="ringfence"}`;
  const callsAt = (at: string, agents: readonly string[]): object => ({
    eval_time: at,
    alertname: 'RingfenceIncident',
    exp_alerts: agents.map((agent) => ({
      exp_labels: { severity: 'warning', agent, instance: 'a', job: 'ringfence' },
      exp_annotations: {
        summary: `An agent of ${agent} was ended for a breach.`,
        description: '`ringfence incidents` lists it, `ringfence why` says what to change if the agent was right.',
      },
    })),
  });
  const input = [
    { series: series('first'), values: '_x40 1x80' },
    { series: series('again'), values: '1x40 2x80' },
    { series: series('quiet'), values: '1x120' },
  ];
  const cases = [callsAt('9m', []), callsAt('11m', ['first', 'again']), callsAt('20m', [])];
  const tests = [{ interval: '15s', input_series: input, alert_rule_test: cases }];
  const folder = mkdtempSync(`${lab.scratch}/rules-`);
  const file = join(folder, 'rules.test.yaml');
  // JSON is YAML too.
  writeFileSync(file, JSON.stringify({ rule_files: [RULES], evaluation_interval: '15s', tests }));
  const { stdout, stderr, exitCode } = await command('promtool', ['test', 'rules', file]);
  rmSync(folder, { recursive: true });
  expect({ exitCode, said: exitCode === 0 ? '' : stdout + stderr }).toEqual({ exitCode: 0, said: '' });
});

test('what is scraped while an agent runs and after one breached is sound, on the socket and on the port', async () => {
  await supervised.run({ name: 'breached', command: SHELL('sleep 20'), budget: { wall: '1s' } });
  const alive = await supervised.start({ name: 'alive', command: SHELL('sleep 60'), budget: { cpu: '20s' } });
  await supervised.ringfence('ledger', 'checkpoint');
  await until('the incident is counted', async () => (await bySocket()).includes('ringfence_incidents_total{'), {
    deadlineMs: FACT_MS_MAX,
  });
  for (const text of [await bySocket(), await byPort()]) {
    const { stdout, stderr, exitCode } = await command('promtool', ['check', 'metrics'], { input: text });
    expect({ exitCode, said: stdout + stderr }).toEqual({ exitCode: 0, said: '' });
    const lines = text.split('\n');
    expect(lines).toEqual(
      expect.arrayContaining([
        'ringfence_runs{agent="alive"} 1',
        'ringfence_breaches_total{agent="breached",rule="budget.wall"} 1',
        'ringfence_incidents_total{agent="breached"} 1',
        'ringfence_kill_duration_seconds_count 1',
        'ringfence_gate_up 1',
        'ringfence_ledger_writable 1',
      ]),
    );
    expect(lines.some((line) => line.startsWith('ringfence_bound_use_ratio{agent="alive",bound="budget.cpu"}'))).toBe(
      true,
    );
    expect(lines.some((line) => /^ringfence_fence_rules [1-9]/.test(line))).toBe(true);
  }
  // A rule over a figure that nobody tells would never call.
  const told = new Set([...(await bySocket()).matchAll(/^# TYPE (ringfence_[a-z_]+)/gm)].map(([, name]) => name));
  const read = readFileSync(RULES, 'utf8').match(/ringfence_[a-z_]+/g) ?? [];
  const names = [...new Set(read)].map((name) => name.replace(/_(bucket|sum|count)$/, ''));
  expect(names.length).toBeGreaterThan(5);
  expect(names.filter((name) => !told.has(name))).toEqual([]);
  await supervised.ringfence('kill', alive.runId);
});

test('the port answers to nothing but its own name and path', async () => {
  const status = async (...args: readonly string[]): Promise<string> =>
    (await command('curl', ['-s', '-o', '/dev/null', '-w', '%{http_code}', ...args])).stdout;
  expect([
    await status(`http://127.0.0.1:${port}/metrics`),
    await status(`http://127.0.0.1:${port}/v1/runs`),
    await status('-H', 'Host: evil.example', `http://127.0.0.1:${port}/metrics`),
    await status('-X', 'POST', `http://127.0.0.1:${port}/metrics`),
  ]).toEqual(['200', '404', '404', '404']);
});
