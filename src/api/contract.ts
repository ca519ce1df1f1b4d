import { z } from 'zod';

import type { Outcome } from '../core/outcome.ts';
import type { OutboxListing, SinkTestResult } from '../core/ports/alert.ts';
import { PROFILE_NAME_PATTERN, TRACEPARENT_PATTERN } from '../core/ids.ts';
import { PROFILE_BYTES_MAX, type EndpointName } from './endpoints.ts';
import type {
  Approval,
  DoctorReport,
  Explanation,
  Health,
  Incident,
  IncidentSummary,
  LedgerCheckpoint,
  LaunchRequest,
  ReloadReport,
  ReloadRequest,
  RunDetail,
  RunView,
} from './service.ts';

const PATH_CHARS_MAX = 4096;
const COMMAND_WORDS_MAX = 1024;
const WORD_CHARS_MAX = 128 * 1024;
const LABELS_MAX = 32;
const LABEL_KEY_CHARS_MAX = 63;
const LABEL_VALUE_CHARS_MAX = 256;
const TAIL_LINES_MAX = 1_000_000;
const APPROVAL_SECONDS_MAX = 30 * 86_400;
const DENIAL_REASON_CHARS_MAX = 200;

// A run id, a prefix of one, or a profile name: nothing else can name a run, so nothing else is looked up.
const RUN_REFERENCE = /^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$/;
const INCIDENT_REFERENCE = /^[a-z0-9]{1,13}$/;
const SINK_NAME = /^[a-z0-9-]{1,40}$/;
const ALERT_ID = /^[A-Za-z0-9_-]{1,64}$/;
const APPROVAL_REFERENCE = /^a[a-z0-9]{0,12}$/;
const LABEL_KEY = /^[A-Za-z0-9][A-Za-z0-9._/-]*$/;
// Control characters in a label would reach every list that shows it.
// oxlint-disable-next-line no-control-regex -- the control characters are what is refused.
const CONTROL_FREE = /^[^\u0000-\u001f\u007f]*$/;
// oxlint-disable-next-line no-control-regex -- a word of a command ends at NUL in the kernel.
const NUL_FREE = /^[^\u0000]*$/;

const runParams = z.strictObject({
  run: z
    .string()
    .regex(RUN_REFERENCE, 'must be a run id, the beginning of one, or the name of a profile')
    .describe('A run id, a unique prefix of one, or the name of a profile with exactly one run alive.'),
});

const nothing = z.strictObject({});

const flag = (description: string) =>
  z.enum(['true', 'false'], 'must be true or false').optional().describe(description);

const wholeNumber = (options: { readonly max: number; readonly description: string }) =>
  z
    .string()
    .regex(/^\d{1,16}$/, 'must be a whole number')
    .refine((text) => Number(text) <= options.max, `must be at most ${options.max}`)
    .optional()
    .describe(options.description);

