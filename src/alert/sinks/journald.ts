import { messageOf } from '../../core/errors.ts';
import type { Alert, AlertSeverity, AlertType, JournaldSink } from '../../core/ports/alert.ts';
import { printable } from '../../core/text.ts';
import { sendDatagram } from '../../kernel/datagram.ts';
import type { Deliverer, Delivery } from '../deliverer.ts';
import { failed } from '../deliverer.ts';
import { oneLine } from '../wording.ts';

const MESSAGE_CHARS_MAX = 1_000;
/** A datagram must fit the socket's buffer, 208 KiB where nobody changed it. An incident has at most about 32 kB. */
const BODY_BYTES_MAX = 128 * 1024;

/** syslog(3). */
const PRIORITIES: Readonly<Record<AlertSeverity, number>> = { critical: 2, high: 3, medium: 4, low: 5, info: 6 };

/** journald finds messages of one kind by these; they never change. */
const MESSAGE_IDS: Readonly<Record<AlertType, string>> = {
  'incident.opened': '5a0f1c0e9d7b4c1fa3f5d2b84e6c7a01',
  'incident.released': '5a0f1c0e9d7b4c1fa3f5d2b84e6c7a02',
  'incident.resolved': '5a0f1c0e9d7b4c1fa3f5d2b84e6c7a03',
  'approval.requested': '5a0f1c0e9d7b4c1fa3f5d2b84e6c7a04',
  'ledger.checkpoint': '5a0f1c0e9d7b4c1fa3f5d2b84e6c7a05',
  'run.held': '5a0f1c0e9d7b4c1fa3f5d2b84e6c7a09',
  digest: '5a0f1c0e9d7b4c1fa3f5d2b84e6c7a06',
  heartbeat: '5a0f1c0e9d7b4c1fa3f5d2b84e6c7a07',
  test: '5a0f1c0e9d7b4c1fa3f5d2b84e6c7a08',
};

/** The journal of systemd by its native protocol: one datagram of fields. */
export function openJournald(sink: JournaldSink): Deliverer {
  return {
    kind: 'journald',
    says: () => true,
    // async, so that whatever is thrown in here becomes a failed attempt.
    async send(alert): Promise<Delivery> {
      try {
        const taken = sendDatagram(sink.socketPath, encodeFields(fieldsOf(alert)));
        return taken ? { kind: 'delivered', status: 0 } : failed('the journal takes nothing now');
      } catch (error) {
        return failed(printable(`${sink.socketPath}: ${messageOf(error)}`));
      }
    },
  };
}

type Field = readonly [name: string, value: string];

function fieldsOf(alert: Alert): readonly Field[] {
  const bodyBytes = Buffer.byteLength(alert.body);
  return [
    ['MESSAGE', oneLine(alert.summary, MESSAGE_CHARS_MAX)],
    ['MESSAGE_ID', MESSAGE_IDS[alert.type]],
    ['PRIORITY', String(PRIORITIES[alert.severity])],
    ['SYSLOG_IDENTIFIER', 'ringfenced'],
    ['RINGFENCE_ALERT_ID', alert.id],
    ['RINGFENCE_TYPE', alert.type],
    ['RINGFENCE_PROFILE', alert.subject],
    ['RINGFENCE_SEVERITY', alert.severity],
    ['RINGFENCE_KEY', alert.key],
    // A body too long for the journal is in the ledger; the field says that it was left out.
    bodyBytes <= BODY_BYTES_MAX ? ['RINGFENCE_BODY', alert.body] : ['RINGFENCE_BODY_BYTES', String(bodyBytes)],
  ];
}

/** `NAME=value` where the value is one line, else the name, its length as 64-bit little-endian, and the bytes. */
function encodeFields(fields: readonly Field[]): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of fields) {
    const bytes = Buffer.from(value);
    if (!bytes.includes(0x0a)) {
      parts.push(Buffer.from(`${name}=`), bytes, Buffer.from('\n'));
      continue;
    }
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(bytes.length));
    parts.push(Buffer.from(`${name}\n`), length, bytes, Buffer.from('\n'));
  }
  return Buffer.concat(parts);
}
