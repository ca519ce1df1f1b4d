import koffi from 'koffi';
import { constants } from 'node:os';
import { SystemCallError } from './libc.ts';

const flock = koffi.load('libc.so.6').func('int flock(int fd, int operation)');

const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * Takes the exclusive lock of an open file or directory, or returns false when somebody else holds it. The kernel keeps
 * it with the open file, so it ends with the process however that ends, and it holds across network and process
 * namespaces, which a pid file and an abstract socket do not (flock(2)).
 */
export function tryLock(fd: number): boolean {
  if (flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = koffi.errno();
  if (errno === constants.errno.EWOULDBLOCK) return false;
  throw new SystemCallError('flock', errno);
}
