import { dirname } from 'node:path';
import type { Caller, LaunchRequest } from '../api/service.ts';
import { fail } from '../core/errors.ts';
import type { Engine, EngineFacts, ImageFacts } from '../core/ports/engine.ts';
import { printable } from '../core/text.ts';
import type { StrictDocument } from '../profile/document.ts';
import { parseProfile } from '../profile/parse.ts';
import { problemAtPath } from '../profile/problems.ts';
import { resolveProfile } from '../profile/resolve.ts';
import type { Spec } from '../profile/spec.ts';
import { beyondHost, readHostSizes } from './host-limits.ts';
import type { GpuDesk } from './gpu-desk.ts';
import { digestOf, readTrustedProfile } from './profile-file.ts';
import { placing, refusalAt, refusalOf } from './refusal.ts';

/** What the daemon knows that decides whether a profile may run here and now. */
export type AdmissionWorld = {
  readonly engine: Engine;
  readonly engineFacts: EngineFacts;
  readonly sinkNames: ReadonlySet<string>;
  readonly runsMax: number;
  runsAlive(): number;
  isQuarantined(profile: string): boolean;
  readonly gpus: Pick<GpuDesk, 'refusal'>;
  ledgerFailure(): Error | null;
};

export type Admission = {
  readonly spec: Spec;
  readonly profileText: string;
  /** Where each part of the profile stands, for what is found wrong with it later. */
  readonly document: StrictDocument;
  readonly image: ImageFacts;
};

/** The answer to a launch before anything is made: an Admission, or the RingfenceError that says why not. */
export async function admit(request: LaunchRequest, caller: Caller, world: AdmissionWorld): Promise<Admission> {
  const ledgerFailure = world.ledgerFailure();
  if (ledgerFailure !== null) throw fail('LEDGER_UNWRITABLE', { detail: ledgerFailure.message });
  if (world.runsAlive() >= world.runsMax)
    throw fail('RUNS_TOO_MANY', { detail: `${world.runsMax} runs are alive, which is as many as runsMax allows` });
  const { spec: written, text, document } = await checkProfile(request, caller, world);
  const spec = withCommand(written, request.command, document);
  const noGpu = world.gpus.refusal(spec);
  if (noGpu !== null) {
    const hint = '`ringfence doctor` shows the GPUs of this host';
    throw refusalOf('HOST_CANNOT_ENFORCE', [problemAtPath(noGpu.keys, { message: noGpu.message, hint }, document)]);
  }
  if (world.isQuarantined(spec.name)) {
    throw fail('PROFILE_QUARANTINED', {
      detail: `${spec.name} is in quarantine after a breach`,
      hint: `read \`ringfence incidents\`, then \`ringfence release ${spec.name}\``,
    });
  }
  const image = await placing(['image'], document, () => world.engine.resolveImage(spec.image));
  return { spec, profileText: text, document, image };
}

export type CheckedProfile = {
  /** Without the command of the caller where the profile leaves it to them. */
  readonly spec: Spec;
  readonly text: string;
  readonly document: StrictDocument;
};

/** The profile as it stands on the disk, whole and fit for this host; refused with the place of what is wrong. */
export async function checkProfile(
  request: { readonly profilePath: string; readonly profileText: string },
  caller: Caller,
  world: Pick<AdmissionWorld, 'engineFacts' | 'sinkNames'>,
): Promise<CheckedProfile> {
  const text = await readTrustedProfile({ path: request.profilePath, text: request.profileText }, caller);
  const parsed = parseProfile({ text, file: request.profilePath });
  if (!parsed.ok) throw refusalOf('PROFILE_INVALID', parsed.problems);
  const resolved = resolveProfile({ parsed, digest: digestOf(text), folder: dirname(request.profilePath) });
  if (!resolved.ok) throw refusalOf('PROFILE_INVALID', resolved.problems);
  const { spec } = resolved;
  const { document } = parsed;
  const beyond = beyondHost(spec, await readHostSizes(world.engineFacts), document);
  if (beyond.length > 0) throw refusalOf('HOST_CANNOT_ENFORCE', beyond);
  const unknownSink = spec.alerts.findIndex((name) => !world.sinkNames.has(name));
  if (unknownSink !== -1) {
    const refused = fail('SINK_UNKNOWN', { detail: `the daemon has no sink "${spec.alerts[unknownSink]}"` });
    throw refusalAt(['alerts', unknownSink], refused, document);
  }
  return { spec, text, document };
}

function withCommand(spec: Spec, given: readonly string[] | null, document: StrictDocument): Spec {
  if (!spec.commandFromCaller) {
    if (given === null) return spec;
    const detail = `is fixed by the profile, so "${printable(given[0] ?? '')}" cannot replace it`;
    throw refusalAt(['command'], fail('COMMAND_FIXED', { detail }), document);
  }
  if (given === null || given.length === 0) throw refusalAt(['command'], fail('COMMAND_MISSING'), document);
  return { ...spec, command: given };
}