const profileFields = {
  profilePath: z
    .string()
    .max(PATH_CHARS_MAX)
    .regex(/^\//, 'must be an absolute path')
    .regex(NUL_FREE, 'must hold no NUL')
    .describe('Absolute path of the profile. The daemon reads the file itself.'),
  profileText: z
    .string()
    .max(PROFILE_BYTES_MAX)
    .describe('The text of that file as the caller read it: proof that the caller may, and what was meant to run.'),
};

const reloadBody = z.strictObject(profileFields);

const launchBody = z.strictObject({
  ...profileFields,
  command: z
    .array(z.string().max(WORD_CHARS_MAX).regex(NUL_FREE, 'must hold no NUL'))
    .min(1)
    .max(COMMAND_WORDS_MAX)
    .nullable()
    .describe('The words of the command, for a profile with `command: any`; else null.'),
  labels: z
    .record(
      z.string().max(LABEL_KEY_CHARS_MAX).regex(LABEL_KEY, 'must be letters, digits and . _ / -'),
      z.string().max(LABEL_VALUE_CHARS_MAX).regex(CONTROL_FREE, 'must hold no control characters'),
    )
    .refine((labels) => Object.keys(labels).length <= LABELS_MAX, `must have at most ${LABELS_MAX} entries`)
    .refine(
      (labels) => Object.keys(labels).every((key) => !key.toLowerCase().startsWith('ringfence')),
      'must not use keys that begin with `ringfence`, which are the supervisor’s own',
    )
    .describe('Shown with the run and in its incidents.'),
  attach: z.boolean().describe('Wait with the launch until the caller attaches.'),
  tty: z.boolean().describe('Give the agent a terminal.'),
  stdin: z.boolean().describe('Give the agent the standard input of the caller.'),
  traceparent: z
    .string()
    .regex(TRACEPARENT_PATTERN, 'must be a traceparent of W3C Trace Context, version 00')
    .nullable()
    .optional()
    .describe('The trace that the run is part of: given to the agent, and told in its incidents.'),
});

const approvalParams = z.strictObject({
  id: z
    .string()
    .regex(APPROVAL_REFERENCE, 'must be the id of a request for approval, or the beginning of one')
    .describe('The id of a request for approval, or a unique beginning of one.'),
});

const approveBody = z.strictObject({
  forSeconds: z
    .int()
    .min(1)
    .max(APPROVAL_SECONDS_MAX)
    .nullable()
    .describe('How long it stays open; null for the time that the configuration of the daemon says.'),
});

const denyBody = z.strictObject({
  reason: z
    .string()
    .max(DENIAL_REASON_CHARS_MAX)
    .regex(CONTROL_FREE, 'must hold no control characters')
    .nullable()
    .describe('For the record.'),
});

type RequestSchemas = { readonly params: z.ZodType; readonly query: z.ZodType; readonly body: z.ZodType | null };

const runRequest = { params: runParams, query: nothing, body: null } as const;
const plainRequest = { params: nothing, query: nothing, body: null } as const;

/** What each endpoint accepts. `body: null` means that a body is refused. */
export const REQUESTS = {
  health: plainRequest,
  launch: { params: nothing, query: nothing, body: launchBody },
  list: { params: nothing, query: z.strictObject({ all: flag('Also the runs that are over.') }), body: null },
  inspect: runRequest,
  wait: runRequest,
  stop: runRequest,
  kill: runRequest,
  resume: runRequest,
  reload: { params: nothing, query: nothing, body: reloadBody },
  approvals: { params: nothing, query: z.strictObject({ all: flag('Also what was decided lately.') }), body: null },
  approve: { params: approvalParams, query: nothing, body: approveBody },
  deny: { params: approvalParams, query: nothing, body: denyBody },
  logs: {
    params: runParams,
    query: z.strictObject({
      follow: flag('Go on until the run ends.'),
      tail: wholeNumber({ max: TAIL_LINES_MAX, description: 'Begin with so many of the last lines.' }),
    }),
    body: null,
  },
  attach: runRequest,
  events: {
    params: nothing,
    query: z.strictObject({
      follow: flag('Go on with what happens from now.'),
      since: wholeNumber({ max: 8.64e15, description: 'Only records since this time, in milliseconds of Unix time.' }),
      run: runParams.shape.run.optional(),
    }),
    body: null,
  },
  incidents: plainRequest,
  incident: {
    params: z.strictObject({
      id: z.string().regex(INCIDENT_REFERENCE, 'must be an incident id').describe('An incident id.'),
    }),
    query: nothing,
    body: null,
  },
  why: {
    params: z.strictObject({
      reference: z
        .string()
        .regex(RUN_REFERENCE, 'must be a run or an incident id')
        .describe('A run (as in `/v1/runs/:run`) or an incident id.'),
    }),
    query: nothing,
    body: null,
  },
  release: {
    params: z.strictObject({
      profile: z
        .string()
        .regex(PROFILE_NAME_PATTERN, 'must be the name of a profile')
        .describe('The name of a profile.'),
    }),
    query: nothing,
    body: null,
  },
  doctor: plainRequest,
  gc: plainRequest,
  checkpoint: plainRequest,
  rotateKey: plainRequest,
  alerts: plainRequest,
  testAlert: {
    params: nothing,
    query: nothing,
    body: z.strictObject({
      sink: z.string().regex(SINK_NAME, 'must be the name of a sink').describe('The name of a sink.'),
    }),
  },
  retryAlerts: {
    params: nothing,
    query: nothing,
    body: z.strictObject({
      kind: z.enum(['id', 'dead', 'waiting']).describe('One alert, all that were given up, or all that wait.'),
      id: z.string().regex(ALERT_ID, 'must be the id of an alert').optional().describe('With `id`: which one.'),
    }),
  },
  metrics: plainRequest,
} as const satisfies Readonly<Record<EndpointName, RequestSchemas>>;

/** A request that passed its schemas, as the handler of that endpoint sees it. */
export type RequestOf<Name extends EndpointName> = {
  readonly params: z.output<(typeof REQUESTS)[Name]['params']>;
  readonly query: z.output<(typeof REQUESTS)[Name]['query']>;
  readonly body: (typeof REQUESTS)[Name]['body'] extends z.ZodType ? z.output<(typeof REQUESTS)[Name]['body']> : null;
};

/** Signals that an attached client may send on. SIGKILL and SIGSTOP are not among them: `kill` is its own request. */
const FORWARDED_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGWINCH'] as const;

const TERMINAL_CELLS_MAX = 65_535;

/** The JSON frames that a client may send during an attach. */
export const ATTACH_FRAMES = {
  resize: z.strictObject({
    columns: z.int().min(1).max(TERMINAL_CELLS_MAX).describe('Width of the terminal.'),
    rows: z.int().min(1).max(TERMINAL_CELLS_MAX).describe('Height of the terminal.'),
  }),
  signal: z.strictObject({ name: z.enum(FORWARDED_SIGNALS).describe('For the first process of the agent.') }),
} as const;

/** What the endpoints that answer with one JSON value answer. */
export type Answers = {
  readonly health: Health;
  readonly launch: RunView;
  readonly list: readonly RunView[];
  readonly inspect: RunDetail;
  readonly wait: Outcome;
  readonly stop: null;
  readonly kill: null;
  readonly resume: null;
  readonly reload: ReloadReport;
  readonly approvals: readonly Approval[];
  readonly approve: Approval;
  readonly deny: Approval;
  readonly incidents: readonly IncidentSummary[];
  readonly incident: Incident;
  readonly why: Explanation;
  readonly release: null;
  readonly doctor: DoctorReport;
  readonly gc: { readonly removed: readonly string[] };
  readonly checkpoint: LedgerCheckpoint;
  readonly rotateKey: { readonly key: string };
  readonly alerts: OutboxListing;
  readonly testAlert: SinkTestResult;
  readonly retryAlerts: { readonly retried: number };
};

/** The schema and the type that the service takes are the same thing, or this does not compile. */
type Same<Left, Right> = [Left] extends [Right] ? ([Right] extends [Left] ? true : false) : false;
const launchBodyIsLaunchRequest: Same<z.output<typeof launchBody>, Mutable<LaunchRequest>> = true;
void launchBodyIsLaunchRequest;
const reloadBodyIsReloadRequest: Same<z.output<typeof reloadBody>, Mutable<ReloadRequest>> = true;
void reloadBodyIsReloadRequest;

type Mutable<Value> = Value extends readonly (infer Item)[]
  ? Mutable<Item>[]
  : Value extends object
    ? { -readonly [Key in keyof Value]: Mutable<Value[Key]> }
    : Value;
