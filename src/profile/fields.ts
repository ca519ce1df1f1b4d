import { z } from 'zod';
import { formatBytes, formatDuration, parseBitRate, parseByteRate, parseDuration, parseSize } from '../core/units.ts';
import { hostPathRefusal, resolvePath, targetRefusal } from './mounts.ts';
import { parseRequestRule, REQUEST_CHARS_MAX } from './requests.ts';
import { parseRule, RULE_CHARS_MAX } from './rules.ts';

/**
 * The kinds of value a profile is made of. Each says in one sentence what it must be (`error`), and carries for editors
 * what can be said as a pattern. A check returns a sentence, or null; none changes the value.
 */
type Check = (value: string) => CheckResult;
type CheckResult =
  | null
  | { readonly ok: true }
  | { readonly ok: false; readonly rule: string; readonly hint?: string | null };

type TextOptions = {
  readonly must?: string;
  readonly pattern?: RegExp;
  readonly charsMax?: number;
  readonly check?: Check;
};

const TEXT_CHARS_MAX = 512;
export const ENV_NAME_PATTERN = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
export const USER_PATTERN = /^[1-9][0-9]{0,9}(?::[1-9][0-9]{0,9})?$/;

/** One scalar of text, bounded, without NUL (the kernel ends arguments and variables there). */
export function text({ must, pattern, charsMax = TEXT_CHARS_MAX, check }: TextOptions) {
  const base = z
    .string(must === undefined ? {} : { error: must })
    .max(charsMax, { error: `must be at most ${charsMax} characters long` });
  const shaped = pattern === undefined ? base : base.regex(pattern, must === undefined ? {} : { error: must });
  return shaped.check((context) => {
    // A failed pattern already says what is wrong with this value.
    if (context.issues.length > 0) return;
    const result: CheckResult = context.value.includes('\0')
      ? { ok: false, rule: 'must not have a NUL in it' }
      : (check?.(context.value) ?? null);
    if (result === null || result.ok) return;
    const params = { hint: result.hint ?? null };
    context.issues.push({ code: 'custom', message: result.rule, input: context.value, params });
  });
}

/** One line for people. */
export function line(charsMax: number) {
  // oxlint-disable-next-line no-control-regex -- the control characters are what is refused
  return text({ charsMax, pattern: /^[^\u0000-\u001f\u007f-\u009f]*$/, must: 'must be one line of text' });
}

/** Lines for people. */
export function paragraph(charsMax: number) {
  // oxlint-disable-next-line no-control-regex -- the control characters are what is refused
  const pattern = /^[^\u0000-\u0009\u000b-\u001f\u007f-\u009f]*$/;
  return text({ charsMax, pattern, must: 'must be text without control characters' });
}

type Range = { readonly min: number; readonly max: number };

export function wholeNumber({ min, max, tooSmall }: Range & { readonly tooSmall?: string }) {
  return z
    .int()
    .min(min, tooSmall === undefined ? {} : { error: tooSmall })
    .max(max);
}

export function size({ min, max }: Range) {
  return text({
    must: 'must be a size with a unit, such as 512MiB or 2GB',
    check: within(parseSize, { min, max }, formatBytes),
  }).meta({
    title: `size, ${formatBytes(min)} to ${formatBytes(max)}`,
    pattern: '^[0-9]+(\\.[0-9]+)? ?(B|[kMGT]B|[KMGT]iB)$',
  });
}

export function duration({ min, max }: Range) {
  return text({
    must: 'must be a time with a unit, such as 30s, 15m or 2h',
    check: within(parseDuration, { min, max }, formatDuration),
  }).meta({
    title: `time, ${formatDuration(min)} to ${formatDuration(max)}`,
    pattern: '^[0-9]+(\\.[0-9]+)? ?(ms|s|m|h|d)$',
  });
}

const BIT_RATE_RANGE: Range = { min: 8_000, max: 1e12 };
const BYTE_RATE_RANGE: Range = { min: 1_024, max: 2 ** 40 };

export function bitRate() {
  const show = (bits: number): string => `${bits / 1000} kbit/s`;
  return text({
    must: 'must be a rate with a unit, such as 20Mbit/s or 2MiB/s',
    check: within(parseBitRate, BIT_RATE_RANGE, show),
  }).meta({ title: 'rate', pattern: '^[0-9]+(\\.[0-9]+)? ?([kMG]bit|B|[kMGT]B|[KMGT]iB)/s$' });
}

