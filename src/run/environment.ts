import type { GpuPlan } from '../core/ports/engine.ts';
import type { Spec } from '../profile/spec.ts';

/**
 * The agent's environment. Some names are the supervisor's: they would grant a GPU, load code into every process, or
 * say something false about the run. Values of secrets are never part of it, because the engine shows the environment
 * of a container to whoever may inspect it.
 */
export const SECRETS_FOLDER = '/run/secrets';
export const SHELL = '/bin/sh';
/** Certificates of an inspected run: its own authority alone, and with everything else that its image trusts. */
export const TRUST_FOLDER = '/run/ringfence';
export const AUTHORITY_FILE = 'ca.pem';
export const BUNDLE_FILE = 'bundle.pem';
/** By these, programs that bring roots of their own are told of others. A profile that sets one keeps its value. */
const TRUST_VARIABLES: Readonly<Record<string, string>> = {
  NODE_EXTRA_CA_CERTS: `${TRUST_FOLDER}/${AUTHORITY_FILE}`,
  DENO_CERT: `${TRUST_FOLDER}/${AUTHORITY_FILE}`,
  SSL_CERT_FILE: `${TRUST_FOLDER}/${BUNDLE_FILE}`,
  REQUESTS_CA_BUNDLE: `${TRUST_FOLDER}/${BUNDLE_FILE}`,
  CURL_CA_BUNDLE: `${TRUST_FOLDER}/${BUNDLE_FILE}`,
  GIT_SSL_CAINFO: `${TRUST_FOLDER}/${BUNDLE_FILE}`,
  AWS_CA_BUNDLE: `${TRUST_FOLDER}/${BUNDLE_FILE}`,
  CARGO_HTTP_CAINFO: `${TRUST_FOLDER}/${BUNDLE_FILE}`,
};

/** A variable of this ending holds the path of the secret and not the secret: images without a shell can use those. */
const FILE_SUFFIX = '_FILE';

const OWNED_NAMES = new Set([
  'LD_PRELOAD',
  'LD_AUDIT',
  'GPU_DEVICE_ORDINAL',
  'ROCR_VISIBLE_DEVICES',
  'HIP_VISIBLE_DEVICES',
]);
const OWNED_PREFIXES = ['NVIDIA_', 'CUDA_', 'RINGFENCE_'];

/** Facts that an image may state about itself although a profile may not: they grant nothing. */
const IMAGE_NAMES_HARMLESS = new Set(['CUDA_VERSION', 'CUDA_HOME', 'NVIDIA_PRODUCT_NAME']);

export function isOwnedName(name: string): boolean {
  return OWNED_NAMES.has(name) || OWNED_PREFIXES.some((prefix) => name.startsWith(prefix));
}

/** The secrets that a shell must turn from a file into a variable; the others are read as files. */
export function secretsByValue(spec: Spec): readonly string[] {
  return spec.secrets.map((secret) => secret.env).filter((name) => !isPathOfSecret(name));
}

/** The name of the file that holds a secret, inside SECRETS_FOLDER. */
export function secretFileName(env: string): string {
  return isPathOfSecret(env) ? env.slice(0, -FILE_SUFFIX.length) : env;
}

function isPathOfSecret(name: string): boolean {
  return name.endsWith(FILE_SUFFIX) && name.length > FILE_SUFFIX.length;
}

/**
 * `NAME=value` entries as the engine takes them; an entry without `=` takes the image's variable of that name away.
 * The agent is told its bounds, so that it can keep within them.
 */
