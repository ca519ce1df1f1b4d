import type { Attachment } from '../core/ports/engine.ts';

const LAST_BYTES_MS = 1_000;

/** What the agent wrote last may still be on its way through the engine when its processes are gone. Waits a second at most. */
export async function lastBytes({ stdout, stderr }: Attachment): Promise<void> {
  const ended = [stdout, stderr].map(
    (stream) =>
      new Promise<void>((resolve) => {
        if (stream.readableEnded || stream.destroyed) resolve();
        for (const event of ['end', 'close', 'error']) stream.once(event, () => resolve());
      }),
  );
  const late = Promise.withResolvers<void>();
  const timer = setTimeout(late.resolve, LAST_BYTES_MS);
  await Promise.race([Promise.all(ended), late.promise]);
  clearTimeout(timer);
}
