import { assertNever } from '../../src/core/assert.ts';
import { decode, encode, streamEncode } from 'dns-packet';
import type { Packet } from 'dns-packet';
import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import type { Socket } from 'node:net';

/** What an agent of a test tries, in order. It begins with a marker, so that "did not run" is never "was blocked". */
export type Probe =
  | {
      readonly probe: 'tcp';
      readonly host: string;
      readonly port: number;
      readonly send?: string;
      readonly sendBytes?: number;
      /** What is sent is not sent back: the other side only says that it has it. */
      readonly oneWay?: boolean;
      readonly from?: string;
    }
  | {
      readonly probe: 'udp';
      readonly host: string;
      readonly port: number;
      readonly count?: number;
      readonly bytes?: number;
      readonly from?: string;
      readonly quiet?: boolean;
    }
  | {
      readonly probe: 'dns';
      readonly server: string;
      readonly name: string;
      readonly type?: string;
      readonly transport?: 'udp' | 'tcp';
    }
  /** Bytes as they are to port 53. */
  | { readonly probe: 'bytes'; readonly server: string; readonly hex: string }
  /** Keeps a connection and writes to it, until it breaks or the time is over. */
  | { readonly probe: 'hold'; readonly host: string; readonly port: number; readonly forMs: number }
  /** Opens this many connections, `atOnce` at a time; `bytes` of the result is how many were accepted. */
  | {
      readonly probe: 'burst';
      readonly host: string;
      readonly port: number;
      readonly count: number;
      readonly atOnce: number;
    }
  /** One connection to each, side by side; `bytes` of the result is how many were accepted. */
  | { readonly probe: 'volley'; readonly targets: readonly (readonly [string, number])[] }
  /** All side by side; `bytes` of the result is how many succeeded. */
  | { readonly probe: 'together'; readonly probes: readonly Probe[] }
  | { readonly probe: 'wait'; readonly forMs: number };

export type ProbeResult = {
  readonly ok: boolean;
  readonly code: string;
  readonly ms: number;
  readonly bytes: number;
  readonly answers: readonly string[];
  readonly ttl: number;
};

const TIMEOUT_MS = 1_500;
/** Its verdict is taken where the packets arrive, not here. */
const VOLLEY_TIMEOUT_MS = 400;
const probes = JSON.parse(process.argv[2] ?? '[]') as Probe[];
process.stdout.write('marker: the probe runs\n');
for (const probe of probes) {
  const startedAt = performance.now();
  const result = await perform(probe);
  process.stdout.write(`${JSON.stringify({ ...result, ms: Math.round(performance.now() - startedAt) })}\n`);
}
// oxlint-disable-next-line unicorn/no-process-exit -- a program of its own: open handles must not keep it
process.exit(0);

function outcome(fields: Partial<ProbeResult>): Omit<ProbeResult, 'ms'> {
  return { ok: false, code: '', bytes: 0, answers: [], ttl: 0, ...fields };
}

async function perform(probe: Probe): Promise<Omit<ProbeResult, 'ms'>> {
  switch (probe.probe) {
    case 'tcp':
      return await tcp(probe);
    case 'udp':
      return await udp(probe);
    case 'dns':
      return probe.transport === 'tcp' ? await dnsByTcp(probe) : await bytesByUdp(probe.server, question(probe));
    case 'bytes':
      return await bytesByUdp(probe.server, Buffer.from(probe.hex, 'hex'));
    case 'hold':
      return await hold(probe);
    case 'burst':
      return await burst(probe);
    case 'volley':
      return await volley(probe.targets, { atOnce: probe.targets.length, timeoutMs: VOLLEY_TIMEOUT_MS });
    case 'together': {
      const results = await Promise.all(probe.probes.map((each) => perform(each)));
      const succeeded = results.filter(({ ok }) => ok).length;
      return outcome({ ok: succeeded === results.length, bytes: succeeded });
    }
    case 'wait':
      await new Promise((resolve) => setTimeout(resolve, probe.forMs));
      return outcome({ ok: true });
    default:
      return assertNever(probe);
  }
}

