import { X509Certificate } from 'node:crypto';
import { constants } from 'node:fs';
import { access, open, stat } from 'node:fs/promises';
import { z } from 'zod';
import { fail, messageOf } from '../core/errors.ts';
import type { HttpSink, Sink, SinkKind, SinkRules } from '../core/ports/alert.ts';

/** The sinks of the daemon's configuration: written by root; a profile can name one but never carry a URL. */
const ABSOLUTE = 'must be an absolute path';
const PAGERDUTY_URL = 'https://events.pagerduty.com/v2/enqueue';
const JOURNAL_SOCKET = '/run/systemd/journal/socket';

const file = (example: string) =>
  z
    .string()
    .startsWith('/', ABSOLUTE)
    .optional()
    .meta({ examples: [example] });

/** One object for all types, so that a mistake is reported at its place; `KEYS` says which key is for which type. */
const SinkEntry = z
  .strictObject({
    type: z.enum(['webhook', 'slack', 'pagerduty', 'alertmanager', 'journald', 'exec']),
    url: z
      .url('must be a URL such as "https://hooks.example.com/ringfence"')
      .optional()
      .meta({ examples: ['https://hooks.example.com/ringfence'] }),
    /** Webhook: files of one `whsec_…` key each; two during a rotation. */
    secretFiles: z
      .array(z.string().startsWith('/', ABSOLUTE))
      .min(1)
      .max(2)
      .optional()
      .meta({ examples: [['/etc/ringfence/secrets/ops-webhook']] }),
    /** Slack: a file with the URL of the incoming webhook, which is a secret. */
    urlFile: file('/etc/ringfence/secrets/slack-url'),
    /** PagerDuty: a file with the integration key of an Events API v2 integration. */
    routingKeyFile: file('/etc/ringfence/secrets/pagerduty-key'),
    /** Alertmanager: a file with a token for the Authorization header. */
    bearerTokenFile: file('/etc/ringfence/secrets/alertmanager-token'),
    /** Alertmanager: added to every alert. */
    labels: z
      .record(z.string().regex(/^[a-zA-Z_][a-zA-Z0-9_]*$/, 'must be the name of a label'), z.string())
      .optional(),
    /** Alertmanager: an incident that nobody ends stops firing after this. */
    firingSeconds: z.int().min(60).max(2_592_000).optional(),
    /** The journal's socket, where it is elsewhere: that of a journal namespace. */
    socket: file(JOURNAL_SOCKET),
    /** Exec: an absolute path and its arguments. */
    command: z
      .array(z.string().max(4_096))
      .min(1)
      .max(64)
      .optional()
      .meta({ examples: [['/usr/local/bin/on-alert', '--loud']] }),
    timeoutSeconds: z.int().min(1).max(60).optional(),
    /** Lets the sink be on a private or loopback address, and lets it speak plain HTTP there. */
    allowPrivate: z.boolean().optional(),
    /** PEM certificates to trust instead of those of the host. */
    caFile: file('/etc/ringfence/internal-ca.pem'),
    minSeverity: z.enum(['info', 'low', 'medium', 'high', 'critical']).optional(),
    types: z
      .array(
        z.enum([
          'incident.opened',
          'incident.released',
          'incident.resolved',
          'approval.requested',
          'run.held',
          'ledger.checkpoint',
        ]),
      )
      .min(1)
      .optional(),
    /** After so many alerts within the window the rest of them becomes one digest. */
    storm: z
      .strictObject({ after: z.int().min(1).max(1_000), windowSeconds: z.int().min(1).max(3_600).default(60) })
      .optional(),
    /** A signal to a dead-man monitor, this often. */
    heartbeatSeconds: z.int().min(5).max(86_400).optional(),
  })
  .superRefine((entry, context) => {
    const { needs, takes } = KEYS[entry.type];
    for (const key of needs) {
      if (entry[key] === undefined) context.addIssue({ code: 'custom', path: [key], message: 'is required' });
    }
    for (const key of Object.keys(entry) as readonly (keyof typeof entry)[]) {
      const fits = FOR_ALL.includes(key) || needs.includes(key) || takes.includes(key);
      if (entry[key] === undefined || fits) continue;
      const own = [...needs, ...takes].join(', ');
      const hint = `a sink of type ${entry.type} has ${own === '' ? 'no keys of its own' : own}`;
      // A URL may be a secret: it is not repeated, so the type is what is pointed at.
      const path = key === 'url' ? ['type'] : [key];
      const message = `${key === 'url' ? '`url` ' : ''}is not for a sink of type ${entry.type}`;
      context.addIssue({ code: 'custom', path, message, params: { hint } });
    }
  });

