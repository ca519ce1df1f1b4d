import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import type { DoctorCheck } from '../api/service.ts';
import { messageOf } from '../core/errors.ts';
import type { Engine, EngineComponent } from '../core/ports/engine.ts';
import { saidByTool } from './doctor-tools.ts';
import { flawsOf } from './known-flaws.ts';
import type { Component, Flaw } from './known-flaws.ts';

const CHANGELOG_BYTES_MAX = 16 * 1024 * 1024;

/** The packages in which Debian and what is made from it have them. */
const PACKAGES: Readonly<Record<Component, string>> = {
  Engine: 'docker.io',
  containerd: 'containerd',
  runc: 'runc',
  'NVIDIA container toolkit': 'nvidia-container-toolkit',
};

/** What the engine is made of, and which published flaws each part has by its number. */
export async function versionChecks(engine: Pick<Engine, 'components'>): Promise<readonly DoctorCheck[]> {
  let told: readonly EngineComponent[];
  try {
    told = await engine.components();
  } catch (error) {
    return [{ ...blank('runc version'), evidence: messageOf(error), fix: 'start the container engine' }];
  }
  const parts = [...told, ...(await toolkitComponents())];
  const known = parts.filter((part) => isComponent(part.name));
  return await Promise.all(known.map(async (part) => versionCheck(part, await changelogOf(part.name as Component))));
}

/**
 * A number tells what the project itself had fixed by then. A distribution keeps the number and adds the fixes, and names
 * them in the changelog of its package: what is named there counts as fixed, if that is the package in use.
 */
export function versionCheck(part: EngineComponent, changelog: string | null): DoctorCheck {
  const component = part.name as Component;
  const name = `${component.toLowerCase()} version`;
  const version = part.build.startsWith(part.version) ? part.build : part.version;
  const flaws = flawsOf(component, part.version);
  if (flaws === null) {
    const fix = 'compare it yourself with the advisories of its project';
    return { ...blank(name), evidence: `${JSON.stringify(version)} cannot be compared with the table of flaws`, fix };
  }
  const named = packageVersion(changelog, part) === null ? '' : (changelog ?? '');
  const isNamed = ({ ids }: Flaw): boolean => ids.every((id) => named.includes(id));
  const open = flaws.filter((flaw) => !isNamed(flaw));
  const patched = flaws.filter(isNamed).flatMap(({ ids }) => ids);
  const shown = patched.length === 0 ? version : `${version}, whose package names the fixes of ${patched.join(', ')}`;
  if (open.length === 0) return { ...blank(name), state: 'ok', evidence: `${shown}: no known flaw that matters here` };
  const what = open.map((flaw) => `${flaw.ids.join(', ')} (${flaw.what})`);
  const last = open.at(-1);
  const search = open.flatMap(({ ids }) => ids).join('|');
  return {
    ...blank(name),
    evidence: `${shown}: older than the fix of its project for ${what.join('; ')}`,
    fix: `use ${last?.fixedIn.join(', ')} or newer; your distribution may have patched it under the old number: \`apt changelog ${PACKAGES[component]} | grep -E '${search}'\``,
  };
}

function blank(name: string): DoctorCheck {
  return { name, state: 'degraded', rung: null, evidence: '', fix: null };
}

/** What the changelog is of, when that is what runs: its first line is `runc (1.1.5+ds1-1+deb12u1) bookworm; …`. */
function packageVersion(changelog: string | null, { version, build }: EngineComponent): string | null {
  const found = /^\S+ \((?:\d+:)?([^)]+)\)/.exec(changelog ?? '')?.[1] ?? null;
  return found !== null && (found === build || found === version || found.startsWith(`${version}-`)) ? found : null;
}

function isComponent(name: string): name is Component {
  return Object.hasOwn(PACKAGES, name);
}

async function changelogOf(component: Component): Promise<string | null> {
  const folder = `/usr/share/doc/${PACKAGES[component]}`;
  try {
    const packed = await readFile(`${folder}/changelog.Debian.gz`);
    const text = await promisify(gunzip)(packed, { maxOutputLength: CHANGELOG_BYTES_MAX });
    return text.toString('utf8');
  } catch {
    // Another distribution, or a host without its documentation: then the number alone counts.
    return null;
  }
}

async function toolkitComponents(): Promise<readonly EngineComponent[]> {
  const said = await saidByTool('nvidia-ctk', ['--version']);
  const version = said === null ? undefined : /version (\S+)/.exec(said)?.[1];
  return version === undefined ? [] : [{ name: 'NVIDIA container toolkit', version, build: '' }];
}