function tcp(probe: Extract<Probe, { probe: 'tcp' }>): Promise<Omit<ProbeResult, 'ms'>> {
  return new Promise((resolve) => {
    const text = probe.sendBytes === undefined ? (probe.send ?? 'hello') : 'x'.repeat(probe.sendBytes);
    const message = probe.oneWay === true ? `PUT ${text.length} ${text}` : text;
    const wanted = /^GET ([0-9]+)/.exec(message);
    const answer = probe.oneWay === true ? 'done' : message;
    const enough = wanted === null ? answer.length : Number(wanted[1]);
    const socket = connect({
      host: probe.host,
      port: probe.port,
      ...(probe.from === undefined ? {} : { localAddress: probe.from }),
    });
    let bytes = 0;
    const finish = (ok: boolean, code: string): void => {
      socket.destroy();
      resolve(outcome({ ok, code, bytes }));
    };
    socket.setTimeout(TIMEOUT_MS, () => finish(false, 'TIMEOUT'));
    socket.on('error', (error: NodeJS.ErrnoException) => finish(false, error.code ?? error.message));
    socket.on('connect', () => socket.write(message));
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes >= enough) finish(true, '');
    });
  });
}

async function burst(probe: Extract<Probe, { probe: 'burst' }>): Promise<Omit<ProbeResult, 'ms'>> {
  const target = [probe.host, probe.port] as const;
  return await volley(
    Array.from({ length: probe.count }, () => target),
    { atOnce: probe.atOnce, timeoutMs: TIMEOUT_MS },
  );
}

async function volley(
  targets: readonly (readonly [string, number])[],
  { atOnce, timeoutMs }: { readonly atOnce: number; readonly timeoutMs: number },
): Promise<Omit<ProbeResult, 'ms'>> {
  const codes: string[] = [];
  const open: Socket[] = [];
  for (let begun = 0; begun < targets.length; begun += atOnce) {
    const part = targets.slice(begun, begun + atOnce).map(async ([host, port]) => {
      const socket = connect({ host, port });
      open.push(socket);
      codes.push(
        await new Promise<string>((resolve) => {
          socket.setTimeout(timeoutMs, () => resolve('TIMEOUT'));
          socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
          socket.on('connect', () => resolve('OPEN'));
        }),
      );
    });
    await Promise.all(part);
  }
  for (const socket of open) socket.destroy();
  const accepted = codes.filter((code) => code === 'OPEN').length;
  return outcome({
    ok: accepted === targets.length,
    code: [...new Set(codes)].toSorted().join(),
    bytes: accepted,
  });
}

function udp(probe: Extract<Probe, { probe: 'udp' }>): Promise<Omit<ProbeResult, 'ms'>> {
  return new Promise((resolve) => {
    const socket = createSocket(probe.host.includes(':') ? 'udp6' : 'udp4');
    const payload = Buffer.alloc(probe.bytes ?? 16, 'x');
    let bytes = 0;
    const finish = (ok: boolean, code: string): void => {
      clearTimeout(timer);
      socket.removeAllListeners();
      socket.on('error', () => undefined);
      socket.close();
      resolve(outcome({ ok, code, bytes }));
    };
    const timer = setTimeout(() => finish(probe.quiet === true, 'TIMEOUT'), probe.quiet === true ? 200 : TIMEOUT_MS);
    socket.on('error', (error: NodeJS.ErrnoException) => finish(false, error.code ?? error.message));
    socket.on('message', (message) => {
      bytes += message.length;
      finish(true, '');
    });
    const start = (): void => {
      for (let sent = 0; sent < (probe.count ?? 1); sent += 1) {
        socket.send(payload, probe.port, probe.host, (error) => {
          if (error !== null && probe.quiet !== true) finish(false, (error as NodeJS.ErrnoException).code ?? '');
        });
      }
    };
    if (probe.from === undefined) start();
    else socket.bind(0, probe.from, start);
  });
}

