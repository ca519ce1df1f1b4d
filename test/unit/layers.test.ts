import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, test } from 'vitest';
import { VERSION } from '../../src/core/version.ts';

/** The path of a file says what it may touch. Dependencies point one way: ARCHITECTURE.md draws them. */
const ROOT = join(import.meta.dirname, '../../src');

const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  profile: ['core'],
  policy: ['core', 'profile'],
  run: ['core', 'profile', 'policy'],
  report: ['core', 'profile', 'policy', 'run', 'api/service.ts'],
  kernel: ['core'],
  engine: ['core', 'kernel', 'profile', 'policy'],
  meter: ['core', 'kernel', 'profile', 'policy'],
  gpu: ['core', 'kernel', 'profile', 'policy'],
  fence: ['core', 'kernel', 'profile', 'policy', 'gate/client.ts'],
  gate: ['core', 'kernel', 'profile', 'policy', 'checker/messages.ts'],
  checker: ['core', 'kernel', 'profile', 'policy'],
  volume: ['core', 'profile', 'kernel/own-program.ts', 'run/mountinfo.ts'],
  warden: ['core', 'kernel', 'policy', 'profile', 'meter'],
  ledger: ['core', 'kernel', 'profile', 'policy', 'api/service.ts'],
  alert: ['core', 'kernel'],
  api: ['core', 'profile/spec.ts'],
  cli: [
    'core',
    'api',
    'profile',
    'report',
    'ledger/verify.ts',
    'ledger/note.ts',
    'ledger/records.ts',
    'daemon/compose.ts',
    'daemon/doctor.ts',
  ],
  daemon: [
    'core',
    'kernel',
    'profile',
    'policy',
    'run',
    'report',
    'engine',
    'meter',
    'fence',
    'gate',
    'gpu',
    'volume',
    'warden',
    'ledger',
    'alert',
    'api',
  ],
  'main.ts': ['core', 'cli'],
};

/** Folders and files that compute and touch nothing: no module of Node.js, no package that does I/O. */
const PURE = [
  'core',
  'profile',
  'policy',
  'report',
  'run/state.ts',
  'run/step.ts',
  'run/events.ts',
  'run/classify.ts',
  'run/plan.ts',
  'run/readback.ts',
  'gate/decide.ts',
  'checker/hello.ts',
  'checker/request.ts',
  'checker/body.ts',
  'checker/response.ts',
  'checker/refusal.ts',
  'gate/verdict.ts',
  'gpu/integrate.ts',
  'gpu/leases.ts',
  'gpu/pattern.ts',
  'daemon/reconcile.ts',
  'api/contract.ts',
];
/** Types of Node.js streams appear in the engine port; types vanish. */
const PURE_PACKAGES = ['zod', 'yaml'];

/** The program, and the processes of it that must not outlive the channel to their parent. */
const PROCESS_ENTRIES = [
  'main.ts',
  'gate/process.ts',
  'checker/process.ts',
  'gpu/process.ts',
  'kernel/programs-process.ts',
];

type Import = { readonly file: string; readonly target: string; readonly typeOnly: boolean };

const files = readdirSync(ROOT, { recursive: true, encoding: 'utf8' }).filter(
  (file) => file.endsWith('.ts') && !/(\.test|testing[^/]*)\.ts$/.test(file),
);
const imports = files.flatMap(importsOf);

function importsOf(file: string): readonly Import[] {
  const text = readFileSync(join(ROOT, file), 'utf8');
  const pattern = /^(?:import|export)(\s+type)?\b[^;'"]*?from\s+'([^']+)'|\bimport\('([^']+)'\)/gm;
  return [...text.matchAll(pattern)].map((match) => {
    const specifier = match[2] ?? match[3] ?? '';
    const target = specifier.startsWith('.') ? relative(ROOT, join(ROOT, dirname(file), specifier)) : specifier;
    return { file, target, typeOnly: match[1] !== undefined };
  });
}

function isLocal(target: string): boolean {
  return target.endsWith('.ts');
}

function layerOf(path: string): string {
  return path.split('/')[0] ?? path;
}

describe('the folders', () => {
  test('are all in the table, so that a new one is a decision', () => {
    expect([...new Set(files.map(layerOf))].filter((layer) => MAY_IMPORT[layer] === undefined)).toEqual([]);
  });

  test('import only what lies below them', () => {
    const wrong = imports.filter(({ file, target }) => {
      if (!isLocal(target) || layerOf(target) === layerOf(file)) return false;
      const allowed = MAY_IMPORT[layerOf(file)] ?? [];
      return !allowed.includes(layerOf(target)) && !allowed.includes(target);
    });
    expect(wrong.map(({ file, target }) => `${file} imports ${target}`)).toEqual([]);
  });

  test('that are pure import no module of Node.js and no package that does I/O', () => {
    const wrong = imports.filter(({ file, target, typeOnly }) => {
      const pure = PURE.some((each) => file === each || file.startsWith(`${each}/`));
      return pure && !typeOnly && !isLocal(target) && !PURE_PACKAGES.includes(target);
    });
    expect(wrong.map(({ file, target }) => `${file} imports ${target}`)).toEqual([]);
  });

  test('load native code in kernel only', () => {
    expect(
      imports.filter(({ file, target }) => target === 'koffi' && layerOf(file) !== 'kernel').map(({ file }) => file),
    ).toEqual([]);
  });
});

describe('the files', () => {
  test('exit the process in the entry of a process only', () => {
    const wrong = files.filter(
      (file) => !PROCESS_ENTRIES.includes(file) && /\bprocess\.exit\(/.test(readFileSync(join(ROOT, file), 'utf8')),
    );
    expect(wrong).toEqual([]);
  });

  test('read no clock and no randomness where they are pure', () => {
    const wrong = files.filter((file) => {
      const pure = PURE.some((each) => file === each || file.startsWith(`${each}/`));
      return (
        pure &&
        /\b(Date\.now|Math\.random|new Date\(\)|performance\.now)\b/.test(readFileSync(join(ROOT, file), 'utf8'))
      );
    });
    expect(wrong).toEqual([]);
  });

  test('stay below 500 lines', () => {
    const long = files
      .map((file) => ({ file, lines: readFileSync(join(ROOT, file), 'utf8').split('\n').length }))
      .filter(({ lines }) => lines > 500);
    expect(long).toEqual([]);
  });
});

test('the version is the same in the program and in package.json', () => {
  const manifest = JSON.parse(readFileSync(join(ROOT, '../package.json'), 'utf8')) as { version: string };
  expect(VERSION).toBe(manifest.version);
});
