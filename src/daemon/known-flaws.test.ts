import { expect, it } from 'vitest';
import { flawsOf, type Component } from './known-flaws.ts';

const idsOf = (component: Component, version: string): readonly string[] | null =>
  flawsOf(component, version)?.map(({ ids }) => ids[0] ?? '') ?? null;

const CONSOLE = 'CVE-2025-31133';
const DEV_LINK = 'CVE-2026-41579';
const COPY = 'CVE-2026-41567';
const UNPACK = 'CVE-2026-17106';

it.each([
  ['1.0.0-rc93', ['CVE-2021-30465', 'CVE-2024-21626', 'CVE-2024-45310', CONSOLE, DEV_LINK]],
  ['1.0.0-rc95', ['CVE-2024-21626', 'CVE-2024-45310', CONSOLE, DEV_LINK]],
  ['1.1.5+ds1', ['CVE-2024-21626', 'CVE-2024-45310', CONSOLE, DEV_LINK]],
  ['1.1.11', ['CVE-2024-21626', 'CVE-2024-45310', CONSOLE, DEV_LINK]],
  ['1.1.12', ['CVE-2024-45310', CONSOLE, DEV_LINK]],
  // No line of 1.1 ever got this fix.
  ['1.1.15', [CONSOLE, DEV_LINK]],
  ['1.2.0-rc.2', ['CVE-2024-45310', CONSOLE, DEV_LINK]],
  ['1.2.7', [CONSOLE, DEV_LINK]],
  ['1.2.8', [DEV_LINK]],
  ['1.3.2', [CONSOLE, DEV_LINK]],
  ['1.3.3', [DEV_LINK]],
  ['1.3.6', []],
  ['1.4.0-rc.2', [CONSOLE, DEV_LINK]],
  ['1.4.0~rc.3', [DEV_LINK]],
  ['1.4.0', [DEV_LINK]],
  ['1.4.3', []],
  ['1.5.0-rc.2', [DEV_LINK]],
  ['1.5.0', []],
  ['2.0.0', []],
])('of runc %s are known: %j', (version, expected) => {
  expect(idsOf('runc', version)).toEqual(expected);
});

it.each([
  ['20.10.8', ['CVE-2021-41091', 'CVE-2022-36109', COPY, UNPACK]],
  ['20.10.24+dfsg1', [COPY, UNPACK]],
  // What older lines got is not known of any advisory, so they have it.
  ['25.0.17', [COPY, UNPACK]],
  ['26.0.1', ['CVE-2024-32473', COPY, UNPACK]],
  ['28.5.2', [COPY, UNPACK]],
  ['29.5.0', [COPY, UNPACK]],
  ['29.5.1', [UNPACK]],
  ['29.7.0', []],
  ['30.0.0', []],
])('of the engine %s are known: %j', (version, expected) => {
  expect(idsOf('Engine', version)).toEqual(expected);
});

it.each([
  ['v1.4.10', ['CVE-2021-41103', 'CVE-2024-25621']],
  ['1.6.20~ds1', ['CVE-2024-25621']],
  ['1.7.28', ['CVE-2024-25621']],
  ['1.7.29', []],
  // Newer than a line that was fixed, and older than the fix of its own.
  ['2.0.6', ['CVE-2024-25621']],
  ['2.0.7', []],
  ['2.2.0-rc.1', ['CVE-2024-25621']],
  ['2.3.0', []],
])('of containerd %s are known: %j', (version, expected) => {
  expect(idsOf('containerd', version)).toEqual(expected);
});

it('reads the versions of the others, and says when it cannot', () => {
  expect([
    idsOf('NVIDIA container toolkit', '1.17.7'),
    idsOf('NVIDIA container toolkit', '1.17.8'),
    idsOf('runc', 'unknown'),
  ]).toEqual([['CVE-2025-23266'], [], null]);
});
