/**
 * The one table of what the daemon answers over its socket. It holds plain values, so that the command line starts
 * without a schema library; `contract.ts` adds the validation of each request and the type of each answer.
 */
export type Endpoint = {
  readonly method: 'GET' | 'POST';
  /** `:name` stands for one segment, checked by the `params` schema of the contract. */
  readonly path: `/v1/${string}`;
  /** `records`: NDJSON. `output`: frames of `frames.ts`. `upgrade`: HTTP upgrade, then frames both ways. */
  readonly answer: 'json' | 'text' | 'records' | 'output' | 'upgrade';
  /** Name of the type in `service.ts` that the answer (or each of its lines) has. */
  readonly returns: string;
  readonly summary: string;
};

export const ENDPOINTS = {
  health: {
    method: 'GET',
    path: '/v1/health',
    answer: 'json',
    returns: 'Health',
    summary: 'Version, process id, number of runs alive and the state of the ledger.',
  },
  launch: {
    method: 'POST',
    path: '/v1/runs',
    answer: 'json',
    returns: 'RunView',
    summary: 'Admits a run and launches it; with `attach` the launch waits for the attach request, 10 s at most.',
  },
  list: {
    method: 'GET',
    path: '/v1/runs',
    answer: 'json',
    returns: 'RunView[]',
    summary: 'The runs alive; with `all` also those that are over.',
  },
  inspect: {
    method: 'GET',
    path: '/v1/runs/:run',
    answer: 'json',
    returns: 'RunDetail',
    summary: 'One run whole.',
  },
  wait: {
    method: 'POST',
    path: '/v1/runs/:run/wait',
    answer: 'json',
    returns: 'Outcome',
    summary: 'Answers when the run is over and cleaned up.',
  },
  stop: {
    method: 'POST',
    path: '/v1/runs/:run/stop',
    answer: 'json',
    returns: 'null',
    summary: 'SIGTERM, then SIGKILL after the grace of the profile.',
  },
  kill: {
    method: 'POST',
    path: '/v1/runs/:run/kill',
    answer: 'json',
    returns: 'null',
    summary: 'SIGKILL to every process of the run, now.',
  },
  resume: {
    method: 'POST',
    path: '/v1/runs/:run/resume',
    answer: 'json',
    returns: 'null',
    summary: 'Lets a paused run go on, with more of the budget that paused it.',
  },
  reload: {
    method: 'POST',
    path: '/v1/reload',
    answer: 'json',
    returns: 'ReloadReport',
    summary: 'Holds the runs alive of a profile to its new text, without a restart: all of them, or none.',
  },
  approvals: {
    method: 'GET',
    path: '/v1/approvals',
    answer: 'json',
    returns: 'Approval[]',
    summary: 'What waits for a person, oldest first; with `all` also what was decided lately.',
  },
  approve: {
    method: 'POST',
    path: '/v1/approvals/:id/approve',
    answer: 'json',
    returns: 'Approval',
    summary: 'Opens exactly what was asked for, for that run and for a time.',
  },
  deny: {
    method: 'POST',
    path: '/v1/approvals/:id/deny',
    answer: 'json',
    returns: 'Approval',
    summary: 'Refuses what was asked for; the agent hears it at once.',
  },
  logs: {
    method: 'GET',
    path: '/v1/runs/:run/logs',
    answer: 'output',
    returns: 'OutputChunk',
    summary: 'What the agent wrote, oldest first; with `follow` until the run ends.',
  },
  attach: {
    method: 'GET',
    path: '/v1/runs/:run/attach',
    answer: 'upgrade',
    returns: 'Outcome',
    summary: 'Starts the run that waits for it and joins its standard streams. Once per run.',
  },
  events: {
    method: 'GET',
    path: '/v1/events',
    answer: 'records',
    returns: 'LedgerRecord',
    summary: 'What happened, oldest first; with `follow` also what happens from now on.',
  },
  incidents: {
    method: 'GET',
    path: '/v1/incidents',
    answer: 'json',
    returns: 'IncidentSummary[]',
    summary: 'Every incident, oldest first.',
  },
  incident: {
    method: 'GET',
    path: '/v1/incidents/:id',
    answer: 'json',
    returns: 'Incident',
    summary: 'One incident with its evidence.',
  },
  why: {
    method: 'GET',
    path: '/v1/why/:reference',
    answer: 'json',
    returns: 'Explanation',
    summary: 'Why a run ended or was denied something, and what would change it.',
  },
  release: {
    method: 'POST',
    path: '/v1/quarantine/:profile/release',
    answer: 'json',
    returns: 'null',
    summary: 'Ends the quarantine of a profile.',
  },
  doctor: {
    method: 'GET',
    path: '/v1/doctor',
    answer: 'json',
    returns: 'DoctorReport',
    summary: 'What this host can enforce, with evidence and the fix.',
  },
  gc: {
    method: 'POST',
    path: '/v1/gc',
    answer: 'json',
    returns: '{ removed: string[] }',
    summary: 'Removes whatever a crash left.',
  },
  checkpoint: {
    method: 'POST',
    path: '/v1/ledger/checkpoint',
    answer: 'json',
    returns: 'LedgerCheckpoint',
    summary: 'Signs where the record stands now.',
  },
  rotateKey: {
    method: 'POST',
    path: '/v1/ledger/key',
    answer: 'json',
    returns: '{ key: string }',
    summary: 'Signs the record with a new key from here on, which the old one vouches for. Root only.',
  },
  alerts: {
    method: 'GET',
    path: '/v1/alerts',
    answer: 'json',
    returns: 'OutboxListing',
    summary: 'Sinks, what waits for them and what was given up.',
  },
  testAlert: {
    method: 'POST',
    path: '/v1/alerts/test',
    answer: 'json',
    returns: 'SinkTestResult',
    summary: 'Sends a test to one sink, past the spool, and answers with what came back. Root only.',
  },
  retryAlerts: {
    method: 'POST',
    path: '/v1/alerts/retry',
    answer: 'json',
    returns: '{ retried: number }',
    summary: 'Tries again at once what waits, what was given up, or one alert. Root only.',
  },
  metrics: {
    method: 'GET',
    path: '/v1/metrics',
    answer: 'text',
    returns: 'text/plain; version=0.0.4',
    summary: 'Figures for Prometheus.',
  },
} as const satisfies Readonly<Record<string, Endpoint>>;

