import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { assert } from '../core/assert.ts';
import { fail } from '../core/errors.ts';
import type {
  ContainerFacts,
  ContainerPlan,
  Engine,
  EngineFacts,
  ImageFacts,
  NetworkPlan,
} from '../core/ports/engine.ts';
import { printable } from '../core/text.ts';
import { createEngineClient } from './client.ts';
import type { EngineCall, EngineClient } from './client.ts';
import { containerBody, networkBody } from './create-body.ts';
import { readEvents } from './events.ts';
import { callError, connectionLost, startError, statusOf } from './failure.ts';
import {
  componentsOf,
  containerFacts,
  containerSummary,
  engineFacts,
  imageFacts,
  list,
  networkFacts,
  objectOf,
  subnetsOf,
  text,
} from './inspection.ts';
import { attachTo, readLogs } from './output.ts';
import { onlyFileIn } from './tar.ts';

/**
 * Docker behind the Engine port. Each call has a deadline; what can be repeated is repeated once when the connection
 * breaks; what was created although the reply was lost is found again by its name and labels.
 */
export type DockerEngine = Engine & { close(): void };

/** Creating, starting and removing touch the disk and the kernel: 500 at once have taken 40 s on two cores. */
const SLOW_CALL_MS = 60_000;

/** How long a removal that somebody else began may take before it counts as failed. */
const REMOVAL_MS = 30_000;
const REMOVAL_POLL_MS = 50;

const REFERENCE_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,254}$/;
const ID_PATTERN = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;

const PROBE_LABEL = 'ringfence.probe';
const IMAGE_PROBES_KEPT_MAX = 64;
const IMAGE_FILE_BYTES_MAX = 4 * 1024 * 1024;

/** `host` is what DOCKER_HOST says; only a socket of this host will do, because limits are read from its kernel. */
export function createDockerEngine(options: { readonly host: string }): DockerEngine {
  const client = createEngineClient(socketPathOf(options.host));
  const started = new Set<string>();
  const probes = new Map<string, Promise<boolean>>();
  let factsKnown: EngineFacts | null = null;

  async function facts(): Promise<EngineFacts> {
    const info = await client.call({ method: 'GET', path: '/info', repeatable: true });
    factsKnown = engineFacts(info, await client.apiVersion());
    return factsKnown;
  }

  async function inspectRaw(id: string): Promise<unknown> {
    return await client.call({ method: 'GET', path: `${containerPath(id)}/json`, repeatable: true });
  }

  return {
    facts,
    components: async () => componentsOf(await client.call({ method: 'GET', path: '/version', repeatable: true })),
    resolveImage: (reference) => resolveImage(client, reference),
    imageHasFile: (digest, path) => {
      const key = `${digest} ${path}`;
      const known =
        probes.get(key) ?? withProbe(client, digest, (archive) => hasFile(client, { path: archive, file: path }));
      if (probes.size >= IMAGE_PROBES_KEPT_MAX) probes.clear();
      probes.set(key, known);
      known.catch(() => probes.delete(key));
      return known;
    },
    readImageFiles: (digest, paths) =>
      withProbe(client, digest, async (archive) => {
        const files = new Map<string, Uint8Array>();
        for (const path of paths) {
          const content = await readFile(client, { path: archive, file: path });
          if (content !== null) files.set(path, content);
        }
        return files;
      }),
    createNetwork: (plan) => createNetwork(client, plan),
    removeNetwork: (idOrName) => removeNetwork(client, idOrName),
    listNetworks: async (label) => {
      const found = list(await client.call(listing('/networks', { label: [label] })));
      const ids = found.map((entry) => text(objectOf(entry)['Id']));
      // The list leaves the containers out; only inspection says who is attached.
      const answers = await Promise.all(ids.map((id) => ignoreGone(inspectNetwork(client, id))));
      return answers.filter((answer) => answer !== null).map(networkFacts);
    },
    listSubnets: async () => list(await client.call(listing('/networks', {}))).flatMap(subnetsOf),
    createContainer: async (plan) => await createContainer(client, { plan, engine: factsKnown ?? (await facts()) }),
    startContainer: async (id) => {
      started.add(id);
      try {
        await client.call(posting(`${containerPath(id)}/start`, { timeoutMs: SLOW_CALL_MS, repeatable: true }));
      } catch (error) {
        throw startError(error);
      }
    },
    inspectContainer: async (id): Promise<ContainerFacts> => containerFacts(await inspectRaw(id)),
    listContainers: async (label) => {
      const call = listing('/containers/json', { label: [label] }, { all: '1' });
      return list(await client.call(call)).map(containerSummary);
    },
    attach: (id, streams) => attachTo(client, { path: containerPath(id), ...streams }),
    logs: async function* (id, wanted) {
      const tty = objectOf(objectOf(await inspectRaw(id))['Config'])['Tty'] === true;
      yield* readLogs(client, { path: containerPath(id), tty, ...wanted });
    },
    resizeTty: async (id, size) => {
      const query = { h: String(size.rows), w: String(size.columns) };
      await client.call(posting(`${containerPath(id)}/resize`, { query, repeatable: true }));
    },
    signalContainer: async (id, signal) => {
      assert(/^SIG[A-Z0-9]{2,10}$/.test(signal), 'a signal has a name');
      const call = posting(`${containerPath(id)}/kill`, { query: { signal }, repeatable: false });
      // 404 and 409: there is nobody left to tell.
      await client.call(call).catch(unless(404, 409));
    },
    removeContainer: async (id) => {
      await removeContainer(client, id);
      started.delete(id);
    },
    events: (signal) => readEvents(client, { signal, startedByUs: (id) => started.has(id) }),
    close: () => client.close(),
  };
}

