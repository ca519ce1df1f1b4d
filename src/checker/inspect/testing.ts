import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { createSecureServer, type Http2SecureServer } from 'node:http2';
import { createServer as createHttpsServer } from 'node:https';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import type { FenceRequestRule } from '../../core/ports/fence.ts';
import { makeAuthority } from './authority.ts';
import { createInspector } from './inspector.ts';
import type { Inspector } from './port.ts';

/**
 * An agent's side, an inspector and a site, all on the loopback: connections to `port` are read as the checker reads
 * them and handed to the inspector, which finds the site at 127.0.0.1.
 */
export const NAME = 'api.example.com';
export const SOURCE = '10.213.0.2';
const RUN_ID = 'rtest00000000';

export type Rig = {
  readonly inspector: Inspector;
  /** Where the agent connects to. */
  readonly port: number;
  /** What the agent trusts. */
  readonly ca: string;
  readonly sitePort: number;
  readonly denials: { readonly rule: string; readonly explanation: string }[];
  readonly counted: { egress: number; ingress: number };
  /** How many connections the inspector has not let go of. */
  held(): number;
  close(): Promise<void>;
};

export type RigOptions = {
  readonly site: Server;
  readonly requests?: readonly string[];
  readonly protocol?: 'tls' | 'http';
  /** The site's authority is believed unless this says otherwise. */
  readonly upstreamCa?: readonly string[];
  readonly connectionsMax?: number;
  readonly withoutAuthority?: boolean;
};

const siteAuthority = makeAuthority({ runId: 'the world', nowMs: Date.now() });

export function siteContext(name: string = NAME, nowMs: number = Date.now()): SecureContext {
  return siteAuthority.contextFor(name, nowMs);
}

export function httpsSite(listener: RequestListener, context: SecureContext = siteContext()): Server {
  const site = createHttpsServer({ SNICallback: (_name, answer) => answer(null, context) }, listener);
  site.on('tlsClientError', () => undefined);
  return site;
}

export function http2Site(listen: (site: Http2SecureServer) => void): Server {
  const site = createSecureServer({ SNICallback: (_name, answer) => answer(null, siteContext()) });
  listen(site);
  return site;
}

export function httpSite(listener: RequestListener): Server {
  return createHttpServer(listener);
}

export async function setUp(options: RigOptions): Promise<Rig> {
  const { site, requests = [], protocol = 'tls', upstreamCa = [siteAuthority.certificatePem] } = options;
  const sitePort = await listenOn(site);
  const { connectionsMax } = options;
  const inspector = createInspector({ upstreamCa, ...(connectionsMax === undefined ? {} : { connectionsMax }) });
  const ca = options.withoutAuthority === true ? '' : await inspector.authority(SOURCE, RUN_ID);
  const denials: Rig['denials'] = [];
  const counted = { egress: 0, ingress: 0 };
  const clients = new Set<Socket>();
  let held = 0;
  const front = createServer({ allowHalfOpen: true }, (client) => {
    clients.add(client);
    client.on('error', () => undefined);
    client.once('close', () => clients.delete(client));
    client.once('data', (head: Buffer) => {
      client.pause();
      held += 1;
      void inspector
        .inspect({
          source: SOURCE,
          client,
          head,
          name: NAME,
          port: sitePort,
          protocol,
          addresses: ['127.0.0.1'],
          requests: requests.map(requestRule),
          deny: (rule, explanation) => denials.push({ rule, explanation }),
          count: ({ egress, ingress }) => {
            counted.egress += egress;
            counted.ingress += ingress;
          },
        })
        .finally(() => {
          held -= 1;
        });
    });
  });
  const port = await listenOn(front);
  return {
    inspector,
    port,
    ca,
    sitePort,
    denials,
    counted,
    held: () => held,
    close: async () => {
      inspector.forget(SOURCE);
      for (const client of clients) client.destroy();
      if ('closeAllConnections' in site && typeof site.closeAllConnections === 'function') site.closeAllConnections();
      await Promise.all([front, site].map((server) => new Promise((resolve) => server.close(resolve))));
    },
  };
}

function requestRule(text: string): FenceRequestRule {
  const [method = '', path = ''] = text.split(' ');
  const pathPrefix = path.endsWith('*');
  return { text, method, path: pathPrefix ? path.slice(0, -1) : path, pathPrefix };
}

async function listenOn(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}
