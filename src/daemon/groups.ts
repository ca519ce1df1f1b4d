import { readFile } from 'node:fs/promises';
import { fail } from '../core/errors.ts';

/** The number of the group that `key` of the configuration names. Throws CONFIG_INVALID when the host does not know it. */
export async function groupIdOf(key: string, group: string): Promise<number> {
  if (/^\d{1,10}$/.test(group)) return Number(group);
  const lines = (await readFile('/etc/group', 'utf8')).split('\n');
  const line = lines.find((each) => each.startsWith(`${group}:`));
  const id = Number(line?.split(':')[2]);
  if (line === undefined || !Number.isInteger(id)) {
    throw fail('CONFIG_INVALID', {
      detail: `${key}: this host has no group "${group}"`,
      hint: `groupadd --system ${group}`,
    });
  }
  return id;
}

/**
 * Is the user in the group, by the group of the process or by the files of the host? Read anew each time, so that who is
 * taken out of a group decides nothing more.
 */
export async function isInGroup(
  user: { readonly uid: number; readonly gid: number },
  groupId: number,
  files: { readonly passwd: string; readonly group: string } = FILES,
): Promise<boolean> {
  if (user.gid === groupId) return true;
  const [accounts, groups] = await Promise.all([fieldsIn(files.passwd), fieldsIn(files.group)]);
  const own = accounts.filter(([, , uid]) => uid === String(user.uid));
  if (own.some(([, , , gid]) => gid === String(groupId))) return true;
  const members = groups
    .filter(([, , gid]) => gid === String(groupId))
    .flatMap(([, , , list]) => list?.split(',') ?? []);
  return own.some(([name]) => name !== undefined && name !== '' && members.includes(name));
}

const FILES = { passwd: '/etc/passwd', group: '/etc/group' };

async function fieldsIn(file: string): Promise<readonly (readonly string[])[]> {
  const lines = (await readFile(file, 'utf8')).split('\n');
  return lines.map((line) => line.split(':'));
}