export const SinksConfig = z.record(
  z.string().regex(/^[a-z0-9-]{1,40}$/, 'must be a name of a-z, 0-9 and -'),
  SinkEntry,
);

export type SinkConfig = z.infer<typeof SinkEntry>;

type Key = keyof SinkConfig;

const HTTP: readonly Key[] = ['allowPrivate', 'caFile'];
const FOR_ALL: readonly Key[] = ['type', 'minSeverity', 'types', 'storm', 'heartbeatSeconds'];
const KEYS: Readonly<Record<SinkKind, { readonly needs: readonly Key[]; readonly takes: readonly Key[] }>> = {
  webhook: { needs: ['url', 'secretFiles'], takes: HTTP },
  slack: { needs: ['urlFile'], takes: HTTP },
  pagerduty: { needs: ['routingKeyFile'], takes: ['url', ...HTTP] },
  alertmanager: { needs: ['url'], takes: ['bearerTokenFile', 'labels', 'firingSeconds', ...HTTP] },
  journald: { needs: [], takes: ['socket'] },
  exec: { needs: ['command'], takes: ['timeoutSeconds'] },
};

const FIRING_SECONDS = 86_400;
const EXEC_SECONDS = 15;

/** The sinks with their secrets read. A secret that others can read is no secret, so it is refused: CONFIG_INVALID. */
export async function readSinks(config: Readonly<Record<string, SinkConfig>>): Promise<Readonly<Record<string, Sink>>> {
  const sinks: Record<string, Sink> = {};
  for (const [name, entry] of Object.entries(config)) {
    sinks[name] = { ...(await readSink(`sinks.${name}`, entry)), ...rulesOf(entry) };
  }
  return sinks;
}

async function readSink(at: string, entry: SinkConfig): Promise<Sink> {
  switch (entry.type) {
    case 'webhook': {
      const keys: string[] = [];
      for (const path of entry.secretFiles ?? []) keys.push(await readKey(`${at}.secretFiles`, path));
      return { type: 'webhook', keys, ...(await httpOf(at, entry, entry.url ?? '')) };
    }
    case 'slack':
      return { type: 'slack', ...(await httpOf(at, entry, await readSecret(`${at}.urlFile`, entry.urlFile ?? ''))) };
    case 'pagerduty': {
      const routingKey = await readSecret(`${at}.routingKeyFile`, entry.routingKeyFile ?? '');
      return { type: 'pagerduty', routingKey, ...(await httpOf(at, entry, entry.url ?? PAGERDUTY_URL)) };
    }
    case 'alertmanager': {
      const { bearerTokenFile: path, labels = {}, firingSeconds = FIRING_SECONDS } = entry;
      const bearerToken = path === undefined ? null : await readSecret(`${at}.bearerTokenFile`, path);
      const http = await httpOf(at, entry, entry.url ?? '');
      return { type: 'alertmanager', labels, firingMs: firingSeconds * 1000, bearerToken, ...http };
    }
    case 'journald':
      return { type: 'journald', socketPath: entry.socket ?? JOURNAL_SOCKET };
    case 'exec': {
      const [path = '', ...args] = entry.command ?? [];
      await checkProgram(`${at}.command`, path);
      return { type: 'exec', command: [path, ...args], timeoutMs: (entry.timeoutSeconds ?? EXEC_SECONDS) * 1000 };
    }
    default:
      throw new Error('assertion failed: a type of sink without a reader');
  }
}

function rulesOf(entry: SinkConfig): Partial<SinkRules> {
  const { minSeverity, types, storm, heartbeatSeconds } = entry;
  return {
    ...(minSeverity === undefined ? {} : { minSeverity }),
    ...(types === undefined ? {} : { types }),
    ...(storm === undefined ? {} : { stormAfter: storm.after, stormWindowMs: storm.windowSeconds * 1000 }),
    ...(heartbeatSeconds === undefined ? {} : { heartbeatMs: heartbeatSeconds * 1000 }),
  };
}

