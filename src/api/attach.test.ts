import { describe, expect, it } from 'vitest';

import { openSocket, rawExchange, startApi, until, type ApiFixture } from '../../test/support/api-fixture.ts';
import type { FakeAgent } from '../../test/support/fake-service.ts';
import type { AttachedRun } from './attach-client.ts';
import { FRAME, encodeFrame, encodeJsonFrame, STDIN_WINDOW_BYTES } from './frames.ts';

const PATH = '/srv/profiles/offline.yaml';

async function attachTo(api: ApiFixture, agent: FakeAgent): Promise<AttachedRun & { readonly runId: string }> {
  const runId = await waitingRun(api, agent);
  return { ...(await api.client.attach(runId)), runId };
}

async function waitingRun(api: ApiFixture, agent: FakeAgent): Promise<string> {
  api.service.agents.set(PATH, agent);
  const launch = {
    profilePath: PATH,
    profileText: '',
    command: null,
    labels: {},
    attach: true,
    tty: false,
    stdin: true,
  };
  return (await api.client.launch(launch)).runId;
}

async function read(run: AttachedRun): Promise<{ stdout: string; stderr: string }> {
  const text = { stdout: '', stderr: '' };
  for await (const chunk of run.output) text[chunk.stream] += Buffer.from(chunk.bytes).toString();
  return text;
}

const echo: FakeAgent = async ({ stdin, print }) => {
  for await (const bytes of stdin) print(Buffer.from(bytes).toString().toUpperCase());
  print('done\n', 'stderr');
  return { exitCode: 3 };
};

