import { runProgram } from '../kernel/programs.ts';

export const TOOL_MS_MAX = 5_000;
const OUTPUT_CHARS_MAX = 64 * 1024;

/** What a tool of the host says of itself, or null where it is not there or fails. */
export async function saidByTool(tool: string, args: readonly string[]): Promise<string | null> {
  const { exitCode, stdout } = await runProgram(tool, args, { msMax: TOOL_MS_MAX, charsMax: OUTPUT_CHARS_MAX });
  return exitCode === 0 ? stdout : null;
}
