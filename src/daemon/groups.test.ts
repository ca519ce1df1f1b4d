import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { groupIdOf, isInGroup } from './groups.ts';

const folder = mkdtempSync(join(tmpdir(), 'groups-'));
afterAll(() => rmSync(folder, { recursive: true }));
const files = { passwd: join(folder, 'passwd'), group: join(folder, 'group') };
writeFileSync(files.passwd, 'root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbob:x:1001:500::/:/bin/sh\n');
writeFileSync(files.group, 'root:x:0:\napprovers:x:500:alice,carol\nempty:x:501:\nalicia:x:502:alice2\n');

test.each([
  ['the group of the process', { uid: 4242, gid: 500 }, 500, true],
  ['a member by the list', { uid: 1000, gid: 1000 }, 500, true],
  ['whose own group it is', { uid: 1001, gid: 1001 }, 500, true],
  ['a user who is not listed', { uid: 1002, gid: 1002 }, 500, false],
  ['a group without members', { uid: 1000, gid: 1000 }, 501, false],
  ['a name that only begins the same', { uid: 1000, gid: 1000 }, 502, false],
  ['a group that is not there', { uid: 1000, gid: 1000 }, 999, false],
])('knows %s', async (_, user, groupId, expected) => {
  expect(await isInGroup(user, groupId, files)).toBe(expected);
});

test('says which key names a group that the host does not have', async () => {
  await expect(groupIdOf('approvals.group', 'no-such-group-here')).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: 'approvals.group: this host has no group "no-such-group-here"',
  });
});
