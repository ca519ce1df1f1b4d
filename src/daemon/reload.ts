import type { Caller, ReloadedRun, ReloadReport, ReloadRequest } from '../api/service.ts';
import { fail, messageOf, RingfenceError, type Problem } from '../core/errors.ts';
import { printable } from '../core/text.ts';
import { describeChange, describeValues, diffSpecs } from '../profile/diff.ts';
import type { Path, StrictDocument } from '../profile/document.ts';
import { problemAtPath } from '../profile/problems.ts';
import type { Spec, SpecChange } from '../profile/spec.ts';
import { checkProfile, type AdmissionWorld } from './admission.ts';
import type { ApprovalDesk } from './approvals.ts';
import { refusalOf } from './refusal.ts';
import type { RunEntry, RunTable } from './run-table.ts';

/** What fence and warden can be told while the run lives. Everything else was put into the container when it was made. */
const LIVE_PATHS = [
  'description',
  'owner',
  'egress.allow',
  'egress.ask',
  'budget.',
  'on.',
  'warnAt',
  'alerts',
  'limits.bandwidth',
];

export type ReloadParts = {
  readonly admission: Pick<AdmissionWorld, 'engineFacts' | 'sinkNames'>;
  readonly table: RunTable;
  readonly approvals: Pick<ApprovalDesk, 'whileChanging'>;
};

type Planned = { readonly entry: RunEntry; readonly to: Spec; readonly changes: readonly SpecChange[] };

/** Every run alive of the profile is held to its new text, or none of them is: what stands in the way is found first. */
export async function reloadProfile(request: ReloadRequest, caller: Caller, parts: ReloadParts): Promise<ReloadReport> {
  const { spec, text, document } = await checkProfile(request, caller, parts.admission);
  const planned = runsToChange({ spec, path: request.profilePath, caller }, parts.table).map((entry): Planned => {
    const from = entry.driver.state.spec;
    // The caller of the launch chose the command, and a reload names none.
    const to = spec.commandFromCaller && from.commandFromCaller ? { ...spec, command: from.command } : spec;
    return { entry, to, changes: diffSpecs({ from, to }) };
  });
  const problems = planned.flatMap((each) => restartProblems(each, document));
  if (problems.length > 0) throw refusalOf('RELOAD_NEEDS_RESTART', unique(problems));
  const runs = await changeAll(planned, { text, path: request.profilePath, caller, parts });
  return { profile: spec.name, profileDigest: spec.profileDigest, runs };
}

function runsToChange(
  wanted: { readonly spec: Spec; readonly path: string; readonly caller: Caller },
  table: RunTable,
): readonly RunEntry[] {
  const { spec, path, caller } = wanted;
  const alive = table.alive().filter(({ driver }) => driver.state.end === null && !driver.state.empty);
  const ofPath = alive.filter((entry) => entry.profilePath === path);
  const named = ofPath.filter((entry) => entry.spec.name === spec.name);
  const shown = printable(path);
  if (named.length === 0) {
    const [other] = ofPath;
    if (other !== undefined) {
      const detail = `${shown} is called ${spec.name} now, and its runs are of ${other.spec.name}`;
      throw fail('RUN_NOT_FOUND', { detail, hint: `call it ${other.spec.name} again, or launch it as a new profile` });
    }
    const elsewhere = alive.find((entry) => entry.spec.name === spec.name);
    const from = elsewhere === undefined ? '' : `; run ${elsewhere.driver.state.runId} is of another file`;
    throw fail('RUN_NOT_FOUND', {
      detail: `no run of ${spec.name} that was launched from ${shown} is alive${from}`,
      hint: '`ringfence ps` lists the runs; the next launch takes the new text by itself',
    });
  }
  const own = named.filter((entry) => caller.uid === 0 || caller.uid === entry.caller.uid);
  if (own.length === 0) throw fail('FORBIDDEN', { detail: `the runs of ${spec.name} were launched by somebody else` });
  const early = own.find(({ driver }) => driver.state.phase !== 'running');
  if (early !== undefined)
    throw fail('RUN_NOT_RUNNING', { detail: `run ${early.driver.state.runId} is still being launched` });
  return own;
}

/** What only a new launch can change, each at its place in the file. */
function restartProblems({ entry, to, changes }: Planned, document: StrictDocument): readonly Problem[] {
  const fixed = changes.filter(({ path }) => !LIVE_PATHS.some((live) => path === live || isBelow(path, live)));
  const found = fixed.map((change) =>
    problemAtPath(
      keysOf(change.path),
      { message: `${describeValues(change)}: a running agent keeps what it was launched with`, hint: null },
      document,
    ),
  );
  return [...found, ...inspectionProblems({ launched: entry.spec, to }, document)];
}

/** The container trusts an authority that inspects only when it was launched with one. */
function inspectionProblems(
  { launched, to }: { readonly launched: Spec; readonly to: Spec },
  document: StrictDocument,
): readonly Problem[] {
  const isInspected = (rule: Spec['egress']['allow'][number]): boolean => rule.kind === 'name' && rule.inspect;
  if ([...launched.egress.allow, ...launched.egress.ask].some(isInspected)) return [];
  const message = 'the run was launched without inspection, so its agent would trust no inspected connection';
  return (['allow', 'ask'] as const).flatMap((list) =>
    to.egress[list].flatMap((rule, index) =>
      isInspected(rule) ? [problemAtPath(['egress', list, index, 'inspect'], { message, hint: null }, document)] : [],
    ),
  );
}

function isBelow(path: string, live: string): boolean {
  return live.endsWith('.') && path.startsWith(live);
}

function keysOf(path: string): Path {
  return path.split('.');
}

/** Several runs of one profile have the same problems. */
function unique(problems: readonly Problem[]): readonly Problem[] {
  return [...new Map(problems.map((problem) => [`${problem.path} ${problem.message}`, problem])).values()];
}

type Changing = {
  readonly text: string;
  readonly path: string;
  readonly caller: Caller;
  readonly parts: ReloadParts;
};

async function changeAll(planned: readonly Planned[], changing: Changing): Promise<readonly ReloadedRun[]> {
  const settled = await Promise.allSettled(planned.map((each) => changeRun(each, changing)));
  const failed = settled.filter((each) => each.status === 'rejected');
  const [first] = failed;
  if (first === undefined) return settled.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
  const cause: unknown = first.reason;
  const code = cause instanceof RingfenceError ? cause.code : 'INTERNAL';
  const others =
    planned.length === 1 ? '' : `; ${planned.length - failed.length} of ${planned.length} runs were changed`;
  throw fail(code, { detail: `${messageOf(cause)}${others}` }, { cause });
}

async function changeRun(
  { entry, to, changes }: Planned,
  { text, path, caller, parts }: Changing,
): Promise<ReloadedRun> {
  const { driver } = entry;
  const { runId, spec: from } = driver.state;
  const report = { runId, fromDigest: from.profileDigest, changes };
  if (from.profileDigest === to.profileDigest) return report;
  const draft = {
    kind: 'run.changed' as const,
    runId,
    profile: to.name,
    fromDigest: from.profileDigest,
    toDigest: to.profileDigest,
    profilePath: path,
    profileText: text,
    caller,
    changes: changes.map(describeChange),
  };
  await parts.approvals.whileChanging(runId, () => driver.change(to, draft));
  return report;
}
