import { PassThrough } from 'node:stream';
import { assert } from '../core/assert.ts';
import { fail } from '../core/errors.ts';
import type {
  ContainerFacts,
  ContainerPlan,
  Engine,
  EngineEvent,
  EngineFacts,
  ImageFacts,
  NetworkPlan,
  OutputChunk,
} from '../core/ports/engine.ts';
import { tmpfsOptions } from './create-body.ts';
import { EventQueue } from './events.ts';
import { createFaults } from './fake-faults.ts';
import type { FakeFaults } from './fake-faults.ts';
import { builtIn, runProgram } from './fake-programs.ts';
import type { FakeProcess, FakeProgram } from './fake-programs.ts';

/**
 * An engine in memory, for tests of what stands above the port. It keeps the promises that the conformance suite
 * checks on both, and fails on command: before a call, after it (the reply is lost), or not until it is released.
 */
export type FakeEngine = {
  readonly engine: Engine;
  readonly faults: FakeFaults;
  addImage(reference: string, image?: Partial<FakeImage>): void;
  /** What a container does whose command is this program. */
  addProgram(name: string, program: FakeProgram): void;
  emit(event: EngineEvent): void;
  /** Changes what inspection says, as somebody else on the host could. */
  tamper(containerId: string, change: Partial<ContainerFacts>): void;
  setFacts(change: Partial<EngineFacts>): void;
  readonly containers: () => readonly string[];
  readonly networks: () => readonly string[];
};

const FACTS: EngineFacts = {
  version: '0.0.0-fake',
  apiVersion: '1.44',
  cgroupVersion: 2,
  cgroupDriver: 'cgroupfs',
  storageDriver: 'fake',
  imageStore: 'classic',
  holds: { cpu: true, memory: true, swap: true, pids: true },
  rootDirectory: '/var/lib/fake',
  appArmor: false,
  seccomp: true,
  userNamespaces: false,
  liveRestore: false,
  cdiFolders: [],
  cpus: 4,
  memoryBytes: 8 * 2 ** 30,
};

const EXIT_BY_SIGNAL = 128;

type Container = {
  readonly id: string;
  readonly plan: ContainerPlan;
  readonly output: OutputChunk[];
  readonly stdin: PassThrough;
  readonly attached: Set<{ readonly stdout: PassThrough; readonly stderr: PassThrough }>;
  readonly over: PromiseWithResolvers<void>;
  readonly changes: Partial<ContainerFacts>[];
  state: 'created' | 'running' | 'exited';
  pid: number | null;
  exitCode: number | null;
  startedAt: string | null;
  finishedAt: string | null;
  signal: (name: string) => void;
  wake: () => void;
};

