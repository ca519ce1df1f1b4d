import { chmod, mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { FAKE_CALLER, openSocket, rawExchange, startApi, until } from '../../test/support/api-fixture.ts';
import { fakeRun } from '../../test/support/fake-service.ts';
import { peerCredentials } from '../kernel/libc.ts';
import { connectClient } from './client.ts';
import type { LaunchRequest } from './service.ts';
import { BODY_BYTES_MAX } from './request.ts';

const LAUNCH: LaunchRequest = {
  profilePath: '/srv/profiles/offline.yaml',
  profileText: 'name: offline\n',
  command: null,
  labels: { team: 'red' },
  attach: false,
  tty: false,
  stdin: false,
};

function post(path: string, body: string, headers = 'Content-Type: application/json\r\n'): string {
  return `POST ${path} HTTP/1.1\r\n${headers}Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`;
}

function errorOf(text: string): { status: number; error: { code: string; message: string } } {
  const [head = '', body = ''] = text.split('\r\n\r\n');
  return { status: Number(head.split(' ')[1]), error: (JSON.parse(body) as { error: never }).error };
}

describe('the API', () => {
  it('launches, shows, waits for and ends a run', async () => {
    await using api = await startApi();
    api.service.agents.set(LAUNCH.profilePath, async ({ nextSignal }) => {
      const signal = await nextSignal();
      return { reason: 'stopped', signal, exitCode: null };
    });
    const run = await api.client.launch(LAUNCH);
    expect(run).toMatchObject({ profile: 'offline', labels: { team: 'red' } });
    expect(await api.client.list({ all: false })).toHaveLength(1);
    expect((await api.client.inspect('offline')).runId).toBe(run.runId);
    const waiting = api.client.wait(run.runId);
    await api.client.stop(run.runId);
    expect(await waiting).toMatchObject({ runId: run.runId, reason: 'stopped', signal: 'SIGTERM' });
    expect(api.service.calls.find(({ call }) => call === 'launch')).toEqual({
      call: 'launch',
      argument: LAUNCH,
      caller: FAKE_CALLER,
    });
  });

  it('takes the caller from the kernel, not from the client', async () => {
    await using api = await startApi({ peerOf: peerCredentials });
    await api.client.gc();
    expect(api.service.calls).toEqual([
      { call: 'gc', argument: null, caller: { uid: process.getuid?.(), gid: process.getgid?.(), pid: process.pid } },
    ]);
  });

  it('gives back an expected error with its code, facts and hint', async () => {
    await using api = await startApi();
    await expect(api.client.inspect('r1')).rejects.toMatchObject({
      code: 'RUN_NOT_FOUND',
      message: 'there is no run r1',
      hint: '`ringfence ps --all` lists the runs',
    });
  });

  it('says nothing about a fault of its own, and logs it', async () => {
    await using api = await startApi();
    api.service.doctor = () => Promise.reject(new Error('secret path /srv/x'));
    await expect(api.client.doctor()).rejects.toMatchObject({
      code: 'INTERNAL',
      message: 'the supervisor met a fault of its own',
      facts: { detail: 'the supervisor met a fault of its own' },
    });
    expect(api.logged).toEqual(['error request failed Error: secret path /srv/x']);
  });

  it('streams events, and tells the service when the reader leaves', async () => {
    await using api = await startApi();
    const record = { seq: 1, at: '2026-03-01T12:00:00.000Z', prev: '', kind: 'daemon.started' } as const;
    api.service.addRecord(record);
    let ended = false;
    const events = api.service.events.bind(api.service);
    api.service.events = async function* (options, signal) {
      try {
        yield* events(options, signal);
      } finally {
        ended = true;
      }
    };
    const leave = new AbortController();
    const seen = [];
    for await (const event of api.client.events({ follow: true, sinceMs: null, run: null }, leave.signal)) {
      seen.push(event);
      if (seen.length === 2) break;
      api.service.addRecord({ ...record, seq: 2 });
    }
    expect(seen.map(({ seq }) => seq)).toEqual([1, 2]);
    await until(() => ended, 'the stream of the service ended');
  });

  it('ends a stream with the error that ended it', async () => {
    await using api = await startApi();
    api.service.addRun(fakeRun({}));
    api.service.logs = async function* () {
      yield { stream: 'stdout', bytes: Buffer.from('one\n') };
      throw new Error('the engine is gone');
    };
    const read = async () => {
      for await (const chunk of api.client.logs('r1', { follow: false, tailLines: null })) {
        expect(Buffer.from(chunk.bytes).toString()).toBe('one\n');
      }
    };
    await expect(read()).rejects.toMatchObject({ code: 'INTERNAL' });
  });

  it('does not let a slow reader fill its memory', async () => {
    await using api = await startApi();
    let yielded = 0;
    api.service.logs = async function* () {
      for (let count = 0; count < 10_000; count += 1) {
        yielded += 1;
        yield { stream: 'stdout', bytes: new Uint8Array(64 * 1024) };
      }
    };
    const socket = await openSocket(api.socketPath);
    socket.pause();
    socket.write('GET /v1/runs/r1/logs HTTP/1.1\r\n\r\n');
    await until(() => yielded > 0, 'the stream began');
    const before = await settled(() => yielded);
    expect(before).toBeLessThan(100);
    socket.destroy();
  });
});

/** The value once it has stopped to grow for a while. */
async function settled(value: () => number): Promise<number> {
  let last = -1;
  while (last !== value()) {
    last = value();
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return last;
}

describe('a request that is not valid', () => {
  it.each([
    ['unknown path', 'GET /v1/nothing HTTP/1.1\r\n\r\n', 'no such endpoint: GET /v1/nothing'],
    ['wrong method', 'DELETE /v1/runs HTTP/1.1\r\n\r\n', '/v1/runs takes POST or GET, got DELETE'],
    ['no content type', post('/v1/runs', '{}', ''), 'the body must be application/json, got no type'],
    [
      'other content type',
      post('/v1/runs', '{}', 'Content-Type: text/plain\r\n'),
      'the body must be application/json, got text/plain',
    ],
    [
      'compressed',
      post('/v1/runs', '{}', 'Content-Type: application/json\r\nContent-Encoding: gzip\r\n'),
      'the body must not be compressed',
    ],
    ['no JSON', post('/v1/runs', '{'), 'the body is not JSON'],
    ['deep JSON', post('/v1/runs', '['.repeat(100_000)), 'the body is nested deeper than 16'],
    [
      'unknown key',
      post('/v1/runs', JSON.stringify({ ...LAUNCH, privileged: true })),
      'body: Unrecognized key: "privileged"',
    ],
    [
      'the prototype',
      post('/v1/runs', `${JSON.stringify(LAUNCH).slice(0, -1)},"__proto__":{"attach":true}}`),
      'body: Unrecognized key: "__proto__"',
    ],
    [
      'relative path',
      post('/v1/runs', JSON.stringify({ ...LAUNCH, profilePath: 'a.yaml' })),
      'body.profilePath: must be an absolute path',
    ],
    [
      'our own label',
      post('/v1/runs', JSON.stringify({ ...LAUNCH, labels: { 'ringfence.run': 'x' } })),
      'body.labels: must not use keys that begin with `ringfence`, which are the supervisor’s own',
    ],
    [
      'control in a label',
      post('/v1/runs', JSON.stringify({ ...LAUNCH, labels: { a: '\u001b[2J' } })),
      'body.labels.a: must hold no control characters',
    ],
    [
      'hostile run',
      'GET /v1/runs/..%2F..%2Fetc HTTP/1.1\r\n\r\n',
      'run: must be a run id, the beginning of one, or the name of a profile',
    ],
    ['query twice', 'GET /v1/runs?all=true&all=false HTTP/1.1\r\n\r\n', 'query.all: given twice'],
    ['unknown query', 'GET /v1/runs?everything=true HTTP/1.1\r\n\r\n', 'query: Unrecognized key: "everything"'],
    ['bad tail', 'GET /v1/runs/r1/logs?tail=-1 HTTP/1.1\r\n\r\n', 'query.tail: must be a whole number'],
    ['a body where none belongs', post('/v1/gc', '{}'), 'this endpoint takes no body'],
    [
      'attach without upgrade',
      'GET /v1/runs/r1/attach HTTP/1.1\r\n\r\n',
      'attach needs the header `Upgrade: ringfence-attach/1`',
    ],
    [
      'upgrade of something else',
      'GET /v1/runs HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
      'only attach can be upgraded, and only to ringfence-attach/1',
    ],
    ['garbage', '\u0000\u0001\u0002\r\n\r\n', 'the request is not HTTP'],
    ['TLS', '\u0016\u0003\u0001\u0002\u0000\u0001', 'the request is not HTTP'],
    [
      'large headers',
      `GET /v1/runs HTTP/1.1\r\nX: ${'a'.repeat(20_000)}\r\n\r\n`,
      'the headers of the request are too large',
    ],
  ])('is answered with the reason: %s', async (_, bytes, message) => {
    await using api = await startApi();
    const { text } = await rawExchange(
      api.socketPath,
      bytes.replace('HTTP/1.1\r\n\r\n', 'HTTP/1.1\r\nConnection: close\r\n\r\n'),
    );
    expect(errorOf(text)).toMatchObject({ status: 400, error: { code: 'REQUEST_INVALID', message } });
    expect(api.logged).toEqual([]);
    // The twin: after each of them the daemon still answers.
    expect(await api.client.list({ all: true })).toEqual([]);
  });

  it('is cut off when its body is too large, told or not', async () => {
    await using api = await startApi();
    const told = `POST /v1/runs HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: ${BODY_BYTES_MAX + 1}\r\n\r\n`;
    expect(errorOf((await rawExchange(api.socketPath, told)).text).error.message).toMatch(/larger than/);
    const untold =
      'POST /v1/runs HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n' +
      `${(BODY_BYTES_MAX + 1).toString(16)}\r\n${'x'.repeat(BODY_BYTES_MAX + 1)}\r\n`;
    const answer = await rawExchange(api.socketPath, untold);
    expect(errorOf(answer.text).error.message).toMatch(/larger than/);
    expect(answer.closed).toBe(true);
  });

  it('keeps its connection only so long when it does not come', async () => {
    await using api = await startApi({ limits: { headersTimeoutMs: 300, requestTimeoutMs: 600 } });
    const [silent, half, halfBody] = await Promise.all([
      rawExchange(api.socketPath, ''),
      rawExchange(api.socketPath, 'GET /v1/runs HT'),
      rawExchange(
        api.socketPath,
        'POST /v1/runs HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{',
      ),
    ]);
    expect([silent.closed, half.closed, halfBody.closed]).toEqual([true, true, true]);
    expect(errorOf(half.text).error.message).toBe('the request took too long to arrive');
    expect(errorOf(halfBody.text).error.message).toBe('the request took too long to arrive');
  });
});

describe('connections', () => {
  it('of one user leave room for root', async () => {
    let uid = 1000;
    await using api = await startApi({
      limits: { connectionsPerUserMax: 2 },
      peerOf: () => ({ ...FAKE_CALLER, uid }),
    });
    const held = [await openSocket(api.socketPath), await openSocket(api.socketPath)];
    await expect(api.client.list({ all: true })).rejects.toMatchObject({ code: 'DAEMON_NOT_RUNNING' });
    expect(api.logged).toEqual(['warn too many connections of one user']);
    uid = 0;
    expect(await api.client.list({ all: true })).toEqual([]);
    uid = 1000;
    for (const socket of held) socket.destroy();
    const endsAt = performance.now() + 5_000;
    while (!(await api.client.list({ all: true }).then(Boolean, () => false))) {
      expect(performance.now()).toBeLessThan(endsAt);
    }
  });

  it('that one user makes again and again are refused, and root is served', async () => {
    let uid = 1000;
    await using api = await startApi({
      limits: { connectionRate: { perSecond: 0.001, burst: 3 } },
      peerOf: () => ({ ...FAKE_CALLER, uid }),
    });
    const answers: boolean[] = [];
    for (let each = 0; each < 5; each += 1) {
      answers.push(await api.client.list({ all: true }).then(Boolean, () => false));
    }
    expect(answers).toEqual([true, true, true, false, false]);
    uid = 0;
    expect(await api.client.list({ all: true })).toEqual([]);
  });

  it('beyond the maximum are closed, and later ones served', async () => {
    await using api = await startApi({ limits: { connectionsMax: 3 } });
    const held = await Promise.all([1, 2, 3].map(() => openSocket(api.socketPath)));
    await expect(api.client.list({ all: true })).rejects.toMatchObject({ code: 'DAEMON_NOT_RUNNING' });
    for (const socket of held) socket.destroy();
    const endsAt = performance.now() + 5_000;
    while (!(await api.client.list({ all: true }).then(Boolean, () => false))) {
      expect(performance.now()).toBeLessThan(endsAt);
    }
  });

  it('without credentials are not served', async () => {
    await using api = await startApi({
      peerOf: () => {
        throw new Error('no credentials');
      },
    });
    await expect(api.client.list({ all: true })).rejects.toMatchObject({ code: 'DAEMON_NOT_RUNNING' });
  });
});

describe('the socket', () => {
  it('has its mode when clients can reach it, and is gone after close', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'rf-sock-'));
    const socketPath = join(directory, 'new', 'd.sock');
    const api = await startApi({ socketPath, socketMode: 0o640 });
    expect((await stat(socketPath)).mode & 0o777).toBe(0o640);
    expect((await stat(join(directory, 'new'))).mode & 0o777).toBe(0o755);
    await api[Symbol.asyncDispose]();
    await expect(stat(socketPath)).rejects.toMatchObject({ code: 'ENOENT' });
    await rm(directory, { recursive: true });
  });

  it('of a daemon that answers is left alone', async () => {
    await using api = await startApi();
    await expect(startApi({ socketPath: api.socketPath })).rejects.toMatchObject({ code: 'DAEMON_ALREADY_RUNNING' });
    expect(await api.client.list({ all: true })).toEqual([]);
  });

  it('of a daemon that is gone is taken over', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'rf-sock-'));
    const socketPath = join(directory, 'd.sock');
    await leaveStaleSocket(socketPath);
    await expect(connectClient({ socketPath }).health()).rejects.toMatchObject({
      code: 'DAEMON_NOT_RUNNING',
      message: `the daemon is not running: nobody answers on ${socketPath}`,
    });
    await using api = await startApi({ socketPath });
    expect(await connectClient({ socketPath }).list({ all: true })).toEqual([]);
    expect(api.logged).toEqual([]);
    await rm(directory, { recursive: true });
  });

  it('is not put over a file, nor in a folder that others may change', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'rf-sock-'));
    await writeFile(join(directory, 'file'), 'precious');
    await expect(startApi({ socketPath: join(directory, 'file') })).rejects.toThrow('exists and is not a socket');
    await mkdir(join(directory, 'open'));
    await chmod(join(directory, 'open'), 0o777);
    await expect(startApi({ socketPath: join(directory, 'open', 'd.sock') })).rejects.toThrow('changed by other users');
    await expect(startApi({ socketPath: join(directory, 'x'.repeat(120)) })).rejects.toThrow('longer than 107 bytes');
    await rm(directory, { recursive: true });
  });

  it('that is not there says how to start the daemon', async () => {
    await expect(connectClient({ socketPath: '/nonexistent/d.sock' }).health()).rejects.toMatchObject({
      code: 'DAEMON_NOT_RUNNING',
      message: 'the daemon is not running: there is no /nonexistent/d.sock',
      hint: expect.stringContaining('ringfence daemon'),
    });
  });
});

describe('closing', () => {
  it('tells those who wait that the daemon stops', async () => {
    await using api = await startApi();
    api.service.addRun(fakeRun({}));
    const waiting = api.client.wait('r000000000001');
    const following = (async () => {
      for await (const _ of api.client.events({ follow: true, sinceMs: null, run: null })) void _;
    })();
    await until(
      () => ['wait', 'events'].every((name) => api.service.calls.some(({ call }) => call === name)),
      'both wait',
    );
    const told = Promise.allSettled([waiting, following]);
    await api.server.close();
    expect(
      (await told).map((one) => (one.status === 'rejected' ? (one.reason as { code: string }).code : one)),
    ).toEqual(['DAEMON_NOT_RUNNING', 'DAEMON_NOT_RUNNING']);
  });
});

/** A socket file that nobody listens on: bound under another name, so that closing does not remove it. */
async function leaveStaleSocket(socketPath: string): Promise<void> {
  const server = createServer();
  const bound = `${socketPath}.bound`;
  await new Promise<void>((resolve) => server.listen(bound, resolve));
  const { link } = await import('node:fs/promises');
  await link(bound, socketPath);
  await new Promise((resolve) => server.close(resolve));
}