function socketPathOf(host: string): string {
  const path = host.startsWith('unix://') ? host.slice('unix://'.length) : host;
  if (path.startsWith('/')) return path;
  throw fail('ENGINE_UNREACHABLE', {
    detail: `the engine must be one of this host, on a unix socket; got ${printable(host)}`,
    hint: 'set DOCKER_HOST to unix:///run/docker.sock, or leave it out',
  });
}

function containerPath(id: string): string {
  assert(ID_PATTERN.test(id), 'a container has a plain id or name');
  return `/containers/${id}`;
}

function listing(
  path: string,
  filters: Readonly<Record<string, readonly string[]>>,
  query: Readonly<Record<string, string>> = {},
): EngineCall {
  return { method: 'GET', path, query: { ...query, filters: JSON.stringify(filters) }, repeatable: true };
}

function posting(path: string, rest: Omit<EngineCall, 'method' | 'path'>): EngineCall {
  return { method: 'POST', path, ...rest };
}

/** For `catch`: these answers mean that what was asked for is already so. */
function unless(...statuses: readonly number[]): (error: unknown) => void {
  return (error) => {
    const status = statusOf(error);
    if (status === null || !statuses.includes(status)) throw error;
  };
}

async function ignoreGone<T>(pending: Promise<T>): Promise<T | null> {
  return await pending.catch((error: unknown) => {
    if (statusOf(error) === 404) return null;
    throw error;
  });
}

async function resolveImage(client: EngineClient, reference: string): Promise<ImageFacts> {
  const shown = printable(reference);
  const wellFormed = REFERENCE_PATTERN.test(reference) && !reference.split('/').includes('..');
  const call: EngineCall = { method: 'GET', path: `/images/${reference}/json`, repeatable: true };
  const answer = wellFormed ? await ignoreGone(client.call(call)) : null;
  if (answer !== null) return imageFacts(answer);
  throw fail('IMAGE_NOT_FOUND', { detail: `the image ${shown} is not on this host`, image: shown });
}

/** A container that is never started shows what is in the image. Left-overs of a crash are removed on the way. */
async function withProbe<Seen>(
  client: EngineClient,
  digest: string,
  look: (archivePath: string) => Promise<Seen>,
): Promise<Seen> {
  const stale = list(await client.call(listing('/containers/json', { label: [PROBE_LABEL] }, { all: '1' })));
  const oldestKeptAtS = Date.now() / 1000 - REMOVAL_MS / 1000;
  for (const entry of stale.map(objectOf)) {
    if (Number(entry['Created']) < oldestKeptAtS) await removeContainer(client, text(entry['Id']));
  }
  const name = `ringfence-probe-${randomBytes(6).toString('hex')}`;
  const body = {
    Image: digest,
    Entrypoint: ['/ringfence-probe'],
    Labels: { [PROBE_LABEL]: '1' },
    HostConfig: { NetworkMode: 'none', CapDrop: ['ALL'], ReadonlyRootfs: true },
  };
  const create = posting('/containers/create', { query: { name }, body, timeoutMs: SLOW_CALL_MS, repeatable: false });
  try {
    await client.call(create);
    return await look(`${containerPath(name)}/archive`);
  } finally {
    await removeContainer(client, name);
  }
}