export type EndpointName = keyof typeof ENDPOINTS;

export const ENDPOINT_NAMES = Object.keys(ENDPOINTS) as readonly EndpointName[];

/** The protocol named in the `Upgrade` header of an attach request. */
export const ATTACH_PROTOCOL = 'ringfence-attach/1';

/** sun_path has 108 bytes with its final NUL (unix(7)); a longer path would be cut to another one. */
export const SOCKET_PATH_BYTES_MAX = 107;

/** The longest profile that is ever sent or read; a test compares it with what the parser takes. */
export const PROFILE_BYTES_MAX = 256 * 1024;

export const JSON_TYPE = 'application/json';
export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';
export const RECORDS_TYPE = 'application/x-ndjson';
export const OUTPUT_TYPE = 'application/vnd.ringfence.frames';

/** The path with its parameters put in; a missing one is our own bug. */
export function pathOf(name: EndpointName, params: Readonly<Record<string, string>>): string {
  return ENDPOINTS[name].path.replace(/:([a-z]+)/g, (_, param: string) => {
    const value = params[param];
    if (value === undefined) throw new Error(`assertion failed: ${name} needs ${param}`);
    return encodeURIComponent(value);
  });
}

export type Route =
  | { readonly kind: 'found'; readonly name: EndpointName; readonly params: Readonly<Record<string, string>> }
  | { readonly kind: 'wrong-method'; readonly allowed: readonly string[] }
  | { readonly kind: 'unknown' };

/** The endpoint that a method and a path (without its query) mean. */
export function routeOf(method: string, path: string): Route {
  const segments = path.split('/');
  const allowed: string[] = [];
  for (const name of ENDPOINT_NAMES) {
    const params = matchSegments(ENDPOINTS[name].path.split('/'), segments);
    if (params === null) continue;
    if (ENDPOINTS[name].method === method) return { kind: 'found', name, params };
    allowed.push(ENDPOINTS[name].method);
  }
  return allowed.length > 0 ? { kind: 'wrong-method', allowed } : { kind: 'unknown' };
}

function matchSegments(
  pattern: readonly string[],
  segments: readonly string[],
): Readonly<Record<string, string>> | null {
  if (pattern.length !== segments.length) return null;
  const params: Record<string, string> = {};
  for (const [index, part] of pattern.entries()) {
    const segment = segments[index] ?? '';
    if (!part.startsWith(':')) {
      if (part !== segment) return null;
      continue;
    }
    const value = decoded(segment);
    if (value === null || value === '') return null;
    params[part.slice(1)] = value;
  }
  return params;
}

function decoded(segment: string): string | null {
  try {
    return decodeURIComponent(segment);
  } catch {
    // A broken escape can't name anything that exists.
    return null;
  }
}