export function byteRate() {
  return text({
    must: 'must be a rate with a unit, such as 50MiB/s',
    check: within(parseByteRate, BYTE_RATE_RANGE, (bytes) => `${formatBytes(bytes)}/s`),
  }).meta({ title: 'rate', pattern: '^[0-9]+(\\.[0-9]+)? ?(B|[kMGT]B|[KMGT]iB)/s$' });
}

export function listOf<Item extends z.ZodType>(item: Item, entriesMax: number) {
  return z.array(item).max(entriesMax);
}

export function egressRule(list: 'allow' | 'ask') {
  return text({
    must: 'must be a rule, such as api.example.com:443 or 10.20.0.5/32:5432',
    charsMax: RULE_CHARS_MAX,
    check: (value) => parseRule(value, { list, inspect: false }),
  }).meta({
    title: 'rule',
    pattern: '^(\\*\\.)?[A-Za-z0-9.-]+(/[0-9]{1,2})?(:[0-9]{1,5}(/(tcp|udp))?(,[0-9]{1,5}(/(tcp|udp))?)*)?$',
  });
}

/** One line of `requests`. */
export function requestRule() {
  return text({
    must: 'must be a request, such as GET /v1/*',
    charsMax: REQUEST_CHARS_MAX,
    check: parseRequestRule,
  }).meta({ title: 'request', pattern: '^(\\*|[A-Z][A-Z-]*) /[^ ?#*]*\\*?$' });
}

const PATH_CHARS_MAX = 1024;

/** A path of the host, as far as its text can be judged without knowing the folder of the profile. */
export function hostPath() {
  return text({ must: 'must be a path', charsMax: PATH_CHARS_MAX, check: pathSpelling });
}

/** A folder of the host to be mounted: `hostPath`, and when absolute none that no agent may have. */
export function mountSource() {
  return text({
    must: 'must be a path',
    charsMax: PATH_CHARS_MAX,
    check: (path) => {
      const spelling = pathSpelling(path);
      if (spelling !== null || !path.startsWith('/')) return spelling;
      const rule = hostPathRefusal(resolvePath({ folder: '/', path }));
      return rule === null ? null : { ok: false, rule, hint: MOUNT_HINT };
    },
  });
}
export const MOUNT_HINT = 'mount a folder made for the agent, such as ./workspace';

export function targetPath() {
  return text({
    must: 'must be an absolute path, such as /workspace',
    charsMax: PATH_CHARS_MAX,
    check: (path) => {
      const rule = pathSpelling(path)?.rule ?? targetRefusal(path);
      return rule === null ? null : { ok: false, rule, hint: 'for example /workspace' };
    },
  });
}

// A colon would end the path in the notation of the engine; a line break would fake a line of the record.
function pathSpelling(
  path: string,
): { readonly ok: false; readonly rule: string; readonly hint: string | null } | null {
  if (path === '') return { ok: false, rule: 'must not be empty', hint: null };
  if (path.startsWith('~')) return { ok: false, rule: 'must not start with ~, which nothing expands here', hint: null };
  // oxlint-disable-next-line no-control-regex -- the control characters are what is refused
  if (/[\u0000-\u001f\u007f:]/.test(path)) {
    return { ok: false, rule: 'must have no colon and no control character', hint: null };
  }
  return null;
}

const OWNED_VARIABLE =
  /^(?:NVIDIA_|CUDA_|RINGFENCE_|(?:LD_PRELOAD|LD_AUDIT|GPU_DEVICE_ORDINAL|ROCR_VISIBLE_DEVICES|HIP_VISIBLE_DEVICES)$)/;

/** Variables by which a run could reach a device, or load code, that its profile does not grant. */
export function reservedEnv(name: string): { readonly ok: false; readonly rule: string; readonly hint: string } | null {
  if (!OWNED_VARIABLE.test(name)) return null;
  return { ok: false, rule: 'must not be a variable that the supervisor owns', hint: 'GPUs are given by limits.gpu' };
}

type Parsed = { readonly ok: true; readonly value: number } | { readonly ok: false; readonly rule: string };

function within(parse: (text: string) => Parsed, range: Range, show: (value: number) => string): Check {
  return (written) => {
    const parsed = parse(written);
    if (!parsed.ok) return parsed;
    if (parsed.value < range.min) return { ok: false, rule: `must be at least ${show(range.min)}` };
    if (parsed.value > range.max) return { ok: false, rule: `must be at most ${show(range.max)}` };
    return null;
  };
}
