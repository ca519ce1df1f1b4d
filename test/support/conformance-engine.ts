import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ContainerPlan, Engine, EngineEvent, OutputChunk } from '../../src/core/ports/engine.ts';
import { LABEL_RUN } from '../../src/run/plan.ts';
import { compareLaunch } from '../../src/run/readback.ts';
import { plansOf, uniqueRunId } from './launch-fixtures.ts';
import type { TestPlans } from './launch-fixtures.ts';

/** What an engine must bring to be tested: itself, an image, and commands that do four simple things in it. */
export type EngineUnderTest = {
  readonly engine: Engine;
  readonly image: string;
  readonly fileInImage: string;
  /** Of some kilobytes at most. */
  readonly regularFileInImage: { readonly path: string; readonly content: string };
  readonly commands: {
    exits(code: number): readonly string[];
    prints(texts: { readonly stdout: string; readonly stderr: string }): readonly string[];
    /** Runs until SIGTERM. */
    readonly waits: readonly string[];
    /** Standard input to standard output, until the input ends. */
    readonly copies: readonly string[];
  };
  /** Called after each test, when its containers and networks are gone. */
  removeCgroups(runId: string): Promise<void>;
  close(): Promise<void>;
};

const FACT_MS_MAX = 20_000;

const RUN_ID = uniqueRunId(0);

