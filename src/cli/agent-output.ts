import type { Writable } from 'node:stream';

import { writeSlowly } from '../api/stream.ts';
import type { OutputChunk } from '../core/ports/engine.ts';
import { isTty } from './terminal.ts';

/**
 * What an agent writes, on its way to ours. A file or a pipe gets its exact bytes. A terminal gets text: what could
 * move the cursor, change the title or paste into the shell is taken out, unless the agent was given the terminal.
 */
export type AgentOutput = (chunk: OutputChunk) => Promise<boolean>;

export function agentOutput(options: {
  readonly stdout: Writable & { readonly isTTY?: boolean };
  readonly stderr: Writable & { readonly isTTY?: boolean };
  readonly raw: boolean;
}): AgentOutput {
  const { stdout, stderr, raw } = options;
  const writers = { stdout: writerOf(stdout, raw), stderr: writerOf(stderr, raw) };
  return ({ stream, bytes }) => writers[stream](bytes);
}

function writerOf(
  stream: Writable & { readonly isTTY?: boolean },
  raw: boolean,
): (bytes: Uint8Array) => Promise<boolean> {
  if (raw || !isTty(stream)) return (bytes) => writeSlowly(stream, bytes);
  const decoder = new TextDecoder();
  return (bytes) => writeSlowly(stream, withoutControls(decoder.decode(bytes, { stream: true })));
}

/** Line ends and tabs stay; every other control or format character becomes visible. */
export function withoutControls(text: string): string {
  return text
    .replaceAll('\r\n', '\n')
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}]/gu, (char) =>
      char === '\n' || char === '\t' ? char : `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`,
    );
}
