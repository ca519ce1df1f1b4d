import { rmSync } from 'node:fs';
import { unixAddress } from '../../src/kernel/datagram.ts';
import { bindSocket, closeDescriptor, openSocket, receiveNow } from '../../src/kernel/libc.ts';

/**
 * A stand-in for journald: a unix datagram socket and a parser of its native protocol that refuses what journald drops: names that
 * are not of A-Z, 0-9 and _, that begin with _ or a digit, or have more than 64 characters; a message without fields.
 */
export type JournalReceiver = Disposable & {
  /** Everything that has come since the last call; throws when it is not the protocol. */
  take(): readonly ReadonlyMap<string, string>[];
};

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const DATAGRAM_BYTES_MAX = 1024 * 1024;
const NAME = /^[A-Z][A-Z0-9_]{0,63}$/;

export function startJournal(path: string): JournalReceiver {
  const fd = openSocket({ domain: AF_UNIX, type: SOCK_DGRAM, protocol: 0 });
  bindSocket(fd, unixAddress(path));
  return {
    take() {
      const messages: ReadonlyMap<string, string>[] = [];
      const buffer = Buffer.alloc(DATAGRAM_BYTES_MAX);
      for (let bytes = receiveNow(fd, buffer); bytes !== null; bytes = receiveNow(fd, buffer)) {
        messages.push(parse(Buffer.from(buffer.subarray(0, bytes))));
      }
      return messages;
    },
    [Symbol.dispose]() {
      closeDescriptor(fd);
      rmSync(path, { force: true });
    },
  };
}

function parse(data: Buffer): ReadonlyMap<string, string> {
  const fields = new Map<string, string>();
  for (let at = 0; at < data.length;) {
    const lineEnd = data.indexOf('\n', at);
    if (lineEnd < 0) throw new Error('a field without an end');
    const line = data.toString('utf8', at, lineEnd);
    const equals = line.indexOf('=');
    const name = equals < 0 ? line : line.slice(0, equals);
    if (!NAME.test(name)) throw new Error(`journald drops a field named ${JSON.stringify(name)}`);
    if (fields.has(name)) throw new Error(`${name} comes twice`);
    if (equals >= 0) {
      fields.set(name, line.slice(equals + 1));
      at = lineEnd + 1;
      continue;
    }
    const length = Number(data.readBigUInt64LE(lineEnd + 1));
    const start = lineEnd + 9;
    if (data[start + length] !== 0x0a) throw new Error(`the length of ${name} is wrong`);
    fields.set(name, data.toString('utf8', start, start + length));
    at = start + length + 1;
  }
  if (!fields.has('MESSAGE')) throw new Error('a message without MESSAGE');
  return fields;
}
