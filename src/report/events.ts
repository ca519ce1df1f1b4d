import type { RecordKind, LedgerRecord } from '../core/ports/record.ts';
import { printable } from '../core/text.ts';
import { formatBytes, formatDuration } from '../core/units.ts';
import { destinationOf, formatAmount } from './measure.ts';

const KIND_CHARS = 'quarantine.released'.length;
const RUN_CHARS = 13;
const DETAIL_CHARS_MAX = 300;

/**
 * One record on one line, for `ringfence events`: time, kind, run, profile, then what there is to say. A record of
 * another version, or one that was tampered with, may have any shape, so nothing is taken for granted but its envelope.
 */
export function renderEvent(record: LedgerRecord): string {
  const run = typeof record.runId === 'string' ? record.runId : '-';
  const profile = typeof record.profile === 'string' ? `${printable(record.profile, 40)}  ` : '';
  const head = `${printable(record.at, 30)}  ${printable(record.kind, 40).padEnd(KIND_CHARS)}`;
  return `${head}  ${printable(run, 20).padEnd(RUN_CHARS)}  ${profile}${detailOf(record)}`.trimEnd();
}

type Fields = Readonly<Record<string, unknown>>;

const DETAILS: Readonly<Partial<Record<RecordKind, (record: Fields) => string>>> = {
  'daemon.started': (record) =>
    join(
      said('version', record['version']),
      said('pid', record['pid']),
      typeof record['gapFrom'] === 'string' ? `nobody watched since ${text(record['gapFrom'])}` : '',
    ),
  'ledger.key': (record) => text(record['key']),
  'ledger.checkpoint': (record) => `signed up to record ${text(record['of'])}`,
  'ledger.pruned': (record) =>
    `records ${text(record['fromSeq'])} to ${text(record['toSeq'])} were deleted for their age`,
  'ledger.recovered': (record) =>
    record['broken'] === true
      ? join(`damage found: ${text(record['why'])}`, said('file', record['file']), said('line', record['line']))
      : join(`a torn tail of ${text(record['bytes'])} bytes was moved`, said('to', record['movedTo'])),
  'run.admitted': (record) => join(said('image', record['image']), commandOf(record['command'])),
  'run.refused': (record) => join(text(record['code']), text(record['detail'] ?? record['message'])),
  'run.started': (record) => join(said('container', short(record['containerId'])), said('pid', record['pid'])),
  'run.adopted': (record) => said('container', short(record['containerId'])),
  'run.verified': (record) =>
    join(`${Array.isArray(record['bounds']) ? record['bounds'].length : 0} bounds read back`, text(record['note'])),
  'run.changed': (record) => changedText(record),
  'run.held': (record) => breachText(fieldsOf(record['breach'])),
  'run.resumed': () => 'goes on',
  'approval.requested': (record) =>
    join(text(record['id']), said('wants', record['wants']), said('under', fieldsOf(record['request'])['rule'])),
  'approval.decided': (record) =>
    join(
      text(record['id']),
      `${text(record['decision'])} ${text(record['wants'])}`,
      typeof record['forMs'] === 'number' ? `for ${formatDuration(record['forMs'])}` : '',
      said('by uid', fieldsOf(record['caller'])['uid']),
      text(record['reason']),
    ),
  'approval.expired': (record) => join(text(record['id']), text(record['wants']), text(record['why'])),
  'run.ended': (record) => outcomeText(fieldsOf(record['outcome'])),
  'run.cleaned': (record) =>
    Array.isArray(record['failures']) && record['failures'].length > 0
      ? `left behind: ${record['failures'].map(text).join('; ')}`
      : 'nothing left behind',
  'budget.warned': (record) =>
    `${text(record['rule'])} at ${Math.round(number(record['fraction']) * 100)} %: ${ofLimit(record)}`,
  'egress.denied': (record) => denialText(fieldsOf(record['denial']), number(record['suppressed'])),
  'egress.allowed': (record) => flowText(record),
  'egress.unresolved': (record) =>
    `listed names that do not resolve: ${(Array.isArray(record['names']) ? record['names'] : [])
      .map((each) => join(text(fieldsOf(each)['name']), text(fieldsOf(each)['why'])))
      .join('; ')}`,
  'egress.suppressed': (record) => `${text(record['suppressed'])} more refused attempts`,
  breach: (record) => breachText(fieldsOf(record['breach'])),
  'incident.opened': (record) => {
    const incident = fieldsOf(record['incident']);
    const what = fieldsOf(incident['what']);
    return join(text(incident['id']), text(what['severity']), text(what['summary']));
  },
  'incident.closed': (record) => join(text(record['incidentId']), text(record['how']), said('by', record['by'])),
  'quarantine.set': (record) => said('until released, after', record['incidentId']),
  'quarantine.released': (record) => said('by uid', fieldsOf(record['caller'])['uid']),
  'command.issued': (record) => join(text(record['command']), said('by uid', fieldsOf(record['caller'])['uid'])),
  'drift.detected': (record) => text(record['what']),
  'enforcement.lost': (record) => join(text(record['what']), text(record['detail'])),
  'alert.delivered': (record) => join(said('to', record['sink']), text(record['id'])),
  'alert.failed': (record) => join(said('to', record['sink']), text(record['id']), text(record['message'])),
  'garbage.collected': (record) =>
    Array.isArray(record['removed']) ? record['removed'].map(text).join(', ') : text(record['removed']),
};

