import { createServer } from 'node:http';
import { fail, messageOf } from '../core/errors.ts';
import { PROMETHEUS_TYPE } from '../report/prometheus.ts';

const CONNECTIONS_MAX = 16;
const REQUEST_MS_MAX = 5_000;

/**
 * Figures over TCP for a scraper that cannot read a unix socket: loopback only, one path, nothing that changes
 * anything. An agent has no way to it, because nothing of the host is reachable for agents.
 */
export async function openMetricsPort(options: {
  readonly port: number;
  readonly render: () => Promise<string>;
}): Promise<() => Promise<void>> {
  const server = createServer(
    { requestTimeout: REQUEST_MS_MAX, headersTimeout: REQUEST_MS_MAX },
    (request, response) => {
      // A page in a browser may send requests here by another name of loopback: only our own names are answered.
      const host = (request.headers.host ?? '').replace(/:\d+$/, '');
      if (request.method !== 'GET' || request.url !== '/metrics' || !['127.0.0.1', 'localhost'].includes(host)) {
        response.writeHead(404).end();
        return;
      }
      options.render().then(
        (text) => response.writeHead(200, { 'content-type': PROMETHEUS_TYPE }).end(text),
        () => response.writeHead(500).end(),
      );
    },
  );
  server.maxConnections = CONNECTIONS_MAX;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      const detail = `metrics.port ${options.port} cannot be used: ${messageOf(error)}`;
      reject(fail('CONFIG_INVALID', { detail }, { cause: error }));
    });
    server.listen(options.port, '127.0.0.1', resolve);
  });
  return () =>
    new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
}
