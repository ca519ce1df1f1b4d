import type { RunIds } from '../core/ids.ts';
import { chmod, lstat, mkdir, open, readdir, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { getCACertificates } from 'node:tls';
import { assert } from '../core/assert.ts';
import { fail, messageOf } from '../core/errors.ts';
import { RUN_ID_PATTERN } from '../core/ids.ts';
import type { ContainerPlan, Engine, ImageFacts } from '../core/ports/engine.ts';
import type { Spec } from '../profile/spec.ts';
import { AUTHORITY_FILE, BUNDLE_FILE, TRUST_FOLDER } from '../run/environment.ts';
import { locate, parseMountInfo, type Location } from '../run/mountinfo.ts';

/**
 * The authority of an inspected run in the trust stores of its container: a folder of the host with the authority alone
 * and with everything that the image trusts besides, mounted read-only at TRUST_FOLDER and over the image's own bundles. Only
 * certificates are here; the key is where the connections are.
 */

/** Bundles of Debian and Alpine, of Red Hat, of SUSE, and of what follows OpenSSL or BSD. Links lead to one of these. */
const BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/var/lib/ca-certificates/ca-bundle.pem',
  '/etc/ssl/cert.pem',
];
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]{1,65536}-----END CERTIFICATE-----/g;
const CERTIFICATES_MAX = 2_000;

/** What an image trusts: read once, before anything of the run exists. */
export type ImageTrust = {
  /** The bundles of the image that are mounted over. */
  readonly bundles: readonly string[];
  readonly certificatesPem: string;
};

/** What is mounted, and where each of it really is, by its place in the container: for the read-back. */
export type StagedTrust = {
  readonly binds: ContainerPlan['binds'];
  readonly locations: Readonly<Record<string, Location>>;
};

export function inspects(spec: Spec): boolean {
  return [...spec.egress.allow, ...spec.egress.ask].some((rule) => {
    return rule.kind === 'name' && rule.inspect && rule.ports.some(({ check }) => check === 'tls');
  });
}

/** An image without a bundle gets the public roots that Node.js brings, or nothing else would be believed. */
export async function readImageTrust(
  engine: Pick<Engine, 'readImageFiles'>,
  image: ImageFacts,
  spec: Pick<Spec, 'mounts'>,
): Promise<ImageTrust> {
  const named = image.env.find((entry) => entry.startsWith('SSL_CERT_FILE=/'))?.slice('SSL_CERT_FILE='.length);
  const candidates = named === undefined ? BUNDLES : [named, ...BUNDLES.filter((path) => path !== named)];
  const files = await engine.readImageFiles(image.digest, candidates);
  // Below a mount of the profile the file would be made on the host.
  const covered = (path: string): boolean => spec.mounts.some((mount) => path.startsWith(`${mount.path}/`));
  const found = [...files].map(([path, content]) => ({ path, certificates: certificatesIn(content) }));
  const held = found.filter(({ path, certificates }) => certificates.length > 0 && !covered(path));
  const trusted = found.find(({ certificates }) => certificates.length > 0)?.certificates;
  return {
    bundles: held.map(({ path }) => path),
    certificatesPem: (trusted ?? getCACertificates('bundled')).join('\n'),
  };
}

// Bundles carry comments and names between the certificates; nothing but certificates is taken over.
function certificatesIn(content: Uint8Array): readonly string[] {
  return (Buffer.from(content).toString('latin1').match(CERTIFICATE) ?? []).slice(0, CERTIFICATES_MAX);
}

/** Where the trust of runs is while they live. */
export class TrustStore {
  private readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async open(folder: string): Promise<TrustStore> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const found = await lstat(folder);
    if (!found.isDirectory() || found.uid !== process.getuid?.()) {
      throw fail('CONFIG_INVALID', { detail: `${folder} is not a folder of the supervisor` });
    }
    await chmod(folder, 0o700);
    return new TrustStore(folder);
  }

  /**
   * Puts the authority of a run in place and says what to mount. For a run that has its mounts already the files are
   * written over where they are, so that its container sees the new authority.
   */
  async stage(runId: string, trust: ImageTrust, certificatePem: string): Promise<StagedTrust> {
    const folder = this.folderOf(runId);
    assert(certificatesIn(Buffer.from(certificatePem)).length === 1, 'an authority is one certificate');
    try {
      await mkdir(folder, { recursive: true, mode: 0o755 });
      // The process may have a tighter mask; the agent's user has to read this.
      await chmod(folder, 0o755);
      await replaceContent(join(folder, AUTHORITY_FILE), certificatePem);
      await replaceContent(join(folder, BUNDLE_FILE), `${trust.certificatesPem}\n${certificatePem}`);
    } catch (error) {
      throw fail('ENGINE_FAILED', { detail: `the trust of ${runId} could not be written: ${messageOf(error)}` });
    }
    return await this.staged(runId, trust);
  }

  /** The same for what an earlier daemon has staged. */
  async staged(runId: string, { bundles }: ImageTrust): Promise<StagedTrust> {
    const folder = this.folderOf(runId);
    const bundle = join(folder, BUNDLE_FILE);
    const binds = [
      { source: folder, target: TRUST_FOLDER, readOnly: true },
      ...bundles.map((target) => ({ source: bundle, target, readOnly: true })),
    ];
    const mounts = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
    const locations: Record<string, Location> = {};
    for (const { source, target } of binds) {
      const location = locate(mounts, await realpath(source));
      if (location !== null) locations[target] = location;
    }
    return { binds, locations };
  }

  /** Idempotent. */
  async unstage(runId: string): Promise<void> {
    await rm(this.folderOf(runId), { recursive: true, force: true });
  }

  /** Removes the trust of every run that is not named: what a crash left. Returns their run ids. */
  async collectGarbage(runIdsToKeep: RunIds): Promise<readonly string[]> {
    const stale = (await readdir(this.folder)).filter((name) => RUN_ID_PATTERN.test(name) && !runIdsToKeep.has(name));
    for (const runId of stale) await this.unstage(runId);
    return stale;
  }

  private folderOf(runId: string): string {
    assert(RUN_ID_PATTERN.test(runId), 'a folder of trust is named by a run id');
    return join(this.folder, runId);
  }
}

/** In place: a file that is mounted somewhere stays the same file. A reader may see half of it for a moment. */
async function replaceContent(path: string, content: string): Promise<void> {
  await writeFile(path, '', { flag: 'a', mode: 0o644 });
  const file = await open(path, 'r+');
  try {
    await file.chmod(0o644);
    await file.write(content, 0, 'utf8');
    await file.truncate(Buffer.byteLength(content));
  } finally {
    await file.close();
  }
}
