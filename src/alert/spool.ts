import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { mkdir, open, readdir, rename, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { fail, messageOf } from '../core/errors.ts';
import type { Alert, AlertFact, AlertSeverity, AlertType } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';

/** A file of the spool: one alert for one sink. `order` grows, so that the names sort by age. */
export type Spooled = {
  readonly alert: Alert;
  readonly order: number;
  readonly queuedAtMs: number;
  readonly file: string;
  /** Files that go with this one: a digest's. */
  readonly carries: readonly string[];
};

/** One that was given up, and why. */
export type Buried = Spooled & { readonly died: { readonly atMs: number; readonly why: string } | null };

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
    for (const file of await readdir(join(directory, 'corrupt'))) spool.#noteOrder(file);
    for (const file of await readdir(join(directory, 'dead'))) {
      spool.#noteOrder(file);
      if (FILE_PATTERN.test(file)) spool.#dead += 1;
    }
    return { spool, left: await spool.#load() };
  }

  get dead(): number {
    return this.#dead;
  }

  /** Resolves when the file and its name are on disk. */
  async write(alert: Alert, queuedAtMs: number, carries: readonly string[] = []): Promise<Spooled> {
    this.#order += 1;
    const file = `${String(this.#order).padStart(12, '0')}-${alert.sink}.json`;
    const spooled = { alert, order: this.#order, queuedAtMs, file, carries };
    try {
      await this.#place(this.#directory, file, encode({ queuedAtMs, alert, carries }));
    } catch (error) {
      const detail = `the alert ${alert.id} could not be written to ${this.#directory}: ${messageOf(error)}`;
      throw fail('ALERT_NOT_KEPT', { detail, id: alert.id, sink: alert.sink }, { cause: error });
    }
    return spooled;
  }

  /** If the name comes back after a power loss the alert is sent once more, under the same id. */
  async remove(spooled: Spooled): Promise<void> {
    await unlink(join(this.#directory, spooled.file));
  }

  async bury(spooled: Spooled, died: { readonly atMs: number; readonly why: string }): Promise<void> {
    const { alert, queuedAtMs, file } = spooled;
    const grave = join(this.#directory, 'dead');
    try {
      await this.#place(grave, file, encode({ queuedAtMs, alert, carries: [], died }));
      await unlink(join(this.#directory, file));
    } catch {
      // With no room to write down why, it is kept as it is.
      await rename(join(this.#directory, file), join(grave, file));
    }
    this.#dead += 1;
    if (this.#dead <= DEAD_FILES_MAX) return;
    const oldest = (await this.#deadFiles())[0];
    if (oldest === undefined) return;
    await this.exhume(oldest);
    this.#log.warn({ file: oldest, deadMax: DEAD_FILES_MAX }, 'the oldest dead alert was removed');
  }

  /** Those given up, oldest first, without what cannot be read. */
  async buried(): Promise<readonly Buried[]> {
    const buried: Buried[] = [];
    for (const file of await this.#deadFiles()) {
      const decoded = await this.#read(join(this.#directory, 'dead'), file);
      if (typeof decoded !== 'string') buried.push({ ...decoded, order: orderOf(file), file });
    }
    return buried;
  }

  /** Takes a file from among the dead: its alert is in the spool again, or nobody wants it. */
  async exhume(file: string): Promise<void> {
    await unlink(join(this.#directory, 'dead', file));
    this.#dead -= 1;
  }

  async #deadFiles(): Promise<readonly string[]> {
    return (await readdir(join(this.#directory, 'dead'))).filter((file) => FILE_PATTERN.test(file)).toSorted();
  }

  /** A file is complete before it has its name. */
  async #place(directory: string, file: string, text: string): Promise<void> {
    const temporary = join(this.#directory, `${TEMPORARY_PREFIX}${file}`);
    try {
      const handle = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
      try {
        await handle.writeFile(text);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(temporary, join(directory, file));
      await sync(directory);
    } catch (error) {
      await unlink(temporary).catch(() => {});
      throw error;
    }
  }

  async #load(): Promise<readonly Spooled[]> {
    const left: Spooled[] = [];
    for (const file of (await readdir(this.#directory)).toSorted()) {
      if (file === 'dead' || file === 'corrupt') continue;
      if (file.startsWith(TEMPORARY_PREFIX)) {
        // Nobody was told yet that this one is kept.
        await unlink(join(this.#directory, file)).catch(() => {});
        continue;
      }
      this.#noteOrder(file);
      const decoded = await this.#read(this.#directory, file);
      if (typeof decoded === 'string') await this.#moveAside(file, decoded);
      else left.push({ ...decoded, order: orderOf(file), file });
    }
    return left;
  }

  /** Numbers are not used twice while a file of that number lies anywhere here. */
  #noteOrder(file: string): void {
    this.#order = Math.max(this.#order, orderOf(file));
  }

  async #read(directory: string, file: string): Promise<Decoded | string> {
    const match = FILE_PATTERN.exec(file);
    if (match === null) return 'it does not belong here';
    try {
      const handle = await open(
        join(directory, file),
        constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
      );
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
    const movedTo = join(this.#directory, 'corrupt');
    try {
      await rename(join(this.#directory, file), join(movedTo, file));
      this.#log.error({ file, why, movedTo }, 'an alert of the spool is not readable');
    } catch (error) {
      this.#log.error({ file, why, error: messageOf(error) }, 'an alert of the spool is not readable, and stays in it');
    }
  }
}

async function sync(directory: string): Promise<void> {
  const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function orderOf(file: string): number {
  return Number(FILE_PATTERN.exec(file)?.[1] ?? 0);
}

type Decoded = Omit<Buried, 'order' | 'file'>;

/** The first line is the digest of everything after it. */
function encode(content: Omit<Decoded, 'died'> & Partial<Pick<Decoded, 'died'>>): string {
  const json = JSON.stringify({ version: 2, ...content });
  return `${digest(json)}\n${json}`;
}

type Content =
  | ({ readonly version: 2; readonly died?: Buried['died'] } & Decoded)
  | { readonly version: 1; readonly queuedAtMs: number; readonly alert: AlertOfVersion1 };

function decode(text: string, sink: string): Decoded | string {
  const json = text.slice(text.indexOf('\n') + 1);
  if (text.slice(0, text.indexOf('\n')) !== digest(json)) return 'its digest does not match';
  const content = JSON.parse(json) as Content;
  const { version, queuedAtMs } = content;
  if (version !== 1 && version !== 2) return `it is of version ${String(version)}`;
  if (content.alert.sink !== sink) return 'its name is that of another sink';
  if (content.version === 1) return { alert: upgraded(content.alert), queuedAtMs, carries: [], died: null };
  return { alert: content.alert, queuedAtMs, carries: content.carries, died: content.died ?? null };
}

type AlertOfVersion1 = Pick<Alert, 'id' | 'sink' | 'subject' | 'body'> & { readonly type: AlertType };

/** Version 1 knew incidents only, and all that is said beside them is in the body. */
function upgraded(alert: AlertOfVersion1): Alert {
  const { data } = JSON.parse(alert.body) as {
    readonly data?: { readonly what?: { readonly severity?: AlertSeverity; readonly summary?: string } };
  };
  const facts: readonly AlertFact[] = [];
  const { severity = 'high', summary = `${alert.subject}: ${alert.type}` } = data?.what ?? {};
  return { ...alert, severity, key: alert.id, summary, facts };
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

export function fitsSpool(alert: Alert): boolean {
  return Buffer.byteLength(JSON.stringify(alert)) < FILE_BYTES_MAX - 8_192;
}
