import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { plansOf } from '../../test/support/launch-fixtures.ts';
import type { EngineEvent } from '../core/ports/engine.ts';
import { createDockerEngine } from './docker.ts';
import type { DockerEngine } from './docker.ts';
import { createFakeEngine } from './fake.ts';

/** A server on a unix socket that misbehaves as engines have been seen to. */
type Answer = (request: IncomingMessage, response: ServerResponse, socket: Socket) => void;

let folder: string;
let socketPath: string;
let server: Server;
let engine: DockerEngine;
let requests: string[];
let answer: Answer;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ringfence-engine-'));
  socketPath = join(folder, 'engine.sock');
  requests = [];
  answer = (_request, response) => json(response, 200, {});
  server = createServer((request, response) => {
    requests.push(`${request.method ?? ''} ${request.url ?? ''}`);
    if (request.url?.endsWith('/version?') === true || request.url === '/version') {
      return json(response, 200, { ApiVersion: '1.41', MinAPIVersion: '1.12' });
    }
    return answer(request, response, request.socket);
  });
  await listen();
  engine = createDockerEngine({ host: `unix://${socketPath}` });
});

afterEach(async () => {
  engine.close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true, force: true });
});

function listen(): Promise<void> {
  return new Promise((resolve) => server.listen(socketPath, resolve));
}

function json(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
}

describe('the engine’s address', () => {
  it.each(['tcp://192.0.2.1:2375', 'ssh://host', 'relative.sock', ''])(
    'refuses %j: limits are of this host',
    (host) => {
      expect(() => createDockerEngine({ host })).toThrow(/must be one of this host/);
    },
  );

  it('is the socket that was given, whatever the environment says', async () => {
    const before = process.env['DOCKER_HOST'];
    process.env['DOCKER_HOST'] = 'tcp://192.0.2.1:2375';
    const own = createDockerEngine({ host: socketPath });
    try {
      await expect(own.listSubnets()).resolves.toEqual([]);
    } finally {
      if (before === undefined) delete process.env['DOCKER_HOST'];
      else process.env['DOCKER_HOST'] = before;
      own.close();
    }
  });

  it('that nobody listens on is an engine that cannot be reached', async () => {
    const nobody = createDockerEngine({ host: join(folder, 'nobody.sock') });
    await expect(nobody.facts()).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE' });
    nobody.close();
  });
});

describe('a call', () => {
  it('uses the version that both sides know', async () => {
    await engine.listSubnets();
    expect(requests.map((each) => each.split('?')[0])).toEqual(['GET /version', 'GET /v1.41/networks']);
  });

  it('never puts the body of a creation into the address', async () => {
    answer = (request, response) =>
      json(response, 200, request.url?.includes('/info') === true ? INFO : { Id: 'made' });
    await engine.createContainer(await somePlan());
    const created = requests.find((each) => each.includes('/containers/create'));
    expect(created).toBe('POST /v1.41/containers/create?name=ringfence-launch-test-rtest00000000');
  });

  it('carries the engine’s own words, printable and bounded', async () => {
    answer = (_request, response) => json(response, 500, { message: `no\u001b[2Jspace${'!'.repeat(2000)}` });
    const failure = await engine.listSubnets().catch((error: unknown) => error as Error);
    expect(failure).toMatchObject({ code: 'ENGINE_FAILED', facts: { statusCode: 500 } });
    expect((failure as Error).message).toContain('no\\u{1b}[2Jspace');
    expect((failure as Error).message.length).toBeLessThan(600);
  });

  it('is repeated once when a kept-open connection turns out to be stale', async () => {
    await engine.listSubnets();
    let broken = 0;
    answer = (_request, response, socket) => {
      broken += 1;
      if (broken === 1) socket.destroy();
      else json(response, 200, []);
    };
    await expect(engine.listSubnets()).resolves.toEqual([]);
    expect(broken).toBe(2);
  });

  it('is not repeated for ever, and a signal not even once', async () => {
    let calls = 0;
    answer = (_request, _response, socket) => {
      calls += 1;
      socket.destroy();
    };
    await expect(engine.listSubnets()).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE' });
    expect(calls).toBe(2);
    await expect(engine.signalContainer('some', 'SIGTERM')).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE' });
    expect(calls).toBe(3);
  });

  it('that created although the reply was lost is found again by name and labels', async () => {
    const plan = await somePlan();
    answer = (request, response, socket) => {
      if (request.url?.includes('/info') === true) return json(response, 200, INFO);
      if (request.url?.includes('/create') === true) return void socket.destroy();
      return json(response, 200, { Id: 'f'.repeat(64), Name: `/${plan.name}`, Config: { Labels: plan.labels } });
    };
    await expect(engine.createContainer(plan)).resolves.toBe('f'.repeat(64));
  });

  it('never adopts somebody else’s container of that name', async () => {
    const plan = await somePlan();
    answer = (request, response, socket) => {
      if (request.url?.includes('/info') === true) return json(response, 200, INFO);
      if (request.url?.includes('/create') === true) return void socket.destroy();
      return json(response, 200, { Id: 'f'.repeat(64), Name: `/${plan.name}`, Config: { Labels: {} } });
    };
    await expect(engine.createContainer(plan)).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE' });
  });

  it.each([
    ['exec: "x": executable file not found in $PATH: unknown', 127],
    ['exec /agent: permission denied', 126],
    ['no space left on device', undefined],
  ])('to start that fails with %j has the exit code %s', async (message, exitCode) => {
    answer = (_request, response) => json(response, 400, { message });
    const failure = await engine.startContainer('some').catch((error: unknown) => error);
    expect((failure as { facts: Record<string, unknown> }).facts['exitCode']).toBe(exitCode);
  });

  it('refuses an engine that is too old, and what is no engine', async () => {
    server.removeAllListeners('request');
    let version: unknown = { ApiVersion: '1.40', MinAPIVersion: '1.12' };
    server.on('request', (_request, response) => json(response, 200, version));
    await expect(engine.facts()).rejects.toThrow(/speaks API 1\.12 to 1\.40; this version needs/);
    version = { hello: 'world' };
    await expect(engine.facts()).rejects.toThrow(/not a container engine/);
    version = { ApiVersion: '1.99', MinAPIVersion: '1.90' };
    await expect(engine.facts()).rejects.toThrow(/speaks API 1\.90 to 1\.99/);
  });
});

