import type { Command } from 'commander';

import { EXIT_FAILED } from '../core/errors.ts';
import { printable } from '../core/text.ts';
import type { DoctorReport } from '../api/service.ts';
import { styled } from '../report/lines.ts';
import type { Invoke } from './commands.ts';
import { showsColour } from './terminal.ts';

const STYLES = { ok: 'green', degraded: 'yellow', missing: 'red' } as const;
const TEXT_CHARS_MAX = 1_000;

export function define(command: Command, invoke: Invoke): void {
  command.action(() =>
    invoke(async (context) => {
      const report = await (await context.client()).doctor();
      await context.answer({ json: report, text: () => renderReport(report, showsColour(context.terminal)) });
      return report.ok ? 0 : EXIT_FAILED;
    }),
  );
}

function renderReport(report: DoctorReport, colour: boolean): string {
  const names = report.checks.map(({ name }) => printable(name));
  const width = Math.max(0, ...names.map((name) => name.length));
  const lines = report.checks.flatMap((check, index) => {
    const state = styled(check.state.padEnd('degraded'.length), STYLES[check.state], { colour });
    const rung = check.rung === null ? '' : ` [${check.rung}]`;
    const head = `${state}  ${(names[index] ?? '').padEnd(width)}  ${printable(check.evidence, TEXT_CHARS_MAX)}${rung}`;
    return check.fix === null ? [head] : [head, `          fix: ${printable(check.fix, TEXT_CHARS_MAX)}`];
  });
  const failing = report.checks.filter(({ state }) => state !== 'ok').length;
  const verdict = report.ok
    ? failing === 0
      ? 'this host enforces everything that this version can'
      : `this host can hold agents, with ${failing} weaker than it could be`
    : 'this host cannot hold agents yet: see what is missing above';
  return [...lines, verdict].join('\n');
}
