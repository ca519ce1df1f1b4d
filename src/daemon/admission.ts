import { dirname } from 'node:path';
import type { Caller, LaunchRequest } from '../api/service.ts';
import { fail, type ErrorCode, type Problem } from '../core/errors.ts';
import type { Engine, EngineFacts, ImageFacts } from '../core/ports/engine.ts';
import { printable } from '../core/text.ts';
import { formatBytes } from '../core/units.ts';
import { unenforceableProblems } from '../profile/enforceable.ts';
import { formatProblem, parseProfile, type ParsedProfile } from '../profile/parse.ts';
import { problemAtPath } from '../profile/problems.ts';
import { resolveProfile } from '../profile/resolve.ts';
import type { Spec } from '../profile/spec.ts';
import { digestOf, readTrustedProfile } from './profile-file.ts';

/** What the daemon knows that decides whether a profile may run here and now. */
export type AdmissionWorld = {
  readonly engine: Engine;
  readonly engineFacts: EngineFacts;
  readonly sinkNames: ReadonlySet<string>;
  readonly runsMax: number;
  runsAlive(): number;
  isQuarantined(profile: string): boolean;
  ledgerFailure(): Error | null;
};

export type Admission = {
  readonly spec: Spec;
  readonly profileText: string;
  readonly image: ImageFacts;
};

/** The answer to a launch before anything is made: an Admission, or the RingfenceError that says why not. */
export async function admit(request: LaunchRequest, caller: Caller, world: AdmissionWorld): Promise<Admission> {
  const ledgerFailure = world.ledgerFailure();
  if (ledgerFailure !== null)
    throw fail('LEDGER_UNWRITABLE', { detail: `the ledger cannot be written: ${ledgerFailure.message}` });
  if (world.runsAlive() >= world.runsMax)
    throw fail('RUNS_TOO_MANY', { detail: `${world.runsMax} runs are alive, which is as many as runsMax allows` });
  const text = await readTrustedProfile({ path: request.profilePath, text: request.profileText }, caller);
  const parsed = parseProfile({ text, file: request.profilePath });
  if (!parsed.ok) throw invalid(parsed.problems);
  const resolved = resolveProfile({ parsed, digest: digestOf(text), folder: dirname(request.profilePath) });
  if (!resolved.ok) throw invalid(resolved.problems);
  const later = unenforceableProblems(parsed, resolved.spec);
  if (later.length > 0) throw withProblems('NOT_ENFORCEABLE', later);
  const spec = withCommand(resolved.spec, request.command);
  refuseBeyondHost(spec, parsed, world.engineFacts);
  if (world.isQuarantined(spec.name)) {
    throw fail('PROFILE_QUARANTINED', {
      detail: `${spec.name} is in quarantine after a breach`,
      hint: `read \`ringfence incidents\`, then \`ringfence release ${spec.name}\``,
    });
  }
  const unknownSink = spec.alerts.find((name) => !world.sinkNames.has(name));
  if (unknownSink !== undefined)
    throw fail('SINK_UNKNOWN', { detail: `alerts: the daemon has no sink "${unknownSink}"` });
  const image = await world.engine.resolveImage(spec.image);
  return { spec, profileText: text, image };
}

function invalid(problems: readonly Problem[]): Error {
  return withProblems('PROFILE_INVALID', problems);
}

function withProblems(code: ErrorCode, problems: readonly Problem[]): Error {
  return fail(code, { detail: problems.map(formatProblem).join('\n'), problems });
}

function withCommand(spec: Spec, given: readonly string[] | null): Spec {
  if (!spec.commandFromCaller) {
    if (given !== null)
      throw fail('COMMAND_FIXED', {
        detail: `${spec.name} names its command, so "${printable(given[0] ?? '')}" cannot replace it`,
      });
    return spec;
  }
  if (given === null || given.length === 0) throw fail('COMMAND_MISSING');
  return { ...spec, command: given };
}

/** A bound that the host does not have is no bound: `cpu: 64` on 2 cores would read as held and never be reached. */
function refuseBeyondHost(spec: Spec, { document }: ParsedProfile, host: EngineFacts): void {
  const problems: Problem[] = [];
  const refuse = (keys: readonly string[], message: string): void => {
    problems.push(problemAtPath(keys, { message, hint: '`ringfence doctor` shows what this host has' }, document));
  };
  const { cpuMillis, memoryBytesMax } = spec.limits;
  if (cpuMillis > host.cpus * 1000)
    refuse(['limits', 'cpu'], `must be at most ${host.cpus}, the cores of this host, got ${cpuMillis / 1000}`);
  if (memoryBytesMax > host.memoryBytes) {
    const has = formatBytes(host.memoryBytes);
    refuse(['limits', 'memory'], `must be at most ${has}, the memory of this host, got ${formatBytes(memoryBytesMax)}`);
  }
  if (problems.length > 0) throw withProblems('HOST_CANNOT_ENFORCE', problems);
}
