import { expect, test } from 'vitest';
import type { Breach, Denial } from '../core/outcome.ts';
import { tagsOf } from './tags.ts';
import { cpuBreach, sshBreach, sshDenial } from './testing.ts';

function refused(denial: Partial<Denial>): Breach {
  return { ...sshBreach, denial: { ...sshDenial, ...denial } };
}

test.each([
  ['SSH', refused({ port: 22 }), 'AML.T0072'],
  ['a pool', refused({ port: 3333 }), 'AML.T0034'],
  ['metadata', refused({ destination: '169.254.169.254', port: 80 }), 'AML.T0055'],
  ['a false source', refused({ kind: 'spoof' }), 'AML.T0105'],
  ['a name', refused({ kind: 'name', destination: 'evil.example', port: null }), 'AML.T0025'],
  ['CPU time', cpuBreach, 'AML.T0034'],
])('%s is called what others call it', (_, breach, tag) => {
  expect(tagsOf([breach]).join(' ')).toContain(tag);
});

test('an end that is nobody’s attack has no tag, and two causes have those of both, once', () => {
  expect(tagsOf([{ ...cpuBreach, reason: 'budget.wall' }])).toEqual([]);
  const both = tagsOf([cpuBreach, refused({ port: 3333 })]);
  expect(both.filter((tag) => tag.includes('AML.T0034'))).toHaveLength(1);
  expect(both.join(' ')).toMatch(/ASI02.*ASI10|ASI10.*ASI02/);
});
