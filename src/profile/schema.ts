import { z } from 'zod';
import { ACTIONS, BUDGETS, LIMITS, type BudgetName } from '../core/outcome.ts';
import { PROFILE_NAME_PATTERN } from '../core/ids.ts';
import {
  duration,
  egressRule,
  ENV_NAME_PATTERN,
  hostPath,
  mountSource,
  line,
  listOf,
  paragraph,
  requestRule,
  reservedEnv,
  size,
  targetPath,
  text,
  USER_PATTERN,
  wholeNumber,
} from './fields.ts';
import { REQUESTS_MAX } from './requests.ts';
import { CHECKS, RULES_MAX } from './rules.ts';
import { budget, BYTES_MAX, limits, TIME_MS_MAX } from './schema-bounds.ts';
import { parseUser } from './values.ts';

/**
 * The profile as a person writes it: the only definition of its keys, types, defaults and limits. The types are
 * inferred from it; `profiles/profile.schema.json` and the table in `docs/profile.md` are generated from it.
 */
const API_VERSION = 'ringfence/v1';

// The kernel keeps the last number for "no user".
const USER_ID_MAX = 4_294_967_294;

const USER_MUST = 'must be a user id or uid:gid in numbers (a name means what the image says), and root is refused';

// Registry, path, tag, digest. Each separator is mandatory between parts, so matching stays linear.
const IMAGE_REGISTRY = '(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}(?::[0-9]{1,5})?/)?';
const IMAGE_PART = '[a-z0-9]+(?:(?:\\.|_{1,2}|-+)[a-z0-9]+)*';
const IMAGE_PATTERN = new RegExp(
  `^${IMAGE_REGISTRY}${IMAGE_PART}(?:/${IMAGE_PART}){0,8}(?::\\w[\\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$`,
);

const action = z.enum(ACTIONS);

/** What a breach of each budget does. Kept as one object, so that a new budget cannot be forgotten. */
const ON_BUDGET = Object.fromEntries(
  BUDGETS.map((name) => [
    `budget.${name}`,
    action.default('kill').meta({ description: `What crossing \`budget.${name}\` does.` }),
  ]),
) as { readonly [Name in BudgetName as `budget.${Name}`]: z.ZodDefault<typeof action> };

function rules(list: 'allow' | 'ask', description: string) {
  const entry = z.union(
    [
      egressRule(list),
      z.strictObject({
        to: egressRule(list).meta({ description: 'The rule.', examples: ['api.example.com:443'] }),
        check: z
          .enum(CHECKS)
          .optional()
          .meta({
            description:
              'What a connection to a tcp port must show: the name in its TLS hello, the name in every HTTP request, or nothing. Left out: `tls` on 443, `http` on 80, nothing elsewhere.',
            examples: ['tls'],
          }),
        inspect: z.boolean().default(false).meta({
          description:
            'Whether each request is looked at: TLS ends at the fence, and the run trusts a certificate of its own.',
        }),
        requests: listOf(requestRule(), REQUESTS_MAX)
          .default([])
          .meta({
            description:
              'With `inspect`: the requests that may pass, a method and a path each. Left out: every request.',
            examples: [['GET /v1/*']],
          }),
      }),
    ],
    { error: 'must be a rule, such as api.example.com:443 or 10.20.0.5/32:5432' },
  );
  return listOf(entry, RULES_MAX)
    .default([])
    .meta({ description, examples: [['api.example.com']] });
}

const egress = z
  .strictObject({
    allow: rules('allow', 'Open for the whole run: `host`, `*.host:443,8443`, `host:22/tcp`, `10.20.0.5/32:5432`.'),
    ask: rules('ask', 'Held until a person decides, denied on time-out. The same grammar.'),
  })
  .meta({ description: 'allow, then ask; everything else is denied. `{}` is none.', examples: [{}] });

const on = z
  .strictObject({
    ...ON_BUDGET,
    grace: duration({ min: 0, max: 600_000 }).default('5s').meta({
      description: 'For `stop`: SIGTERM, then SIGKILL after this. `kill` has none.',
    }),
    quarantine: z.boolean().default(false).meta({
      description: 'After a breach that ended a run: no new run until `ringfence release NAME`.',
    }),
    'supervisor.lost': z
      .union(
        [
          z.enum(['keep', 'kill']),
          z.strictObject({
            action: z.enum(['keep', 'kill']).meta({ description: 'What happens to the run.', examples: ['kill'] }),
            for: duration({ min: 1000, max: TIME_MS_MAX }).default('60s').meta({
              description: 'How long the daemon may stay away first.',
            }),
          }),
        ],
        { error: 'must be keep or kill, or both parts: { action: kill, for: 5m }' },
      )
      .default('keep')
      .meta({ description: 'What happens when the daemon stays away. The limits and rules hold either way.' }),
    'telemetry.lost': z
      .union(
        [
          z.enum(['keep', 'kill']),
          z.strictObject({
            action: z.enum(['keep', 'kill']).meta({ description: 'What happens to the run.', examples: ['keep'] }),
            for: duration({ min: 1000, max: TIME_MS_MAX }).default('10s').meta({
              description: 'How long nothing may be told of its devices first.',
            }),
          }),
        ],
        { error: 'must be keep or kill, or both parts: { action: kill, for: 30s }' },
      )
      .default('kill')
      .meta({ description: 'What happens to a run with a GPU when its use of it cannot be measured.' }),
  })
  .prefault({})
  .meta({ description: 'What a breach does: warn, throttle, pause, stop or kill.' });

