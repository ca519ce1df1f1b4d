/**
 * Every error a person can meet, in one place: what happened, what to type next, the HTTP status of the API and the
 * exit code of the command line. `docs/errors.md` is compared with this table by a test.
 */
export type ErrorEntry = {
  readonly message: string;
  readonly hint: string;
  readonly httpStatus: number;
  readonly exitCode: number;
};

export const EXIT_USAGE = 2;
export const EXIT_FAILED = 1;
export const EXIT_ENDED_BY_SUPERVISOR = 124;
export const EXIT_SUPERVISOR_FAILED = 125;
export const EXIT_REFUSED = 126;
export const EXIT_COMMAND_NOT_FOUND = 127;

export const ERRORS = {
  PROFILE_INVALID: {
    message: 'the profile is not valid',
    hint: 'correct the places named above, then run `ringfence validate` on the file',
    httpStatus: 422,
    exitCode: EXIT_REFUSED,
  },
  PROFILE_UNREADABLE: {
    message: 'the profile cannot be read',
    hint: 'give the path of a profile file, such as profiles/offline.yaml',
    httpStatus: 422,
    exitCode: EXIT_REFUSED,
  },
  PROFILE_UNTRUSTED: {
    message: 'the profile can be changed by somebody else',
    hint: 'the file must belong to you or root and be writable by nobody else: `chmod go-w FILE`',
    httpStatus: 403,
    exitCode: EXIT_REFUSED,
  },
  PROFILE_CHANGED: {
    message: 'the profile changed while it was being read',
    hint: 'run the command again when the file is written completely',
    httpStatus: 409,
    exitCode: EXIT_REFUSED,
  },
  PROFILE_QUARANTINED: {
    message: 'the profile is in quarantine after a breach',
    hint: 'read `ringfence incidents`, then end the quarantine with `ringfence release NAME`',
    httpStatus: 409,
    exitCode: EXIT_REFUSED,
  },
  COMMAND_FIXED: {
    message: 'the profile names the command, so none can be given',
    hint: 'leave out what follows `--`, or write `command: any` in the profile',
    httpStatus: 422,
    exitCode: EXIT_REFUSED,
  },
  COMMAND_MISSING: {
    message: 'the profile leaves the command to the caller, and none was given',
    hint: 'write it after `--`: `ringfence run PROFILE -- CMD ARG…`',
    httpStatus: 422,
    exitCode: EXIT_REFUSED,
  },
  HOST_CANNOT_ENFORCE: {
    message: 'this host cannot enforce the profile',
    hint: '`ringfence doctor` says what is missing and how to get it',
    httpStatus: 422,
    exitCode: EXIT_REFUSED,
  },
  IMAGE_NOT_FOUND: {
    message: 'the image is not on this host',
    hint: 'build or pull it first, then check `docker images`',
    httpStatus: 422,
    exitCode: EXIT_REFUSED,
  },
  MOUNT_REFUSED: {
    message: 'a mount would reach something no agent may reach',
    hint: 'mount a folder made for the agent, below your own directories',
    httpStatus: 422,
    exitCode: EXIT_REFUSED,
  },
  SECRET_UNREADABLE: {
    message: 'a secret cannot be read safely',
    hint: 'the file must exist, belong to root or you and be readable by nobody else: `chmod 600 FILE`',
    httpStatus: 422,
    exitCode: EXIT_REFUSED,
  },
  SINK_UNKNOWN: {
    message: 'the profile names an alert sink that the daemon does not have',
    hint: 'add the sink to the configuration of the daemon, or correct `alerts` in the profile',
    httpStatus: 422,
    exitCode: EXIT_REFUSED,
  },
  RUN_NOT_FOUND: {
    message: 'there is no such run',
    hint: '`ringfence ps --all` lists the runs',
    httpStatus: 404,
    exitCode: EXIT_FAILED,
  },
  RUN_AMBIGUOUS: {
    message: 'more than one run matches',
    hint: 'give the run id: `ringfence ps --all` lists them',
    httpStatus: 409,
    exitCode: EXIT_FAILED,
  },
  RUN_OVER: {
    message: 'the run is over',
    hint: '`ringfence inspect RUN` shows how it ended',
    httpStatus: 409,
    exitCode: EXIT_FAILED,
  },
  RUN_NOT_RUNNING: {
    message: 'the run is not running yet',
    hint: '`ringfence ps` shows its phase; try again when it is running',
    httpStatus: 409,
    exitCode: EXIT_FAILED,
  },
  RUN_NOT_PAUSED: {
    message: 'the run is not paused',
    hint: '`ringfence ps` shows which runs are',
    httpStatus: 409,
    exitCode: EXIT_FAILED,
  },
  RELOAD_NEEDS_RESTART: {
    message: 'the profile changes what only a new launch can change, so nothing was changed',
    hint: 'take these changes back, or stop the run and launch it again',
    httpStatus: 409,
    exitCode: EXIT_REFUSED,
  },
  APPROVAL_NOT_FOUND: {
    message: 'there is no such request for approval',
    hint: '`ringfence pending` lists what waits for a person',
    httpStatus: 404,
    exitCode: EXIT_FAILED,
  },
  APPROVAL_AMBIGUOUS: {
    message: 'more than one request for approval matches',
    hint: 'give more of the id: `ringfence pending` lists them',
    httpStatus: 409,
    exitCode: EXIT_FAILED,
  },
  APPROVAL_DECIDED: {
    message: 'the request does not wait for a decision any more',
    hint: '`ringfence pending --all` says what became of it; when the agent asks again there is a new request',
    httpStatus: 409,
    exitCode: EXIT_FAILED,
  },
  INCIDENT_NOT_FOUND: {
    message: 'there is no such incident',
    hint: '`ringfence incidents` lists them',
    httpStatus: 404,
    exitCode: EXIT_FAILED,
  },
  NOT_QUARANTINED: {
    message: 'the profile is not in quarantine',
    hint: '`ringfence incidents` shows which profiles are',
    httpStatus: 409,
    exitCode: EXIT_FAILED,
  },
  RUNS_TOO_MANY: {
    message: 'the daemon already holds as many runs as it may',
    hint: 'wait for one to end, or raise `runsMax` in the configuration of the daemon',
    httpStatus: 503,
    exitCode: EXIT_REFUSED,
  },
  LEDGER_UNWRITABLE: {
    message: 'the ledger cannot be written, so nothing new may start',
    hint: 'free space or repair the disk below the state directory, then start again',
    httpStatus: 503,
    exitCode: EXIT_REFUSED,
  },
  ENFORCEMENT_MISMATCH: {
    message: 'a limit read back from the kernel is not what the profile says',
    hint: '`ringfence why RUN` names the limit; `ringfence doctor` checks the host',
    httpStatus: 500,
    exitCode: EXIT_ENDED_BY_SUPERVISOR,
  },
  ENGINE_UNREACHABLE: {
    message: 'the container engine does not answer',
    hint: 'check `systemctl status docker`, or DOCKER_HOST in the environment of the daemon',
    httpStatus: 502,
    exitCode: EXIT_SUPERVISOR_FAILED,
  },
  ENGINE_FAILED: {
    message: 'the container engine refused a request',
    hint: 'the message above is the engine’s own; `ringfence doctor` checks the host',
    httpStatus: 502,
    exitCode: EXIT_SUPERVISOR_FAILED,
  },
  FENCE_FAILED: {
    message: 'the egress fence could not be put in force',
    hint: '`ringfence doctor` names the missing tool or the foreign rule',
    httpStatus: 500,
    exitCode: EXIT_SUPERVISOR_FAILED,
  },
  METER_FAILED: {
    message: 'the use of the run cannot be measured, so it may not run',
    hint: '`ringfence doctor` checks the cgroup controllers',
    httpStatus: 500,
    exitCode: EXIT_SUPERVISOR_FAILED,
  },
  QUEUE_OVERFLOW: {
    message: 'a run caused more events than the supervisor will hold',
    hint: 'the run was ended; `ringfence incident ID` shows the last events',
    httpStatus: 500,
    exitCode: EXIT_ENDED_BY_SUPERVISOR,
  },
  DAEMON_NOT_RUNNING: {
    message: 'the daemon is not running, or you may not reach its socket',
    hint: 'start it as root: `ringfence daemon`, or `systemctl start ringfenced`; or join the group that owns the socket',
    httpStatus: 503,
    exitCode: EXIT_SUPERVISOR_FAILED,
  },
  DAEMON_ALREADY_RUNNING: {
    message: 'another daemon already holds this state directory',
    hint: 'stop it first, or give this one a `--state` and a `--socket` of its own',
    httpStatus: 409,
    exitCode: EXIT_SUPERVISOR_FAILED,
  },
  CONFIG_INVALID: {
    message: 'the configuration of the daemon is not valid',
    hint: 'correct the places named above and start again',
    httpStatus: 500,
    exitCode: EXIT_USAGE,
  },
  LEDGER_BROKEN: {
    message: 'the ledger was changed after it was written',
    hint: 'keep a copy of the state directory as evidence before anything else',
    httpStatus: 500,
    exitCode: EXIT_FAILED,
  },
  ALERT_NOT_KEPT: {
    message: 'an alert could not be written to the spool, so it will not be delivered',
    hint: 'free space below the state directory; `ringfence incidents` still has the incident',
    httpStatus: 500,
    exitCode: EXIT_FAILED,
  },
  REQUEST_INVALID: {
    message: 'the request is not valid',
    hint: '`ringfence COMMAND --help` shows the form',
    httpStatus: 400,
    exitCode: EXIT_USAGE,
  },
  FORBIDDEN: {
    message: 'you may not do this',
    hint: 'ask the owner of the run, or root',
    httpStatus: 403,
    exitCode: EXIT_FAILED,
  },
  INTERNAL: {
    message: 'the supervisor met a fault of its own',
    hint: 'the log of the daemon has the details; please report them',
    httpStatus: 500,
    exitCode: EXIT_SUPERVISOR_FAILED,
  },
} as const satisfies Readonly<Record<string, ErrorEntry>>;