function packetOf(probe: Extract<Probe, { probe: 'dns' }>): Packet {
  return {
    type: 'query',
    id: 0x4242,
    flags: 256,
    questions: [{ type: (probe.type ?? 'A') as 'A', class: 'IN', name: probe.name }],
    additionals: [
      {
        type: 'OPT',
        name: '.',
        udpPayloadSize: 1232,
        extendedRcode: 0,
        ednsVersion: 0,
        flags: 0,
        flag_do: false,
        options: [],
      },
    ],
  };
}

function question(probe: Extract<Probe, { probe: 'dns' }>): Buffer {
  return encode(packetOf(probe));
}

function readAnswer(bytes: Buffer): Omit<ProbeResult, 'ms'> {
  const packet: Packet & { readonly rcode?: string } = decode(bytes);
  const answers = (packet.answers ?? []).flatMap((answer) => (answer.type === 'A' ? [answer.data] : [answer.type]));
  const [first] = packet.answers ?? [];
  const ttl = first?.type === 'A' ? (first.ttl ?? 0) : 0;
  const opt = packet.additionals?.find((record) => record.type === 'OPT');
  const extended = opt?.type === 'OPT' ? opt.options.map((option) => (option as { data?: Buffer }).data) : [];
  const text = extended.map((data) => data?.subarray(2).toString('utf8') ?? '').join('');
  const rcode = packet.rcode ?? '';
  const code = text === '' ? rcode : `${rcode} ${text}`;
  return outcome({ ok: rcode === 'NOERROR', code, answers, ttl, bytes: bytes.length });
}

function bytesByUdp(server: string, bytes: Buffer): Promise<Omit<ProbeResult, 'ms'>> {
  return new Promise((resolve) => {
    const socket = createSocket('udp4');
    const finish = (result: Omit<ProbeResult, 'ms'>): void => {
      clearTimeout(timer);
      socket.removeAllListeners();
      socket.on('error', () => undefined);
      socket.close();
      resolve(result);
    };
    const timer = setTimeout(() => finish(outcome({ code: 'TIMEOUT' })), TIMEOUT_MS * 2);
    socket.on('error', (error: NodeJS.ErrnoException) => finish(outcome({ code: error.code ?? error.message })));
    socket.on('message', (message) => finish(readAnswer(message)));
    socket.connect(53, server, () => socket.send(bytes));
  });
}

function dnsByTcp(probe: Extract<Probe, { probe: 'dns' }>): Promise<Omit<ProbeResult, 'ms'>> {
  return new Promise((resolve) => {
    const socket = connect({ host: probe.server, port: 53 });
    let received = Buffer.alloc(0);
    const finish = (result: Omit<ProbeResult, 'ms'>): void => {
      socket.destroy();
      resolve(result);
    };
    socket.setTimeout(TIMEOUT_MS * 2, () => finish(outcome({ code: 'TIMEOUT' })));
    socket.on('error', (error: NodeJS.ErrnoException) => finish(outcome({ code: error.code ?? error.message })));
    socket.on('close', () => finish(outcome({ code: 'CLOSED' })));
    socket.on('connect', () => socket.write(streamEncode(packetOf(probe))));
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0))
        finish(readAnswer(received.subarray(2)));
    });
  });
}

function hold(probe: Extract<Probe, { probe: 'hold' }>): Promise<Omit<ProbeResult, 'ms'>> {
  return new Promise((resolve) => {
    const socket = connect({ host: probe.host, port: probe.port });
    let bytes = 0;
    const write = setInterval(() => socket.write('.'), 20);
    const finish = (ok: boolean, code: string): void => {
      clearInterval(write);
      clearTimeout(timer);
      socket.destroy();
      resolve(outcome({ ok, code, bytes }));
    };
    const timer = setTimeout(() => finish(true, 'HELD'), probe.forMs);
    socket.on('connect', () => process.stdout.write('marker: connected\n'));
    socket.on('error', (error: NodeJS.ErrnoException) => finish(false, error.code ?? error.message));
    socket.on('close', () => finish(false, 'CLOSED'));
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
  });
}
