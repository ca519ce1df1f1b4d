import { describe, expect, test } from 'vitest';
import type { Outcome } from '../core/outcome.ts';
import { explainOutcome } from './explain.ts';
import { renderExplanation } from './render.ts';
import { incidentOf, nameDenial, outcomeWith, sshBreach, sshDenial } from './testing.ts';

describe('why a run ended', () => {
  type Case = readonly [outcome: Partial<Outcome>, headline: RegExp, change: RegExp | null];
  const memory = { path: 'limits.memory', value: 2 ** 29, unit: 'bytes', rung: 'kernel' } as const;
  const cases: readonly Case[] = [
    [{ exitCode: 0 }, /^rome finished by itself after 5\.3 s\.$/, null],
    [{ exitCode: 3 }, /ended by itself with code 3/, null],
    [{ exitCode: null }, /exit code is not known/, null],
    [{ exitCode: 126 }, /code 126: its command, .* cannot be executed/, /`command`/],
    [{ exitCode: 127 }, /code 127: its command, .* was not found in the image/, /`command`/],
    [{ exitCode: 137 }, /SIGKILL \(code 137\) that the supervisor did not send/, null],
    [{ exitCode: 139 }, /SIGSEGV/, null],
    [{ exitCode: 159 }, /SIGSYS/, null],
    [{ exitCode: 255 }, /code 255/, null],
    [{ reason: 'stopped', detail: 'stopped by user 0' }, /stopped by a person/, null],
    [{ reason: 'killed', detail: 'killed by user 0' }, /killed by a person/, null],
    [{ reason: 'refused', detail: 'no such image', startedAt: null }, /refused before it started: no such image/, null],
    [{ reason: 'engine.failed', detail: 'gone' }, /container engine failed/, /doctor/],
    [{ reason: 'oom', rule: 'limits.memory', limits: [memory] }, /ended by limits\.memory/, /from 512MiB to .* 1GiB/],
    [{ reason: 'budget.cpu', rule: 'budget.cpu' }, /ended by budget\.cpu/, null],
  ];
  for (const [change, headline, cure] of cases) {
    test(`${change.reason ?? 'exited'} ${change.exitCode ?? ''}`, () => {
      const explanation = explainOutcome(outcomeWith(change), null);
      expect(explanation.headline).toMatch(headline);
      if (cure === null) expect(explanation.change).toEqual([]);
      else expect(explanation.change.join('\n')).toMatch(cure);
    });
  }

  test('a failed run with refused attempts is told what to allow; one that finished is not', () => {
    const denials = [sshDenial, nameDenial, nameDenial];
    const failed = explainOutcome(outcomeWith({ exitCode: 1 }), null, denials);
    expect(failed.change).toEqual([
      'add under `egress.allow`: - 203.0.113.10/32:22',
      'add under `egress.allow`: - pool.example.test',
    ]);
    expect(failed.evidence.slice(0, 3)).toEqual([
      '3 attempts to leave were refused',
      'refused the name pool.example.test: "pool.example.test" is not in egress.allow',
      'refused 203.0.113.10:22/tcp: 203.0.113.10:22/tcp is not in egress.allow',
    ]);
    expect(explainOutcome(outcomeWith({ exitCode: 0 }), null, denials).change).toEqual([]);
  });

  test('a breach is told from its incident', () => {
    const incident = incidentOf(sshBreach);
    const explanation = explainOutcome(outcomeWith({ reason: 'budget.denials' }), incident);
    expect(explanation).toMatchObject({
      subject: 'run r0123456789ab of rome, incident i0123456789ab',
      headline: incident.what.summary,
      rule: 'budget.denials',
      change: incident.cure.split('\n'),
    });
  });

  test('is aligned, and hostile text stays on its line', () => {
    const explanation = explainOutcome(outcomeWith({ reason: 'killed', detail: 'by\u001b[2J\nnobody' }), null);
    expect(renderExplanation(explanation).split('\n')).toEqual([
      'run r0123456789ab of rome',
      'rome was killed by a person.',
      '',
      'evidence  by\\u{1b}[2J\\u{a}nobody',
      '          used: 5.3 s wall, 1.25 s CPU, peak 24 MiB and 4 processes, 2 KiB out, 40 KiB in, 0 refused',
      '',
    ]);
  });
});