export type ErrorCode = keyof typeof ERRORS;

/** One thing wrong in a file: shown as `file:line:col path: message`, then `hint: …`. */
export type Problem = {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly path: string;
  readonly message: string;
  readonly hint: string | null;
};

export type ErrorFacts = {
  /** One sentence in place of the catalogue's: what happened, the value, the rule. */
  readonly detail?: string;
  /** In place of the catalogue's hint. */
  readonly hint?: string;
  readonly problems?: readonly Problem[];
  readonly [fact: string]: unknown;
};

/** The only error type thrown on purpose. `facts` go to the log and the API; never put a secret in them. */
export class RingfenceError extends Error {
  readonly code: ErrorCode;
  readonly facts: ErrorFacts;

  constructor(code: ErrorCode, facts: ErrorFacts, options?: ErrorOptions) {
    super(facts.detail ?? ERRORS[code].message, options);
    this.name = 'RingfenceError';
    this.code = code;
    this.facts = facts;
  }

  get hint(): string {
    return this.facts.hint ?? ERRORS[this.code].hint;
  }
}

/** `throw fail('IMAGE_NOT_FOUND', { detail: …, image }, { cause })`. */
export function fail(code: ErrorCode, facts: ErrorFacts = {}, options?: ErrorOptions): RingfenceError {
  return new RingfenceError(code, facts, options);
}

/** The text shown to people, and the reason recorded in the ledger, for any thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
