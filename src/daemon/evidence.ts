import type { AllowedDestination } from '../api/service.ts';
import type { Engine } from '../core/ports/engine.ts';
import type { Log } from '../core/ports/log.ts';
import { containerIdOf, type RunState } from '../run/state.ts';
import type { KnownSecrets } from './known-secrets.ts';
import type { TrafficDesk } from './traffic-desk.ts';

/** What only a container that is not yet removed and a fence that is still armed can tell. */
export type LastWords = { readonly allowed: readonly AllowedDestination[]; readonly logLines: readonly string[] };

export type EvidenceParts = {
  readonly engine: Pick<Engine, 'logs'>;
  readonly traffic: TrafficDesk;
  readonly secrets: KnownSecrets;
  readonly log: Log;
  /** How many lines of output an incident holds; 0: none, and nothing is read. */
  readonly logLines: number;
};

/** The agent is dead by now; its incident waits no longer than this for its last lines. */
const LINES_MS_MAX = 1_000;
const LINES_BYTES_MAX = 256 * 1024;

/** Never rejects. Runs while the run is cleaned up, so no kill waits for it. */
export async function lastWords(state: RunState, parts: EvidenceParts): Promise<LastWords> {
  if (state.startedAt === null) return { allowed: [], logLines: [] };
  const [allowed, logLines] = await Promise.all([parts.traffic.look(state.runId), lastLines(state, parts)]);
  return { allowed, logLines: parts.secrets.hide(state.runId, logLines) };
}

async function lastLines(state: RunState, { engine, log, logLines }: EvidenceParts): Promise<readonly string[]> {
  const containerId = containerIdOf(state);
  if (logLines === 0 || containerId === null) return [];
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    const signal = AbortSignal.timeout(LINES_MS_MAX);
    for await (const chunk of engine.logs(containerId, { follow: false, tailLines: logLines, signal })) {
      chunks.push(chunk.bytes);
      bytes += chunk.bytes.length;
      if (bytes > LINES_BYTES_MAX) break;
    }
  } catch (error) {
    log.warn({ runId: state.runId, err: error }, 'the last lines of output could not be read');
  }
  const lines = Buffer.concat(chunks).toString('utf8').split(/\r?\n/);
  return lines.filter((line) => line !== '').slice(-logLines);
}
