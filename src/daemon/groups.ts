import { readFile } from 'node:fs/promises';
import { fail } from '../core/errors.ts';

/** The number of a group by its name or number. Throws CONFIG_INVALID when the host does not know it. */
export async function groupIdOf(group: string): Promise<number> {
  if (/^\d{1,10}$/.test(group)) return Number(group);
  const lines = (await readFile('/etc/group', 'utf8')).split('\n');
  const line = lines.find((each) => each.startsWith(`${group}:`));
  const id = Number(line?.split(':')[2]);
  if (line === undefined || !Number.isInteger(id)) {
    throw fail('CONFIG_INVALID', {
      detail: `socket.group: this host has no group "${group}"`,
      hint: `groupadd --system ${group}`,
    });
  }
  return id;
}
