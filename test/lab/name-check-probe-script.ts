import { connect } from 'node:net';

/**
 * Raw connections of an agent, one after the other: pieces of bytes with pauses between them, then what came back and
 * how it ended. It begins with a marker, so that "did not run" is never "was blocked".
 */
export type RawProbe = {
  readonly host: string;
  readonly port: number;
  /** Latin-1. */
  readonly pieces: readonly string[];
  readonly pauseMs?: number;
  /** Hangs up by itself after this many characters have come back. */
  readonly enough?: number;
};

export type RawResult = {
  readonly received: string;
  readonly end: 'end' | 'reset' | 'enough' | 'timeout';
  readonly ms: number;
};

const TIMEOUT_MS = 8_000;

process.stdout.write('marker: the probe runs\n');
for (const probe of JSON.parse(process.argv[2] ?? '[]') as RawProbe[]) {
  process.stdout.write(`${JSON.stringify(await perform(probe))}\n`);
}
// oxlint-disable-next-line unicorn/no-process-exit -- a program of its own: open handles must not keep it
process.exit(0);

async function perform({
  host,
  port,
  pieces,
  pauseMs = 0,
  enough = Number.POSITIVE_INFINITY,
}: RawProbe): Promise<RawResult> {
  const startedAt = performance.now();
  const socket = connect({ host, port, noDelay: true });
  let received = '';
  const end = await new Promise<RawResult['end']>((resolve) => {
    socket.on('error', () => resolve('reset'));
    socket.on('end', () => resolve('end'));
    socket.on('data', (chunk: Buffer) => {
      received += chunk.toString('latin1');
      if (received.length >= enough) resolve('enough');
    });
    socket.on('connect', () => void send());
    setTimeout(() => resolve('timeout'), TIMEOUT_MS).unref();
    const send = async (): Promise<void> => {
      for (const piece of pieces) {
        socket.write(piece, 'latin1');
        if (pauseMs > 0) await new Promise((next) => setTimeout(next, pauseMs));
      }
    };
  });
  socket.destroy();
  return { received, end, ms: Math.round(performance.now() - startedAt) };
}
