import type { Readable } from 'node:stream';
import type { RunStreams } from '../api/service.ts';
import { RULE_SIGNAL } from '../core/outcome.ts';
import type { Attachment, Engine, OutputChunk } from '../core/ports/engine.ts';
import type { Driver } from '../run/driver.ts';
import { containerIdOf } from '../run/state.ts';

/** What ends a program that does not handle it, and so ends a launch whose agent is not there yet to take it. */
const ENDING_SIGNALS: ReadonlySet<string> = new Set(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT']);

type TerminalSize = { readonly columns: number; readonly rows: number };
type AttachedDriver = Pick<Driver, 'state' | 'attachment' | 'started' | 'outcome' | 'post'>;
type AttachedEngine = Pick<Engine, 'resizeTty' | 'signalContainer'>;

/** The caller's side of an attached run. What the agent writes is handed on as it comes and never interpreted. */
export function streamsOf(driver: AttachedDriver, engine: AttachedEngine): RunStreams {
  const detached = new AbortController();
  let wantedSize: TerminalSize | null = null;
  const applySize = async (): Promise<void> => {
    const containerId = containerIdOf(driver.state);
    if (containerId === null || wantedSize === null) return;
    // A terminal of another size is no reason to lose the run; most often its agent has just ended.
    await engine.resizeTty(containerId, wantedSize).catch(() => undefined);
  };
  // A terminal has no size before its container has started, and the caller tells its own long before that.
  void driver.started.then((started) => (started ? applySize() : undefined));
  return {
    output: outputOf(driver, detached.signal),
    async write(bytes) {
      const stdin = (await driver.attachment)?.stdin;
      if (stdin === null || stdin === undefined || stdin.writableEnded || stdin.destroyed) return;
      if (!stdin.write(bytes)) await drained(stdin, detached.signal);
    },
    endInput() {
      void driver.attachment.then((attachment) => attachment?.stdin?.end());
    },
    async resize(size) {
      wantedSize = size;
      if (driver.state.container.kind === 'started') await applySize();
    },
    async signal(name) {
      const { container, phase } = driver.state;
      if (phase === 'cleaning' || phase === 'over') return;
      // The agent may run before the engine has said so: what comes in between is for it.
      if (container.kind === 'started' || (container.kind === 'starting' && (await driver.started)))
        return await engine.signalContainer(container.containerId, name);
      if (!ENDING_SIGNALS.has(name)) return;
      const detail = `${name} came before the agent had started`;
      driver.post({ kind: 'end-requested', how: 'stop', reason: 'stopped', rule: RULE_SIGNAL, detail });
    },
    outcome: driver.outcome,
    detach() {
      detached.abort();
      void driver.attachment.then((attachment) => attachment?.stdin?.end());
    },
  };
}

function drained(stdin: NonNullable<Attachment['stdin']>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    for (const event of ['drain', 'close', 'error']) stdin.once(event, () => resolve());
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

/** Both outputs as one sequence, in the order of arrival. A slow reader slows the agent down, as a pipe would. */
async function* outputOf(driver: AttachedDriver, signal: AbortSignal): AsyncIterable<OutputChunk> {
  const attachment = await driver.attachment;
  if (attachment === null) return;
  const waiting: OutputChunk[] = [];
  let open = 2;
  let wake = (): void => undefined;
  const take = (stream: OutputChunk['stream'], source: Readable): void => {
    source.on('data', (bytes: Buffer) => {
      waiting.push({ stream, bytes });
      source.pause();
      wake();
    });
    let ended = false;
    const end = (): void => {
      if (!ended) open -= 1;
      ended = true;
      wake();
    };
    source.once('end', end);
    source.once('close', end);
    source.once('error', end);
  };
  take('stdout', attachment.stdout);
  take('stderr', attachment.stderr);
  signal.addEventListener('abort', () => wake(), { once: true });
  while (!signal.aborted) {
    const chunk = waiting.shift();
    if (chunk !== undefined) {
      yield chunk;
      (chunk.stream === 'stdout' ? attachment.stdout : attachment.stderr).resume();
    } else if (open === 0) return;
    else
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
  }
  // Nobody reads any more; the agent must not block on a full pipe for that.
  attachment.stdout.resume();
  attachment.stderr.resume();
}