describe('the events', () => {
  const laterNano = BigInt(Date.now() + 60_000) * 1_000_000n;
  const died = (id: string, nano: number): string =>
    `${JSON.stringify({ Type: 'container', Action: 'die', Actor: { ID: id, Attributes: { exitCode: '1' } } }).slice(0, -1)},"timeNano":${String(laterNano + BigInt(nano))}}\n`;

  async function take(count: number): Promise<EngineEvent[]> {
    const events: EngineEvent[] = [];
    const ending = new AbortController();
    const timer = setTimeout(() => ending.abort(), 10_000);
    for await (const event of engine.events(ending.signal)) {
      events.push(event);
      if (events.length === count) break;
    }
    clearTimeout(timer);
    return events;
  }

  const end = (id: string): EngineEvent => ({ kind: 'died', containerId: id, exitCode: 1, labels: { exitCode: '1' } });

  it('are whole however the engine cuts its lines', async () => {
    answer = (_request, response) => {
      const text = died('one', 1) + died('two', 2);
      response.writeHead(200);
      for (const character of text) response.write(character);
    };
    expect(await take(2)).toEqual([end('one'), end('two')]);
  });

  it('say so when the connection was made again, and come only once', async () => {
    let connections = 0;
    answer = (_request, response, socket) => {
      connections += 1;
      response.writeHead(200);
      response.write(died('one', 1));
      if (connections === 2) response.write(died('two', 2));
      if (connections === 1) setImmediate(() => socket.destroy());
    };
    expect(await take(3)).toEqual([end('one'), { kind: 'reconnected' }, end('two')]);
  });

  it('survive lines that are no events and lines without an end', async () => {
    let connections = 0;
    answer = (_request, response) => {
      connections += 1;
      response.writeHead(200);
      if (connections === 1) response.write('this is not JSON\n');
      else if (connections === 2) response.write('x'.repeat(1024 * 1024 + 1));
      else response.write(died('one', 1));
    };
    expect(await take(3)).toEqual([{ kind: 'reconnected' }, { kind: 'reconnected' }, end('one')]);
  });

  it('end when they are told to, also while nobody answers', async () => {
    answer = () => undefined;
    const ending = new AbortController();
    const reading = engine.events(ending.signal)[Symbol.asyncIterator]().next();
    ending.abort();
    expect(await reading).toEqual({ done: true, value: undefined });
  });
});

const INFO = { ServerVersion: '0', NCPU: 2, MemTotal: 2 ** 30, CgroupVersion: '2' };

async function somePlan() {
  const fake = createFakeEngine();
  fake.addImage('agent');
  const [image, facts] = await Promise.all([fake.engine.resolveImage('agent'), fake.engine.facts()]);
  return plansOf({ index: 0, image, engine: facts }).container;
}