const mount = z.strictObject({
  host: mountSource().meta({
    description: 'Folder of the host; resolves against the folder of the profile.',
    examples: ['./workspace'],
  }),
  path: targetPath().meta({ description: 'Place in the container.', examples: ['/workspace'] }),
  mode: z.enum(['ro', 'rw']).default('ro').meta({ description: 'Whether the agent may write there.' }),
  size: size({ min: 2 ** 20, max: BYTES_MAX })
    .optional()
    .meta({
      description: 'How much it may hold.',
      examples: ['2GiB'],
    }),
});

const secret = z.strictObject({
  env: envName().meta({ description: 'Variable that the agent reads.', examples: ['OPENAI_API_KEY'] }),
  file: hostPath().meta({
    description: 'File of the host that holds the value; resolves against the folder of the profile.',
    examples: ['/etc/ringfence/secrets/openai'],
  }),
});

function envName() {
  return text({
    pattern: ENV_NAME_PATTERN,
    must: 'must be a variable name of letters, digits and underscores',
    check: reservedEnv,
  });
}

const BOUND_PATHS = [
  ...LIMITS.map((limit) => `limits.${limit}` as const),
  'limits.gpu.memory',
  ...BUDGETS.map((name) => `budget.${name}` as const),
  'mounts.size',
] as const;

export const profileSchema = z
  .strictObject({
    apiVersion: z.literal(API_VERSION).meta({ description: 'Version of this format.', examples: [API_VERSION] }),
    name: text({
      pattern: PROFILE_NAME_PATTERN,
      must: 'must be 1 to 40 of a–z, 0–9 and hyphens, with no hyphen at either end',
    }).meta({ description: 'Name of the agent.', examples: ['paper-reader'] }),
    description: paragraph(1000).default('').meta({ description: 'What the agent is for.' }),
    owner: line(200).default('').meta({ description: 'Who answers for it.' }),
    image: text({
      pattern: IMAGE_PATTERN,
      must: 'must be the name of an image, such as ringfence/agent-python:local',
    }).meta({
      description: 'Image; a tag is resolved to a digest at launch and recorded, `@sha256:` pins it.',
      examples: ['ringfence/agent-python:local'],
    }),
    command: z
      .union(
        [
          z.literal('any'),
          listOf(text({ charsMax: 32_768 }), 256)
            .min(1)
            .check(firstWord),
        ],
        {
          error: 'must be a list, such as [python3, /agent/main.py], or the word any',
        },
      )
      .meta({
        description: 'What runs; `any` leaves it to `ringfence run PROFILE -- CMD…`.',
        examples: [['python3', '/agent/main.py']],
      }),
    user: z
      .union(
        [
          wholeNumber({ min: 1, max: USER_ID_MAX, tooSmall: 'must be at least 1, because root is refused' }),
          text({ pattern: USER_PATTERN, must: USER_MUST, check: userRange }),
        ],
        { error: USER_MUST },
      )
      .default(10001)
      .meta({ description: 'User id, or `uid:gid`; the group is the same number when left out. Never root.' }),
    env: z
      .record(envName(), text({ charsMax: 32_768 }))
      .refine((env) => Object.keys(env).length <= 256, 'must have at most 256 entries')
      .default({})
      .meta({ description: 'Environment of the agent. Not for secrets.', examples: [{ LANG: 'C.UTF-8' }] }),
    secrets: listOf(secret, 64).default([]).meta({
      description: 'Secret values, never in the ledger, inspect, logs or process lists.',
    }),
    mounts: listOf(mount, 32).default([]).meta({ description: 'Folders of the host.' }),
    limits,
    budget,
    egress,
    on,
    warnAt: listOf(text({ pattern: /^[1-9][0-9]?%$/, must: 'must be a share from 1% to 99%' }), 8)
      .default(['80%'])
      .meta({ description: 'Shares of every budget at which a warning is recorded.' }),
    alerts: listOf(
      text({
        pattern: PROFILE_NAME_PATTERN,
        must: 'must be the name of a sink in the configuration of the daemon, never a URL',
      }),
      16,
    )
      .default([])
      .meta({ description: 'Sinks that get the incidents.', examples: [['ops']] }),
    accept: listOf(z.enum(BOUND_PATHS), 32)
      .default([])
      .meta({
        description: 'Bounds that may be without effect on a host that cannot hold them; every report says so.',
        examples: [['limits.gpu.memory']],
      }),
  })
  .meta({ title: 'Ringfence profile', description: 'What one agent may do, must ask for and can never do.' });

/** A profile as written, with defaults filled in. Only `resolve.ts` reads it; everything else sees the Spec. */
export type Profile = z.output<typeof profileSchema>;

/** A profile as JSON Schema, draft 7 because that is what editors understand. */
export function profileJsonSchema(): Readonly<Record<string, unknown>> {
  return z.toJSONSchema(profileSchema, { io: 'input', target: 'draft-7' });
}

function userRange(written: string) {
  const { uid, gid } = parseUser(written);
  return Math.max(uid, gid) <= USER_ID_MAX ? null : { ok: false, rule: `must have ids of at most ${USER_ID_MAX}` };
}

function firstWord(context: z.core.ParsePayload<string[]>): void {
  if (context.value[0] !== '') return;
  context.issues.push({ code: 'custom', message: 'must name a program', input: '', path: [0] });
}
