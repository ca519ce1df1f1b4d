import { setTimeout as delay } from 'node:timers/promises';
import { fail } from '../core/errors.ts';
import { runProgram } from '../kernel/programs.ts';

/** The host's own tools, each with a time-out. Their complaints become one sentence in FENCE_FAILED. */
const COMMAND_TIMEOUT_MS = 15_000;
const OUTPUT_CHARS_MAX = 16 * 1024 * 1024;
/**
 * iptables ends so when somebody else was in the way: with the legacy backend its lock was held for longer than `-w`
 * waits, with nf_tables the engine changed the same table meanwhile.
 */
const EXIT_LOCKED = 4;
const ATTEMPTS_MAX = 6;
const ATTEMPT_PAUSE_MS = 40;

export type Tool =
  | 'iptables'
  | 'ip6tables'
  | 'ipset'
  | 'ip'
  | 'conntrack'
  | 'tc'
  | `ip${'6' | ''}tables-${'save' | 'restore'}`;
/** Where Debian and its relatives have them. */
const PACKAGES: Readonly<Record<string, string>> = {
  ip: 'iproute2',
  tc: 'iproute2',
  ipset: 'ipset',
  conntrack: 'conntrack',
};

export type ToolResult = { readonly exitCode: number; readonly stdout: string; readonly stderr: string };

/** Runs a tool to its end, whatever its exit code; rejects only when it is not there or does not end. */
export async function tryTool(tool: Tool, args: readonly string[], input?: string): Promise<ToolResult> {
  for (let attempt = 1; ; attempt += 1) {
    const bounds = { msMax: COMMAND_TIMEOUT_MS, charsMax: OUTPUT_CHARS_MAX, input };
    const { exitCode, timedOut, stdout, stderr } = await runProgram(tool, args, bounds);
    if (exitCode === null) throw notRun(tool, timedOut, stderr);
    if (exitCode !== EXIT_LOCKED || attempt === ATTEMPTS_MAX || !tool.includes('tables')) {
      return { exitCode, stdout, stderr };
    }
    await delay(ATTEMPT_PAUSE_MS * attempt);
  }
}

function notRun(tool: Tool, timedOut: boolean, cause: unknown): Error {
  if (timedOut) {
    const detail = `${tool} did not end within ${COMMAND_TIMEOUT_MS} ms`;
    return fail('FENCE_FAILED', { detail, tool }, { cause });
  }
  const name = PACKAGES[tool] ?? 'iptables';
  const hint = `install the package ${name}, for example with \`apt-get install ${name}\``;
  return fail('FENCE_FAILED', { detail: `${tool} cannot be run; is it installed?`, hint, tool }, { cause });
}

/** The output of a tool that must succeed. */
export async function runTool(tool: Tool, args: readonly string[], input?: string): Promise<string> {
  const result = await tryTool(tool, args, input);
  if (result.exitCode === 0) return result.stdout;
  const complaint = result.stderr.trim().split('\n')[0] ?? '';
  throw fail('FENCE_FAILED', {
    detail: `${tool} ${args.join(' ')} failed with ${result.exitCode}: ${complaint}`,
    tool,
    stderr: result.stderr.slice(0, 2_000),
  });
}
