import { readFile, stat } from 'node:fs/promises';
import { z } from 'zod';
import { fail, messageOf, type Problem } from '../core/errors.ts';
import { readDocument } from '../profile/document.ts';
import { inOrder, problemsOf, ruleOf, type SchemaNode } from '../profile/problems.ts';
import { SinksConfig } from './sinks-config.ts';

/** The daemon's own configuration, written by root. */
const Config = z.strictObject({
  engine: z.string().startsWith('unix://', 'must be a socket such as "unix:///var/run/docker.sock"').optional(),
  socket: z
    .strictObject({
      mode: z
        .string()
        .regex(/^0?[0-7]{3}$/, 'must be an octal mode such as "0660"')
        .default('0660'),
      group: z.string().optional(),
    })
    .prefault({}),
  dns: z.strictObject({ upstreams: z.array(z.string()).min(1).max(4) }).optional(),
  fence: z
    .strictObject({
      pool: z.string().default('10.213.0.0/16'),
      gatePort: z.int().min(1024).max(65_535).default(5365),
      /** Where connections that must show a name are led. */
      checkPort: z.int().min(1024).max(65_535).default(5366),
      nflogGroup: z.int().min(1).max(65_535).default(86),
    })
    .prefault({}),
  /** The record: how often its place is signed, how long its files get, and how long they stay. */
  ledger: z
    .strictObject({
      checkpointRecords: z.int().min(1).max(1_000_000).default(1_000),
      checkpointSeconds: z.int().min(1).max(86_400).default(300),
      segmentMiB: z.int().min(1).max(1_024).default(64),
      retentionDays: z.int().min(1).max(36_500).default(400),
    })
    .prefault({}),
  /** How `egress.ask` is decided. */
  approvals: z
    .strictObject({
      /** How long a DNS question or a first connection is held for a person before the agent hears `not yet`. */
      holdSeconds: z.int().min(0).max(60).default(8),
      /** A request nobody decided within this is denied. */
      expireSeconds: z.int().min(1).max(86_400).default(300),
      /** How long an approval lasts when the approver says nothing else. */
      grantSeconds: z.int().min(1).max(2_592_000).default(3_600),
      /** Only root and members of this group decide; left out: whoever may use the socket and launched the run, and root. */
      group: z.string().optional(),
    })
    .prefault({}),
  /** A profile can name a sink but never carry a URL. */
  sinks: SinksConfig.default({}),
  /** What an incident holds beside the facts: the last lines of the agent's output, which may say anything. */
  incidents: z.strictObject({ logLines: z.int().min(0).max(100).default(0) }).prefault({}),
  /** Figures over TCP, on loopback; left out: on the socket alone. */
  metrics: z.strictObject({ port: z.int().min(1_024).max(65_535) }).optional(),
  gpu: z
    .strictObject({
      /** Where the library of the NVIDIA driver lies, when it is not where drivers put it. */
      library: z.string().startsWith('/', 'must be an absolute path').optional(),
      /** Below which folder `sys`, `proc` and `dev` of the host lie, for cards of AMD and Intel. */
      root: z.string().startsWith('/', 'must be an absolute path').optional(),
    })
    .prefault({}),
  /** What an orderly stop of the daemon does with its runs: ends them, or leaves them to the kernel, the warden and the next daemon. */
  onStop: z.enum(['end', 'keep']).default('end'),
  runsMax: z.int().min(1).max(10_000).default(512),
});

export type DaemonConfig = z.infer<typeof Config>;

const CONFIG_BYTES_MAX = 256 * 1024;

/** Reads and checks the file. A file that is not there is an error only when somebody named it. */
export async function loadConfig(path: string, options: { readonly required: boolean }): Promise<DaemonConfig> {
  const text = await readConfigText(path, options);
  // A file of comments alone is a configuration that leaves everything as it is.
  const document = readDocument({ file: path, text: text === null || isBlank(text) ? '{}' : text });
  if (!document.ok) throw invalid(document.problems);
  const parsed = Config.safeParse(document.value, { error: ruleOf });
  if (!parsed.success) {
    const schema = z.toJSONSchema(Config, { io: 'input' }) as SchemaNode;
    const judged = problemsOf(parsed.error.issues, { document, schema, hidden: () => false });
    throw invalid([...document.problems, ...judged]);
  }
  if (document.problems.length > 0) throw invalid(document.problems);
  return parsed.data;
}

function isBlank(text: string): boolean {
  return text.split('\n').every((line) => /^\s*(?:#.*)?$/.test(line));
}

function invalid(problems: readonly Problem[]): Error {
  return fail('CONFIG_INVALID', { problems: inOrder(problems) });
}

async function readConfigText(path: string, options: { readonly required: boolean }): Promise<string | null> {
  try {
    const facts = await stat(path);
    if (!facts.isFile()) throw fail('CONFIG_INVALID', { detail: `${path} is not a file` });
    if (facts.size > CONFIG_BYTES_MAX)
      throw fail('CONFIG_INVALID', { detail: `${path} is larger than ${CONFIG_BYTES_MAX} bytes` });
    if (facts.uid !== 0 && facts.uid !== process.getuid?.())
      throw fail('CONFIG_INVALID', { detail: `${path} belongs to user ${facts.uid}; it must belong to root` });
    if ((facts.mode & 0o022) !== 0)
      throw fail('CONFIG_INVALID', {
        detail: `${path} can be written by others (mode ${(facts.mode & 0o777).toString(8)})`,
        hint: `chmod go-w ${path}`,
      });
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' && !options.required) return null;
    if (error instanceof Error && 'errno' in error)
      throw fail('CONFIG_INVALID', { detail: `${path}: ${messageOf(error)}` }, { cause: error });
    throw error;
  }
}
