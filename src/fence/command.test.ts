import { afterEach, expect, test } from 'vitest';
import { RingfenceError } from '../core/errors.ts';
import { tryTool } from './command.ts';
import type { Tool } from './command.ts';

const path = process.env['PATH'] ?? '';
afterEach(() => {
  process.env['PATH'] = path;
});

test.each<[Tool, string]>([
  ['ipset', 'ipset'],
  ['conntrack', 'conntrack'],
  ['tc', 'iproute2'],
  ['ip6tables-save', 'iptables'],
])('names the package of %s where it is not installed', async (tool, name) => {
  process.env['PATH'] = '/nonexistent';
  const error: unknown = await tryTool(tool, []).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(RingfenceError);
  expect(error).toMatchObject({
    code: 'FENCE_FAILED',
    hint: `install the package ${name}, for example with \`apt-get install ${name}\``,
  });
});