async function hasFile(
  client: EngineClient,
  options: { readonly path: string; readonly file: string },
): Promise<boolean> {
  const query = { path: options.file };
  const signal = AbortSignal.timeout(SLOW_CALL_MS);
  const asked = client.open({ method: 'HEAD', path: options.path, query, upgrade: false, signal });
  const connection = await ignoreGone(asked);
  if (connection?.kind === 'response') connection.response.resume();
  return connection !== null;
}

/** Null when there is no such file, when it is no regular one, or when it is larger than any that is asked for. */
async function readFile(
  client: EngineClient,
  options: { readonly path: string; readonly file: string },
): Promise<Uint8Array | null> {
  const query = { path: options.file };
  const signal = AbortSignal.timeout(SLOW_CALL_MS);
  const asked = client.open({ method: 'GET', path: options.path, query, upgrade: false, signal });
  const connection = await ignoreGone(asked);
  if (connection?.kind !== 'response') return null;
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of connection.response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    // Leaving the loop destroys the response.
    if (bytes > IMAGE_FILE_BYTES_MAX) return null;
    chunks.push(chunk);
  }
  return onlyFileIn(Buffer.concat(chunks));
}

async function createNetwork(client: EngineClient, plan: NetworkPlan): Promise<string> {
  const call = posting('/networks/create', { body: networkBody(plan), timeoutMs: SLOW_CALL_MS, repeatable: false });
  try {
    return text(objectOf(await client.call(call))['Id']);
  } catch (error) {
    const found = connectionLost(error) ? await ignoreGone(inspectNetwork(client, plan.name)) : null;
    if (found === null || !sameLabels(networkFacts(found).labels, plan.labels)) throw error;
    return networkFacts(found).id;
  }
}

function inspectNetwork(client: EngineClient, idOrName: string): Promise<unknown> {
  assert(ID_PATTERN.test(idOrName), 'a network has a plain id or name');
  return client.call({ method: 'GET', path: `/networks/${idOrName}`, repeatable: true });
}

async function removeNetwork(client: EngineClient, idOrName: string): Promise<void> {
  assert(ID_PATTERN.test(idOrName), 'a network has a plain id or name');
  const path = `/networks/${idOrName}`;
  await client.call({ method: 'DELETE', path, timeoutMs: SLOW_CALL_MS, repeatable: true }).catch(unless(404));
}

async function createContainer(
  client: EngineClient,
  options: { readonly plan: ContainerPlan; readonly engine: EngineFacts },
): Promise<string> {
  const { plan } = options;
  const call = posting('/containers/create', {
    query: { name: plan.name },
    body: containerBody(plan, options.engine),
    timeoutMs: SLOW_CALL_MS,
    repeatable: false,
  });
  try {
    return text(objectOf(await client.call(call))['Id']);
  } catch (error) {
    if (statusOf(error) === 404 && /no such image/i.test(String(callError(error, NO_CALL).facts['said']))) {
      throw fail(
        'IMAGE_NOT_FOUND',
        { detail: `the image ${printable(plan.image)} is not on this host` },
        { cause: error },
      );
    }
    const found = connectionLost(error) ? await ignoreGone(inspectByName(client, plan.name)) : null;
    if (found === null || !sameLabels(found.labels, plan.labels)) throw error;
    return found.id;
  }
}

const NO_CALL = { call: '', timeoutMs: 0 };

async function inspectByName(client: EngineClient, name: string): Promise<ContainerFacts> {
  return containerFacts(await client.call({ method: 'GET', path: `${containerPath(name)}/json`, repeatable: true }));
}

function sameLabels(found: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>>): boolean {
  return Object.entries(wanted).every(([key, value]) => found[key] === value);
}

/** With its anonymous volumes. 409 is a removal under way: it is waited for, so that success means gone. */
async function removeContainer(client: EngineClient, id: string): Promise<void> {
  const path = containerPath(id);
  const call: EngineCall = {
    method: 'DELETE',
    path,
    query: { force: '1', v: '1' },
    timeoutMs: SLOW_CALL_MS,
    repeatable: true,
  };
  const deadlineMs = performance.now() + REMOVAL_MS;
  try {
    await client.call(call);
    return;
  } catch (error) {
    if (statusOf(error) === 404) return;
    if (statusOf(error) !== 409) throw error;
    while ((await ignoreGone(inspectByName(client, id))) !== null) {
      if (performance.now() > deadlineMs) throw error;
      await delay(REMOVAL_POLL_MS);
    }
  }
}
