import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { mkdir, open, readdir, rename, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { fail, messageOf } from '../core/errors.ts';
import type { Alert } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';

/** A file of the spool: one alert for one sink. `order` grows, so that the names sort by age. */
export type Spooled = {
  readonly alert: Alert;
  readonly order: number;
  readonly queuedAtMs: number;
  readonly file: string;
};

/** An incident with all its evidence has about 20 kB. */
const FILE_BYTES_MAX = 512 * 1024;
const DEAD_FILES_MAX = 1_000;
const FILE_PATTERN = /^(\d{12})-([a-z0-9-]{1,40})\.json$/;
const TEMPORARY_PREFIX = '.new-';

/**
 * A directory with one file for each alert and sink. A file is complete and on disk before it has its name, and is
 * never changed: it is unlinked when delivered, or moved to `dead/` (given up) or `corrupt/` (not readable any more).
 */
export class Spool {
  readonly #directory: string;
  readonly #log: Log;
  #order = 0;
  #dead = 0;

  private constructor(directory: string, log: Log) {
    this.#directory = directory;
    this.#log = log;
  }

  /** The spool and what an earlier daemon left in it, oldest first. */
  static async open(
    directory: string,
    log: Log,
  ): Promise<{ readonly spool: Spool; readonly left: readonly Spooled[] }> {
    const spool = new Spool(directory, log);
    for (const each of [directory, join(directory, 'dead'), join(directory, 'corrupt')]) {
      await mkdir(each, { recursive: true, mode: 0o700 });
    }
    spool.#dead = (await readdir(join(directory, 'dead'))).length;
    return { spool, left: await spool.#load() };
  }

  get dead(): number {
    return this.#dead;
  }

  /** Resolves when the file and its name are on disk. */
  async write(alert: Alert, queuedAtMs: number): Promise<Spooled> {
    this.#order += 1;
    const file = `${String(this.#order).padStart(12, '0')}-${alert.sink}.json`;
    const spooled = { alert, order: this.#order, queuedAtMs, file };
    const temporary = join(this.#directory, `${TEMPORARY_PREFIX}${file}`);
    try {
      const handle = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
      try {
        await handle.writeFile(encode(spooled));
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(temporary, join(this.#directory, file));
      await this.#sync();
    } catch (error) {
      await unlink(temporary).catch(() => {});
      const detail = `the alert ${alert.id} could not be written to ${this.#directory}: ${messageOf(error)}`;
      throw fail('ALERT_NOT_KEPT', { detail, id: alert.id, sink: alert.sink }, { cause: error });
    }
    return spooled;
  }

  /** If the name comes back after a power loss the alert is sent once more, under the same id. */
  async remove(spooled: Spooled): Promise<void> {
    await unlink(join(this.#directory, spooled.file));
  }

  async bury(spooled: Spooled): Promise<void> {
    await rename(join(this.#directory, spooled.file), join(this.#directory, 'dead', spooled.file));
    this.#dead += 1;
    if (this.#dead <= DEAD_FILES_MAX) return;
    const oldest = (await readdir(join(this.#directory, 'dead'))).toSorted()[0];
    if (oldest === undefined) return;
    await unlink(join(this.#directory, 'dead', oldest));
    this.#dead -= 1;
    this.#log.warn({ file: oldest, deadMax: DEAD_FILES_MAX }, 'the oldest dead alert was removed');
  }

  async #load(): Promise<readonly Spooled[]> {
    const left: Spooled[] = [];
    for (const file of (await readdir(this.#directory)).toSorted()) {
      if (file === 'dead' || file === 'corrupt') continue;
      if (file.startsWith(TEMPORARY_PREFIX)) {
        // Nobody was told yet that this one is kept.
        await unlink(join(this.#directory, file));
        continue;
      }
      const order = Number(FILE_PATTERN.exec(file)?.[1] ?? 0);
      if (order > this.#order) this.#order = order;
      const decoded = await this.#read(file);
      if (typeof decoded === 'string') await this.#moveAside(file, decoded);
      else left.push({ ...decoded, order, file });
    }
    return left;
  }

  async #read(file: string): Promise<Decoded | string> {
    const match = FILE_PATTERN.exec(file);
    if (match === null) return 'it does not belong here';
    try {
      const handle = await open(join(this.#directory, file), constants.O_RDONLY | constants.O_NOFOLLOW);
      try {
        const facts = await handle.stat();
        if (!facts.isFile()) return 'it is not a file';
        if (facts.size > FILE_BYTES_MAX) return `it is longer than ${FILE_BYTES_MAX} bytes`;
        return decode(await handle.readFile('utf8'), match[2] ?? '');
      } finally {
        await handle.close();
      }
    } catch (error) {
      return messageOf(error);
    }
  }

  async #moveAside(file: string, why: string): Promise<void> {
    await rename(join(this.#directory, file), join(this.#directory, 'corrupt', file));
    this.#log.error({ file, why, movedTo: join(this.#directory, 'corrupt') }, 'an alert of the spool is not readable');
  }

  async #sync(): Promise<void> {
    const handle = await open(this.#directory, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
}

type Decoded = { readonly alert: Alert; readonly queuedAtMs: number };

/** The first line is the digest of everything after it. */
function encode(spooled: Spooled): string {
  const { alert, queuedAtMs } = spooled;
  const json = JSON.stringify({ version: 1, queuedAtMs, alert });
  return `${digest(json)}\n${json}`;
}

function decode(text: string, sink: string): Decoded | string {
  const json = text.slice(text.indexOf('\n') + 1);
  if (text.slice(0, text.indexOf('\n')) !== digest(json)) return 'its digest does not match';
  const parsed = JSON.parse(json) as { readonly version: number } & Decoded;
  if (parsed.version !== 1) return `it is of version ${parsed.version}`;
  if (parsed.alert.sink !== sink) return 'its name is that of another sink';
  return { alert: parsed.alert, queuedAtMs: parsed.queuedAtMs };
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

export function fitsSpool(alert: Alert): boolean {
  return Buffer.byteLength(JSON.stringify(alert)) < FILE_BYTES_MAX - 512;
}