describe('attach', () => {
  it('carries stdin in, both outputs out apart, and ends with the outcome', async () => {
    await using api = await startApi();
    const run = await attachTo(api, echo);
    expect(await run.write(Buffer.from('hello '))).toBe(true);
    expect(await run.write(Buffer.from('agent\n'))).toBe(true);
    run.endInput();
    expect(await read(run)).toEqual({ stdout: 'HELLO AGENT\n', stderr: 'done\n' });
    expect(await run.outcome).toMatchObject({ runId: run.runId, reason: 'exited', exitCode: 3 });
    await until(() => api.service.calls.some(({ call }) => call === 'detach'), 'the service was told');
  });

  it('carries more than any buffer holds, byte for byte', async () => {
    await using api = await startApi();
    const run = await attachTo(api, async ({ stdin, print }) => {
      let bytes = 0;
      for await (const chunk of stdin) bytes += chunk.length;
      print('x'.repeat(3_000_000));
      return { detail: String(bytes) };
    });
    const reading = read(run);
    expect(await run.write(new Uint8Array(5_000_000))).toBe(true);
    run.endInput();
    expect((await reading).stdout).toHaveLength(3_000_000);
    expect(await run.outcome).toMatchObject({ detail: '5000000' });
  });

  it('lets signals and sizes past an agent that does not read', async () => {
    await using api = await startApi();
    const run = await attachTo(api, async ({ nextSignal, sizes }) => {
      const signal = await nextSignal();
      return { signal, detail: JSON.stringify(sizes) };
    });
    const reading = read(run);
    const writing = run.write(new Uint8Array(STDIN_WINDOW_BYTES * 4));
    run.resize({ columns: 120, rows: 40 });
    run.signal('SIGINT');
    await reading;
    expect(await run.outcome).toMatchObject({ signal: 'SIGINT', detail: '[{"columns":120,"rows":40}]' });
    expect(await writing).toBe(false);
  });

  it('tells the service when the client leaves, and only then', async () => {
    await using api = await startApi();
    const run = await attachTo(api, async ({ nextSignal }) => ({ signal: await nextSignal() }));
    const reading = read(run).catch((error: unknown) => error);
    expect(api.service.calls.map(({ call }) => call)).not.toContain('detach');
    run.close();
    expect(await reading).toMatchObject({ code: 'DAEMON_NOT_RUNNING' });
    await until(() => api.service.calls.some(({ call }) => call === 'detach'), 'the service was told');
    expect((await api.client.inspect(run.runId)).phase).toBe('running');
    await api.client.kill(run.runId);
    expect(await api.client.wait(run.runId)).toMatchObject({ signal: 'SIGKILL' });
  });

  it('is refused for a run that waits for nobody', async () => {
    await using api = await startApi();
    const run = await attachTo(api, echo);
    await expect(api.client.attach(run.runId)).rejects.toMatchObject({ code: 'RUN_OVER' });
    await expect(api.client.attach('r9')).rejects.toMatchObject({ code: 'RUN_NOT_FOUND' });
    run.endInput();
    await read(run);
  });

  it('ends with a word when the daemon stops and the run has not ended', async () => {
    await using api = await startApi();
    const run = await attachTo(api, async ({ nextSignal }) => ({ signal: await nextSignal() }));
    const reading = read(run).catch((error: unknown) => error);
    await api.server.close();
    expect(await reading).toMatchObject({
      code: 'DAEMON_NOT_RUNNING',
      message: 'the daemon is stopping',
    });
  });

  it('still brings the outcome of a run that ends while the daemon stops', async () => {
    await using api = await startApi();
    const run = await attachTo(api, async ({ nextSignal, print }) => {
      const signal = await nextSignal();
      print('last words\n');
      return { reason: 'stopped', signal };
    });
    const reading = read(run);
    const closing = api.server.close();
    await api.service.stop(run.runId, { uid: 0, gid: 0, pid: 1 });
    expect(await reading).toEqual({ stdout: 'last words\n', stderr: '' });
    expect(await run.outcome).toMatchObject({ reason: 'stopped' });
    await closing;
  });

  it('passes on a failure in the middle, without what is not for the client', async () => {
    await using api = await startApi();
    const runId = await waitingRun(api, echo);
    api.service.attach = async () => ({
      output: (async function* () {
        yield { stream: 'stdout' as const, bytes: Buffer.from('so far\n') };
        throw new Error('broken inside');
      })(),
      write: async () => undefined,
      endInput: () => undefined,
      resize: async () => undefined,
      signal: async () => undefined,
      outcome: new Promise(() => undefined),
      detach: () => undefined,
    });
    const run = await api.client.attach(runId);
    await expect(read(run)).rejects.toMatchObject({ code: 'INTERNAL' });
    await expect(run.outcome).rejects.toMatchObject({ message: 'the supervisor met a fault of its own' });
    expect(api.logged).toEqual(['error request failed Error: broken inside']);
  });

  const hostile: [string, Uint8Array, string][] = [
    ['an unknown type', Uint8Array.from([99, 0, 0, 0, 0]), 'unknown frame type 99'],
    ['a huge length', Uint8Array.from([0, 255, 255, 255, 255]), 'a frame of 4294967295 bytes'],
    ['a frame of the server', encodeFrame(FRAME.outcome, Buffer.from('{}')), 'may not send a frame of type 5'],
    ['a size that is none', encodeJsonFrame(FRAME.resize, { columns: 0, rows: 1 }), 'frame resize'],
    ['a signal that is not forwarded', encodeJsonFrame(FRAME.signal, { name: 'SIGKILL' }), 'frame signal'],
    ['JSON that is none', encodeFrame(FRAME.signal, Buffer.from('{')), 'holds no JSON'],
    [
      'more stdin than the window',
      Buffer.concat([1, 2, 3, 4, 5, 6, 7].map(() => encodeFrame(FRAME.stdin, new Uint8Array(64 * 1024)))),
      'that were not taken',
    ],
  ];
  it.each(hostile)('refuses %s and lets the run go on', async (_, bytes, message) => {
    await using api = await startApi();
    const runId = await waitingRun(api, async ({ nextSignal }) => ({ signal: await nextSignal() }));
    const upgrade = `GET /v1/runs/${runId}/attach HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: ringfence-attach/1\r\n\r\n`;
    const { text, closed } = await rawExchange(api.socketPath, Buffer.concat([Buffer.from(upgrade), bytes]));
    expect(text).toContain('101 Switching Protocols');
    expect(text).toContain('"code":"REQUEST_INVALID"');
    expect(text).toContain(message);
    expect(closed).toBe(true);
    expect((await api.client.inspect(runId)).phase).toBe('running');
    await api.client.kill(runId);
  });

  it('survives a client that resets the connection in the middle of a frame', async () => {
    await using api = await startApi();
    const runId = await waitingRun(api, async ({ nextSignal, print }) => {
      print('x'.repeat(1_000_000));
      return { signal: await nextSignal() };
    });
    const socket = await openSocket(api.socketPath);
    socket.write(`GET /v1/runs/${runId}/attach HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: ringfence-attach/1\r\n\r\n`);
    await new Promise((resolve) => socket.once('readable', resolve));
    socket.write(Uint8Array.from([0, 0, 0]));
    socket.destroy();
    await until(() => api.service.calls.some(({ call }) => call === 'detach'), 'the service was told');
    await api.client.kill(runId);
    expect(await api.client.wait(runId)).toMatchObject({ signal: 'SIGKILL' });
    expect(api.logged).toEqual([]);
  });
});