export function createFakeEngine(): FakeEngine {
  const images = new Map<string, FakeImage>();
  const programs = new Map<string, FakeProgram>();
  const networks = new Map<string, { readonly id: string; readonly plan: NetworkPlan }>();
  const containers = new Map<string, Container>();
  const listeners = new Set<EventQueue>();
  const faults = createFaults();
  let facts = FACTS;
  let serial = 0;

  const emit = (event: EngineEvent): void => {
    for (const listener of listeners) listener.put(event);
  };
  const newId = (): string => {
    serial += 1;
    return serial.toString(16).padStart(64, '0');
  };
  const find = (idOrName: string): Container | undefined =>
    containers.get(idOrName) ?? [...containers.values()].find((container) => container.plan.name === idOrName);
  const get = (idOrName: string): Container => find(idOrName) ?? refuse(404, `No such container: ${idOrName}`);
  const getNetwork = (idOrName: string): { readonly id: string; readonly plan: NetworkPlan } | undefined =>
    networks.get(idOrName) ?? [...networks.values()].find((network) => network.plan.name === idOrName);

  function end(container: Container, exitCode: number): void {
    if (container.state !== 'running') return;
    Object.assign(container, { state: 'exited', exitCode, pid: null, finishedAt: new Date().toISOString() });
    for (const streams of container.attached) {
      streams.stdout.end();
      streams.stderr.end();
    }
    container.over.resolve();
    container.wake();
    const { labels } = container.plan;
    emit({ kind: 'died', containerId: container.id, exitCode, labels });
    emit({ kind: 'network-detached', containerId: container.id, network: container.plan.network });
  }

  function start(container: Container): void {
    if (container.state === 'running') return;
    serial += 1;
    Object.assign(container, { state: 'running', pid: 100_000 + serial, startedAt: new Date().toISOString() });
    emit({ kind: 'network-attached', containerId: container.id, network: container.plan.network });
    const signalled = Promise.withResolvers<string>();
    container.signal = (name) => {
      if (name === 'SIGKILL') end(container, EXIT_BY_SIGNAL + 9);
      else signalled.resolve(name);
    };
    const process: FakeProcess = {
      args: container.plan.command.slice(1),
      stdin: container.stdin,
      signalled: signalled.promise,
      write: (stream, text) => {
        if (container.state !== 'running') return;
        const chunk: OutputChunk = { stream: container.plan.tty ? 'stdout' : stream, bytes: Buffer.from(text) };
        container.output.push(chunk);
        for (const streams of container.attached) streams[chunk.stream].write(chunk.bytes);
        container.wake();
      },
    };
    // Its end, good or bad, is the end of the container; nobody else waits for it.
    void runProgram(programOf(container.plan), process).then((exitCode) => end(container, exitCode));
  }

  const engine: Engine = {
    facts: () => faults.pass('facts', () => facts),
    components: () => Promise.resolve([{ name: 'Engine', version: facts.version, build: '' }]),
    resolveImage: (reference) =>
      faults.pass('resolveImage', () => {
        const image = images.get(reference) ?? [...images.values()].find((each) => each.digest === reference);
        if (image !== undefined) return withoutFiles(image);
        throw fail('IMAGE_NOT_FOUND', { detail: `the image ${reference} is not on this host` });
      }),
    imageHasFile: (digest, path) =>
      faults.pass('imageHasFile', () => {
        const image = [...images.values()].find((each) => each.digest === digest);
        return image?.files.includes(path) ?? refuse(404, `No such image: ${digest}`);
      }),
    readImageFiles: (digest, paths) =>
      faults.pass('readImageFiles', () => {
        const image = [...images.values()].find((each) => each.digest === digest);
        if (image === undefined) return refuse(404, `No such image: ${digest}`);
        const held = paths.filter((path) => image.files.includes(path));
        return new Map(held.map((path) => [path, Buffer.from(image.contents[path] ?? '')]));
      }),
    createNetwork: (plan) =>
      faults.pass('createNetwork', () => {
        if (getNetwork(plan.name) !== undefined) refuse(409, `network with name ${plan.name} already exists`);
        const id = newId();
        networks.set(id, { id, plan });
        return id;
      }),
    removeNetwork: (idOrName) =>
      faults.pass('removeNetwork', () => {
        const network = getNetwork(idOrName);
        if (network === undefined) return;
        if (attachedTo(network.plan).length > 0) refuse(403, `network ${network.plan.name} has active endpoints`);
        networks.delete(network.id);
      }),
    listNetworks: (label) =>
      faults.pass('listNetworks', () =>
        [...networks.values()]
          .filter(({ plan }) => carries(plan.labels, label))
          .map(({ id, plan }) => ({
            id,
            name: plan.name,
            bridge: plan.bridge,
            subnet: plan.subnet,
            labels: plan.labels,
            containerIds: attachedTo(plan),
          })),
      ),
    listSubnets: () => faults.pass('listSubnets', () => [...networks.values()].map(({ plan }) => plan.subnet)),
    createContainer: (plan) =>
      faults.pass('createContainer', () => {
        if (find(plan.name) !== undefined) refuse(409, `the container name "/${plan.name}" is already in use`);
        if (![...images].some(([name, { digest }]) => name === plan.image || digest === plan.image)) {
          throw fail('IMAGE_NOT_FOUND', { detail: `the image ${plan.image} is not on this host` });
        }
        const container = newContainer(newId(), plan);
        containers.set(container.id, container);
        return container.id;
      }),
    startContainer: (id) => faults.pass('startContainer', () => start(get(id))),
    inspectContainer: (id) => faults.pass('inspectContainer', () => factsOf(get(id))),
    listContainers: (label) =>
      faults.pass('listContainers', () =>
        [...containers.values()]
          .filter(({ plan }) => carries(plan.labels, label))
          .map(({ id, plan, state }) => ({ id, name: plan.name, state, labels: plan.labels })),
      ),
    attach: (id, options) =>
      faults.pass('attach', () => {
        const container = get(id);
        const streams = { stdout: new PassThrough(), stderr: new PassThrough() };
        container.attached.add(streams);
        return {
          stdin: options.stdin ? container.stdin : null,
          ...streams,
          close: () => {
            container.attached.delete(streams);
            streams.stdout.destroy();
            streams.stderr.destroy();
          },
        };
      }),
    logs: async function* (id, options) {
      const container = await faults.pass('logs', () => get(id));
      yield* logOf(container, options);
    },
    resizeTty: (id) => faults.pass('resizeTty', () => void get(id)),
    signalContainer: (id, signal) => faults.pass('signalContainer', () => find(id)?.signal(signal)),
    removeContainer: (id) =>
      faults.pass('removeContainer', () => {
        const container = find(id);
        if (container === undefined) return;
        end(container, EXIT_BY_SIGNAL + 9);
        containers.delete(container.id);
      }),
    events: async function* (signal) {
      const queue = new EventQueue(signal);
      listeners.add(queue);
      try {
        yield* queue.drain();
      } finally {
        listeners.delete(queue);
      }
    },
  };

  function programOf(plan: ContainerPlan): FakeProgram | undefined {
    const name = plan.command[0] ?? '';
    return programs.get(name) ?? builtIn(name);
  }

  function attachedTo(plan: NetworkPlan): string[] {
    return [...containers.values()]
      .filter((container) => container.state === 'running' && container.plan.network === plan.name)
      .map((container) => container.id);
  }

  return {
    engine,
    faults,
    addImage: (reference, image = {}) =>
      images.set(reference, { ...imageOf(reference), files: ['/bin/sh'], contents: {}, ...image }),
    addProgram: (name, program) => programs.set(name, program),
    emit,
    tamper: (containerId, change) => get(containerId).changes.push(change),
    setFacts: (change) => {
      facts = { ...facts, ...change };
    },
    containers: () => [...containers.values()].map((container) => container.plan.name),
    networks: () => [...networks.values()].map((network) => network.plan.name),
  };
}