async function httpOf(at: string, entry: SinkConfig, url: string): Promise<HttpSink> {
  const base = { url, allowPrivate: entry.allowPrivate ?? false };
  return entry.caFile === undefined ? base : { ...base, ca: await readAuthority(`${at}.caFile`, entry.caFile) };
}

const SECRET_BYTES_MAX = 4_096;
const AUTHORITY_BYTES_MAX = 1024 * 1024;

async function readKey(at: string, path: string): Promise<string> {
  const key = await readSecret(at, path);
  if (/^whsec_[A-Za-z0-9+/]{32,}={0,2}$/.test(key)) return key;
  throw fail('CONFIG_INVALID', {
    detail: `${at}: ${path} does not hold a key of the form whsec_BASE64 with at least 24 bytes`,
    hint: `(umask 077; printf 'whsec_%s\\n' "$(head -c 32 /dev/urandom | base64 -w0)" > ${path})`,
  });
}

/** One line that only its owner can read. */
async function readSecret(at: string, path: string): Promise<string> {
  const { text, uid, mode } = await readBounded(at, path, SECRET_BYTES_MAX);
  if (uid !== 0 && uid !== process.getuid?.()) {
    throw fail('CONFIG_INVALID', { detail: `${at}: ${path} belongs to user ${uid}; it must belong to root` });
  }
  if ((mode & 0o077) !== 0) {
    throw fail('CONFIG_INVALID', {
      detail: `${at}: ${path} can be read by others (mode ${(mode & 0o777).toString(8)}); it must be 0600 or stricter`,
      hint: `chmod 600 ${path}`,
    });
  }
  const secret = text.trim();
  if (/^[\x21-\x7e]+$/.test(secret)) return secret;
  throw fail('CONFIG_INVALID', { detail: `${at}: ${path} must hold one line of printable characters` });
}

async function readAuthority(at: string, path: string): Promise<string> {
  const { text } = await readBounded(at, path, AUTHORITY_BYTES_MAX);
  try {
    // The first certificate has to parse; OpenSSL reads the others when it needs them.
    void new X509Certificate(text);
  } catch (error) {
    throw fail('CONFIG_INVALID', { detail: `${at}: ${path} holds no PEM certificate` }, { cause: error });
  }
  return text;
}

type Bounded = { readonly text: string; readonly uid: number; readonly mode: number };

/** What is checked and what is read is the same open file. */
async function readBounded(at: string, path: string, bytesMax: number): Promise<Bounded> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: unknown) => {
    throw fail('CONFIG_INVALID', { detail: `${at}: ${messageOf(error)}` }, { cause: error });
  });
  try {
    const facts = await handle.stat();
    if (!facts.isFile()) throw fail('CONFIG_INVALID', { detail: `${at}: ${path} is not a file` });
    if (facts.size > bytesMax) {
      throw fail('CONFIG_INVALID', { detail: `${at}: ${path} is larger than ${bytesMax} bytes` });
    }
    return { text: await handle.readFile('utf8'), uid: facts.uid, mode: facts.mode };
  } finally {
    await handle.close();
  }
}

/** It runs with the daemon's rights, so nobody else may be able to change it. */
async function checkProgram(at: string, path: string): Promise<void> {
  if (!path.startsWith('/')) throw fail('CONFIG_INVALID', { detail: `${at}: the program ${ABSOLUTE}` });
  try {
    const facts = await stat(path);
    await access(path, constants.X_OK);
    if (!facts.isFile()) throw fail('CONFIG_INVALID', { detail: `${at}: ${path} is not a file` });
    if ((facts.mode & 0o022) !== 0 || (facts.uid !== 0 && facts.uid !== process.getuid?.())) {
      const detail = `${at}: ${path} can be changed by others; it must belong to root and be writable by nobody else`;
      throw fail('CONFIG_INVALID', { detail, hint: `chown root ${path}; chmod go-w ${path}` });
    }
  } catch (error) {
    if (error instanceof Error && 'errno' in error) {
      throw fail('CONFIG_INVALID', { detail: `${at}: ${messageOf(error)}` }, { cause: error });
    }
    throw error;
  }
}