export function environmentOf(options: {
  readonly spec: Spec;
  readonly runId: string;
  readonly imageEnv: readonly string[];
  readonly cpuMillis: number;
  /** Whether the run has an authority of its own at TRUST_FOLDER. */
  readonly trust: boolean;
  readonly gpu?: GpuPlan | null;
  /** The trace that the caller is in, for an agent that knows how to go on with it. */
  readonly traceparent?: string | null;
}): readonly string[] {
  const { spec } = options;
  const imageNames = options.imageEnv.map((entry) => entry.split('=')[0] ?? '');
  const values: Record<string, string> = {
    ...(imageNames.includes('HOME') ? {} : { HOME: '/tmp' }),
    ...(options.trust ? TRUST_VARIABLES : {}),
    ...spec.env,
    ...(typeof options.traceparent === 'string' ? { TRACEPARENT: options.traceparent } : {}),
    ...Object.fromEntries(spec.secrets.map(({ env }) => pathVariable(env))),
    RINGFENCE_RUN_ID: options.runId,
    RINGFENCE_PROFILE: spec.name,
    RINGFENCE_CPU_MILLIS: String(options.cpuMillis),
    RINGFENCE_MEMORY_BYTES: String(spec.limits.memoryBytesMax),
    RINGFENCE_PIDS: String(spec.limits.pidsMax),
    RINGFENCE_DISK_BYTES: String(spec.limits.diskBytesMax),
    RINGFENCE_WALL_MS: String(spec.budget.wallMs),
    ...optionalNumber('RINGFENCE_BUDGET_CPU_MS', spec.budget.cpuMs),
    ...optionalNumber('RINGFENCE_BUDGET_EGRESS_BYTES', spec.budget.egressBytes),
    ...optionalNumber('RINGFENCE_BUDGET_GPU_MS', spec.budget.gpuMs),
    ...gpuVariables(spec, options.gpu ?? null),
  };
  const removed = imageNames.filter(
    (name) => !(name in values) && isOwnedName(name) && !IMAGE_NAMES_HARMLESS.has(name),
  );
  return [...Object.entries(values).map(([name, value]) => `${name}=${value}`), ...new Set(removed)];
}

function pathVariable(env: string): [string, string] {
  return [isPathOfSecret(env) ? env : `${env}${FILE_SUFFIX}`, `${SECRETS_FOLDER}/${secretFileName(env)}`];
}

const MEBIBYTE = 2 ** 20;

/**
 * Without NVIDIA_VISIBLE_DEVICES, a host whose default runtime is NVIDIA's gives every GPU to any image that asks; devices
 * that come through CDI come without that runtime's doing. A toolkit that knows the memory limit has the driver hold
 * it; one that does not ignores it, and the watchdog holds the run.
 */
function gpuVariables(spec: Spec, gpu: GpuPlan | null): Record<string, string> {
  const memoryBytesMax = spec.limits.gpu?.memoryBytesMax ?? null;
  const own = gpu?.devices ?? [];
  const visible = gpu?.request === 'nvidia' && own.length > 0 ? own.join(',') : 'void';
  if (gpu === null || memoryBytesMax === null) return { NVIDIA_VISIBLE_DEVICES: visible };
  const limit = String(Math.floor(memoryBytesMax / MEBIBYTE));
  return {
    NVIDIA_VISIBLE_DEVICES: visible,
    ...(own.length === 0 ? {} : { NVIDIA_GPU_MEMORY_LIMIT: limit }),
    RINGFENCE_GPU_MEMORY_BYTES: String(memoryBytesMax),
  };
}

function optionalNumber(name: string, value: number | null): Record<string, string> {
  return value === null ? {} : { [name]: String(value) };
}

/**
 * The agent's command behind a line of shell that reads each secret from its file into its variable and then becomes
 * the command. Only names are in the text, so neither the engine nor a process list shows a value. It needs a POSIX
 * shell and no other program.
 */
export function commandWithSecrets(command: readonly string[], names: readonly string[]): readonly string[] {
  if (names.length === 0) return command;
  const script = [
    "ringfence_newline='\n'",
    'ringfence_read() {',
    '  ringfence_text=',
    '  while IFS= read -r ringfence_line; do ringfence_text=$ringfence_text$ringfence_line$ringfence_newline; done <"$1" ||',
    '    exit 126',
    // The last line has no newline of its own: `read` fails, and has still read it.
    '  ringfence_text=$ringfence_text$ringfence_line',
    '}',
    ...names.map((name) => `ringfence_read ${SECRETS_FOLDER}/${name}; ${name}=$ringfence_text; export ${name}`),
    'unset ringfence_text ringfence_line ringfence_newline; unset -f ringfence_read',
    'exec "$@"',
  ].join('\n');
  return [SHELL, '-c', script, 'ringfence-launch', ...command];
}