/** The promises of the Engine port, the same for the fake and for real Docker. */
export function engineConformance(name: string, open: () => Promise<EngineUnderTest>): void {
  describe(`the engine port: ${name}`, () => {
    let under: EngineUnderTest;
    let made: { containers: string[]; networks: string[] };

    beforeAll(async () => {
      under = await open();
      made = { containers: [], networks: [] };
    });
    afterEach(async () => {
      for (const id of made.containers.splice(0)) await under.engine.removeContainer(id);
      for (const id of made.networks.splice(0)) await under.engine.removeNetwork(id);
      await under.removeCgroups(RUN_ID);
      const label = `${LABEL_RUN}=${RUN_ID}`;
      expect(await under.engine.listContainers(label)).toEqual([]);
      expect(await under.engine.listNetworks(label)).toEqual([]);
    });
    afterAll(() => under.close());

    async function plans(
      command: readonly string[],
      options: { tty?: boolean; stdin?: boolean } = {},
    ): Promise<TestPlans> {
      const image = await under.engine.resolveImage(under.image);
      const spec = { command };
      return plansOf({ index: 0, runId: RUN_ID, image, engine: await under.engine.facts(), spec, ...options });
    }

    async function create(planned: TestPlans): Promise<string> {
      made.networks.push(planned.network.name);
      await under.engine.createNetwork(planned.network);
      made.containers.push(planned.container.name);
      return await under.engine.createContainer(planned.container);
    }

    async function launched(...args: Parameters<typeof plans>): Promise<string> {
      const id = await create(await plans(...args));
      await under.engine.startContainer(id);
      return id;
    }

    async function untilOver(id: string): Promise<number | null> {
      const deadlineMs = performance.now() + FACT_MS_MAX;
      for (;;) {
        const facts = await under.engine.inspectContainer(id);
        if (facts.state === 'exited') return facts.exitCode;
        if (performance.now() > deadlineMs) throw new Error(`the container is still ${facts.state}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }

    it('says what it is', async () => {
      const facts = await under.engine.facts();
      expect(facts.version).not.toBe('');
      expect(facts.cpus).toBeGreaterThan(0);
      expect(facts.memoryBytes).toBeGreaterThan(0);
    });

    it('resolves a tag and its digest to the same image', async () => {
      const byTag = await under.engine.resolveImage(under.image);
      expect(byTag.digest).toMatch(/^sha256:[0-9a-f]{64}$/);
      expect((await under.engine.resolveImage(byTag.digest)).digest).toBe(byTag.digest);
    });

    it.each(['ringfence/no-such-image:local', '../networks', 'a b', '', 'x/../../containers/json?all=1#'])(
      'refuses the image reference %j',
      async (reference) => {
        await expect(under.engine.resolveImage(reference)).rejects.toMatchObject({ code: 'IMAGE_NOT_FOUND' });
      },
    );

    it('says whether an image has a file', async () => {
      const { digest } = await under.engine.resolveImage(under.image);
      const answers = [under.fileInImage, '/no/such/file'].map((path) => under.engine.imageHasFile(digest, path));
      expect(await Promise.all(answers)).toEqual([true, false]);
    });

    it('reads the regular files of an image, and neither folders nor what is not there', async () => {
      const { digest } = await under.engine.resolveImage(under.image);
      const files = await under.engine.readImageFiles(digest, [under.regularFileInImage.path, '/bin', '/no/such/file']);
      const read = [...files].map(([path, content]) => [path, Buffer.from(content).toString()]);
      expect(read).toEqual([[under.regularFileInImage.path, under.regularFileInImage.content]]);
    });

    it('makes a network once, lists it, and forgets it', async () => {
      const { network } = await plans(under.commands.waits);
      made.networks.push(network.name);
      const id = await under.engine.createNetwork(network);
      await expect(under.engine.createNetwork(network)).rejects.toMatchObject({ code: 'ENGINE_FAILED' });
      const { bridge, subnet, labels } = network;
      const listed = await under.engine.listNetworks(LABEL_RUN);
      expect(listed.filter((each) => each.id === id)).toEqual([
        { id, name: network.name, bridge, subnet, labels, containerIds: [] },
      ]);
      expect(await under.engine.listSubnets()).toContain(subnet);
      await under.engine.removeNetwork(id);
      await under.engine.removeNetwork(id);
      await under.engine.removeNetwork(network.name);
      expect(await under.engine.listSubnets()).not.toContain(subnet);
    });

    it('takes a container from created over running to exited and gone', async () => {
      const planned = await plans(under.commands.waits);
      const id = await create(planned);
      expect(await under.engine.inspectContainer(id)).toMatchObject({ state: 'created', pid: null, exitCode: null });
      await under.engine.startContainer(id);
      await under.engine.startContainer(id);
      const running = await under.engine.inspectContainer(id);
      expect(running.state).toBe('running');
      expect(running.pid).toBeGreaterThan(0);
      const listed = await under.engine.listContainers(`${LABEL_RUN}=${planned.container.labels[LABEL_RUN] ?? ''}`);
      // The labels of the image are there too.
      expect(listed).toMatchObject([
        { id, name: planned.container.name, state: 'running', labels: planned.container.labels },
      ]);
      await under.engine.signalContainer(id, 'SIGTERM');
      expect(await untilOver(id)).toBe(143);
      await under.engine.signalContainer(id, 'SIGTERM');
      await under.engine.removeContainer(id);
      await under.engine.removeContainer(id);
      await under.engine.signalContainer(id, 'SIGTERM');
      await expect(under.engine.inspectContainer(id)).rejects.toMatchObject({
        code: 'ENGINE_FAILED',
        facts: { statusCode: 404 },
      });
    });

    it('shows a container exactly as it was planned', async () => {
      const planned = await plans(under.commands.waits);
      const id = await create(planned);
      await under.engine.startContainer(id);
      const container = await under.engine.inspectContainer(id);
      const nothing = { kernel: null, process: null, hostNamespaces: {}, mountLocations: {} };
      expect(compareLaunch({ plan: planned.container, container, ...nothing })).toEqual([]);
    });

    it('refuses a second container of the same name, and one without an image', async () => {
      const planned = await plans(under.commands.waits);
      await create(planned);
      await expect(under.engine.createContainer(planned.container)).rejects.toMatchObject({ code: 'ENGINE_FAILED' });
      const unknown: ContainerPlan = {
        ...planned.container,
        name: `${planned.container.name}-none`,
        image: `sha256:${'9'.repeat(64)}`,
      };
      await expect(under.engine.createContainer(unknown)).rejects.toMatchObject({ code: 'IMAGE_NOT_FOUND' });
    });

    it.each([0, 3, 127])('reports the exit code %d', async (code) => {
      expect(await untilOver(await launched(under.commands.exits(code)))).toBe(code);
    });

    it('removes a container that still runs', async () => {
      const id = await launched(under.commands.waits);
      await under.engine.removeContainer(id);
      await expect(under.engine.inspectContainer(id)).rejects.toMatchObject({ code: 'ENGINE_FAILED' });
    });

    it('hands over both outputs from the first byte, and ends them with the agent', async () => {
      const id = await create(await plans(under.commands.prints({ stdout: 'to the one', stderr: 'to the other' })));
      const attached = await under.engine.attach(id, { tty: false, stdin: false });
      const reading = Promise.all([textOf(attached.stdout), textOf(attached.stderr)]);
      await under.engine.startContainer(id);
      expect(await reading).toEqual(['to the one', 'to the other']);
      expect(attached.stdin).toBeNull();
    });

    it('carries the input and its end', async () => {
      const id = await create(await plans(under.commands.copies, { stdin: true }));
      const attached = await under.engine.attach(id, { tty: false, stdin: true });
      const reading = Promise.all([textOf(attached.stdout), textOf(attached.stderr)]);
      await under.engine.startContainer(id);
      attached.stdin?.write('said and ');
      attached.stdin?.end('heard');
      expect(await reading).toEqual(['said and heard', '']);
      expect(await untilOver(id)).toBe(0);
    });

    it('gives a terminal one stream and a size', async () => {
      const command = under.commands.prints({ stdout: 'a terminal', stderr: '' });
      const id = await create(await plans(command, { tty: true, stdin: true }));
      const attached = await under.engine.attach(id, { tty: true, stdin: true });
      const reading = Promise.all([textOf(attached.stdout), textOf(attached.stderr)]);
      await under.engine.startContainer(id);
      // The agent may be over before its terminal can be given a size; then there is nothing to give it to.
      await under.engine.resizeTty(id, { columns: 100, rows: 40 }).catch(() => undefined);
      expect(await reading).toEqual(['a terminal', '']);
    });

    it('keeps the output, whole and from the end, also when it follows', async () => {
      const id = await launched(under.commands.prints({ stdout: 'kept\n', stderr: 'kept too\n' }));
      await untilOver(id);
      const read = async (options: { follow: boolean; tailLines: number | null }): Promise<Record<string, string>> => {
        const chunks: OutputChunk[] = [];
        const signal = AbortSignal.timeout(FACT_MS_MAX);
        for await (const chunk of under.engine.logs(id, { ...options, signal })) chunks.push(chunk);
        const text = (stream: string): string =>
          Buffer.concat(chunks.filter((chunk) => chunk.stream === stream).map((chunk) => chunk.bytes)).toString();
        return { stdout: text('stdout'), stderr: text('stderr') };
      };
      const whole = { stdout: 'kept\n', stderr: 'kept too\n' };
      expect(await read({ follow: false, tailLines: null })).toEqual(whole);
      expect(await read({ follow: true, tailLines: null })).toEqual(whole);
      expect(Object.values(await read({ follow: false, tailLines: 1 })).join('')).toMatch(/^kept( too)?\n$/);
      expect(await read({ follow: false, tailLines: 0 })).toEqual({ stdout: '', stderr: '' });
    });

    it('ends a followed log when it is told to', async () => {
      const id = await launched(under.commands.waits);
      const ending = new AbortController();
      const reading = (async () => {
        for await (const chunk of under.engine.logs(id, { follow: true, tailLines: null, signal: ending.signal }))
          void chunk;
      })();
      ending.abort();
      await reading;
    });

    it('tells of the end of a container, with its code and labels, and not of our own start', async () => {
      const listening = new AbortController();
      const events: EngineEvent[] = [];
      const over = Promise.withResolvers<void>();
      const feed = (async () => {
        for await (const event of under.engine.events(listening.signal)) {
          events.push(event);
          if (event.kind === 'died') over.resolve();
        }
      })();
      const planned = await plans(under.commands.exits(7));
      const id = await create(planned);
      await under.engine.startContainer(id);
      await withDeadline(over.promise);
      listening.abort();
      await withDeadline(feed);
      const own = events.filter((event) => 'containerId' in event && event.containerId === id);
      expect(own.filter((event) => event.kind === 'touched')).toEqual([]);
      expect(own.filter((event) => event.kind === 'network-attached')).toEqual([
        { kind: 'network-attached', containerId: id, network: planned.network.name },
      ]);
      const [died] = own.filter((event) => event.kind === 'died');
      expect(died).toMatchObject({ containerId: id, exitCode: 7, labels: planned.container.labels });
    });
  });
}

async function textOf(source: AsyncIterable<unknown>): Promise<string> {
  let text = '';
  for await (const bytes of source) text += String(bytes);
  return text;
}

async function withDeadline<T>(pending: Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error('the deadline has passed')), FACT_MS_MAX);
  return await Promise.race([pending, promise]).finally(() => clearTimeout(timer));
}