function detailOf(record: LedgerRecord): string {
  const render = Object.hasOwn(DETAILS, record.kind) ? DETAILS[record.kind] : undefined;
  return printable(render === undefined ? text(record['detail']) : render(record), DETAIL_CHARS_MAX);
}

const CHANGES_SHOWN_MAX = 5;

function changedText(record: Fields): string {
  const changes = Array.isArray(record['changes']) ? record['changes'].map(text) : [];
  const more = changes.length > CHANGES_SHOWN_MAX ? `and ${changes.length - CHANGES_SHOWN_MAX} more` : '';
  const digests = `${digestText(record['fromDigest'])} → ${digestText(record['toDigest'])}`;
  const by = said('by uid', fieldsOf(record['caller'])['uid']);
  return join(digests, by, changes.slice(0, CHANGES_SHOWN_MAX).join('; '), more);
}

function digestText(digest: unknown): string {
  return text(digest).slice(0, 'sha256:'.length + 12);
}

function outcomeText(outcome: Fields): string {
  const usage = fieldsOf(outcome['usage']);
  const code =
    outcome['exitCode'] === null || outcome['exitCode'] === undefined ? '' : `code ${text(outcome['exitCode'])}`;
  const ran = typeof usage['wallMs'] === 'number' ? `after ${formatDuration(usage['wallMs'])}` : '';
  return join(text(outcome['reason']), code, ran, text(outcome['detail']));
}

function breachText(breach: Fields): string {
  const denial =
    breach['denial'] === null || breach['denial'] === undefined ? '' : denialText(fieldsOf(breach['denial']), 0);
  return join(`${text(breach['rule'])} crossed: ${ofLimit(breach)}`, said('action', breach['action']), denial);
}

function denialText(denial: Fields, suppressed: number): string {
  const known = {
    kind: denial['kind'] === 'name' ? ('name' as const) : ('packet' as const),
    at: '',
    destination: text(denial['destination']),
    port: typeof denial['port'] === 'number' ? denial['port'] : null,
    protocol: text(denial['protocol']),
    rule: text(denial['rule']),
    explanation: '',
  };
  const more = suppressed > 0 ? `and ${suppressed} more` : '';
  return join(destinationOf(known), said('by', known.rule), more, text(denial['explanation']));
}

function flowText(flow: Fields): string {
  const several = number(flow['destinations']) > 1 ? `${text(flow['destinations'])} ` : '';
  const port = typeof flow['port'] === 'number' ? `:${flow['port']}/${text(flow['protocol'])}` : '';
  const bytes = `${formatBytes(number(flow['egressBytes']))} out`;
  const back = typeof flow['ingressBytes'] === 'number' ? `${formatBytes(flow['ingressBytes'])} in` : '';
  return join(`${several}${text(flow['destination'])}${port}`, bytes, back, said('counted by', flow['countedBy']));
}

function ofLimit(fields: Fields): string {
  const unit = text(fields['unit']);
  return `${formatAmount(number(fields['measured']), unit)} of ${formatAmount(number(fields['limit']), unit)}`;
}

function commandOf(command: unknown): string {
  return Array.isArray(command) ? said('command', command.map(text).join(' ')) : '';
}

function short(id: unknown): string {
  return text(id).slice(0, 12);
}

function said(label: string, value: unknown): string {
  const shown = text(value);
  return shown === '' ? '' : `${label} ${shown}`;
}

function join(...parts: readonly string[]): string {
  return parts.filter((part) => part !== '').join(', ');
}

function text(value: unknown): string {
  if (typeof value === 'string') return value;
  return typeof value === 'number' || typeof value === 'boolean' ? String(value) : '';
}

function number(value: unknown): number {
  return typeof value === 'number' ? value : 0;
}

function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}