function refuse(statusCode: number, said: string): never {
  throw fail('ENGINE_FAILED', { detail: `the engine refused the call: ${said}`, statusCode, said });
}

/** `key` or `key=value`, as the engine filters. */
function carries(labels: Readonly<Record<string, string>>, label: string): boolean {
  const equals = label.indexOf('=');
  if (equals === -1) return label in labels;
  return labels[label.slice(0, equals)] === label.slice(equals + 1);
}

type FakeImage = ImageFacts & {
  readonly files: readonly string[];
  /** Of some of the files; the others are empty. */
  readonly contents: Readonly<Record<string, string>>;
};

function imageOf(reference: string): ImageFacts {
  const hex = Buffer.from(reference).toString('hex').padEnd(64, '0').slice(0, 64);
  return {
    digest: `sha256:${hex}`,
    repoDigests: [],
    entrypoint: [],
    env: [],
    user: '',
    volumes: [],
    workingDirectory: '',
    sizeBytes: 1,
  };
}

function withoutFiles({ files: _files, contents: _contents, ...image }: FakeImage): ImageFacts {
  return image;
}

function newContainer(id: string, plan: ContainerPlan): Container {
  assert(plan.command.length > 0, 'a container has a command');
  return {
    id,
    plan,
    output: [],
    stdin: new PassThrough(),
    attached: new Set(),
    over: Promise.withResolvers<void>(),
    changes: [],
    state: 'created',
    pid: null,
    exitCode: null,
    startedAt: null,
    finishedAt: null,
    signal: () => undefined,
    wake: () => undefined,
  };
}

async function* logOf(
  container: Container,
  options: { readonly follow: boolean; readonly tailLines: number | null; readonly signal: AbortSignal },
): AsyncIterable<OutputChunk> {
  let next = options.tailLines === null ? 0 : Math.max(0, container.output.length - options.tailLines);
  const aborted = Promise.withResolvers<void>();
  options.signal.addEventListener('abort', () => aborted.resolve(), { once: true });
  while (!options.signal.aborted) {
    const chunk = container.output[next];
    if (chunk !== undefined) {
      next += 1;
      yield chunk;
      continue;
    }
    if (!options.follow || container.state !== 'running') return;
    const more = Promise.withResolvers<void>();
    const earlier = container.wake;
    container.wake = () => {
      earlier();
      more.resolve();
    };
    await Promise.race([more.promise, container.over.promise, aborted.promise]);
    container.wake = earlier;
  }
}

/** What a faithful engine says of a container made from this plan. */
function factsOf(container: Container): ContainerFacts {
  const { plan } = container;
  const appArmor = plan.appArmorProfile === null ? [] : [`apparmor=${plan.appArmorProfile}`];
  return Object.assign(
    {
      id: container.id,
      name: plan.name,
      image: plan.image,
      labels: plan.labels,
      state: container.state,
      pid: container.pid,
      exitCode: container.exitCode,
      oomKilledFlag: false,
      startedAt: container.startedAt,
      finishedAt: container.finishedAt,
      user: plan.user,
      privileged: false,
      readOnlyRoot: true,
      capabilitiesAdded: [],
      capabilitiesDropped: ['ALL'],
      securityOptions: ['no-new-privileges:true', ...appArmor],
      appArmorProfile: plan.appArmorProfile ?? '',
      namespaceModes: { pid: '', ipc: 'private', uts: '', user: '', network: plan.network, cgroup: 'private' },
      publishedPorts: 0,
      devices: [],
      groupsAdded: [],
      deviceRequests: [],
      restartPolicy: 'no',
      memoryBytesMax: plan.memoryBytesMax,
      memorySwapBytesMax: plan.memoryBytesMax,
      cpuMillis: plan.cpuMillis,
      pidsMax: plan.pidsMax,
      ulimits: { nofile: plan.filesMax, core: 0 },
      tmpfs: Object.fromEntries(plan.tmpfs.map((entry) => [entry.path, tmpfsOptions(entry)])),
      mounts: plan.binds.map((bind) => ({ type: 'bind', ...bind, propagation: 'rprivate' })),
      networks: [{ name: plan.network, address: plan.address }],
      dns: [plan.dns],
      logDriver: 'json-file',
      logOptions: { 'max-size': String(Math.floor(plan.logBytesMax / 2)), 'max-file': '2' },
      init: true,
      cgroupParent: plan.cgroupParent,
    },
    ...container.changes,
  ) as ContainerFacts;
}
