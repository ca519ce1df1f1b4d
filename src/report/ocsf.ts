import type { LedgerRecord, RecordKind } from '../core/ports/record.ts';
import { printable } from '../core/text.ts';
import { renderEvent } from './events.ts';

/**
 * A record as an event of the Open Cybersecurity Schema Framework 1.8.0. Nothing is stored this way: the ledger's own
 * lines are what is hashed, and what of a record has no place in the class goes along under `unmapped`.
 */
export const OCSF_VERSION = '1.8.0';

export type OcsfEvent = Readonly<Record<string, unknown>>;

export type OcsfOptions = { readonly host: string; readonly version: string };

type Fields = Readonly<Record<string, unknown>>;

const CLASSES = {
  network: { uid: 4001, name: 'Network Activity', category: 'Network Activity' },
  process: { uid: 1007, name: 'Process Activity', category: 'System Activity' },
  finding: { uid: 2004, name: 'Detection Finding', category: 'Findings' },
  lifecycle: { uid: 6002, name: 'Application Lifecycle', category: 'Application Activity' },
  config: { uid: 5019, name: 'Device Config State Change', category: 'Discovery' },
} as const;

/** `activity_id` 99 says that the name of the activity is ours. */
const OTHER = 99;
const NETWORK = { refuse: 5, traffic: 6, other: OTHER } as const;
const PROCESS = { launch: 1, terminate: 2, open: 3, other: OTHER } as const;
const FINDING = { create: 1, update: 2, close: 3 } as const;
const LIFECYCLE = { start: 3, stop: 4 } as const;
const CONFIG = { log: 1 } as const;

const SEVERITY = { info: 1, low: 2, medium: 3, high: 4, critical: 5 } as const;
const SEVERITY_NAMES = ['Unknown', 'Informational', 'Low', 'Medium', 'High', 'Critical'];
const DISPOSITION = { allowed: 1, blocked: 2 } as const;
const ACTION = { allowed: 1, denied: 2 } as const;
const OUTBOUND = 2;
const FAILURE = 2;
const SERVER = 1;
const TEXT_CHARS_MAX = 1_000;

type Shape = {
  readonly class: keyof typeof CLASSES;
  readonly activity: number;
  readonly severity: number;
  /** What the class asks for beside the common part. */
  readonly fields: Fields;
};

type Mapping = (record: LedgerRecord, options: OcsfOptions) => Shape;

export function ocsfOf(record: LedgerRecord, options: OcsfOptions): OcsfEvent {
  const mapping = Object.hasOwn(MAPPINGS, record.kind) ? MAPPINGS[record.kind] : undefined;
  const shape = (mapping ?? other)(record, options);
  const { uid, name, category } = CLASSES[shape.class];
  const { seq, at, prev, kind, runId, profile, ...rest } = record;
  return {
    category_uid: Math.floor(uid / 1000),
    category_name: category,
    class_uid: uid,
    class_name: name,
    activity_id: shape.activity,
    ...(shape.activity === OTHER ? { activity_name: printable(kind, 40) } : {}),
    type_uid: uid * 100 + shape.activity,
    severity_id: shape.severity,
    severity: SEVERITY_NAMES[shape.severity],
    time: timeOf(at),
    message: messageOf(record),
    metadata: {
      version: OCSF_VERSION,
      product: { name: 'Ringfence', vendor_name: 'Ringfence', version: options.version },
      log_name: 'ringfence ledger',
      uid: `${options.host}:${seq}`,
      sequence: seq,
      event_code: printable(kind, 40),
    },
    ...shape.fields,
    unmapped: { runId, profile, prev, ...rest },
  };
}

const MAPPINGS: Readonly<Partial<Record<RecordKind, Mapping>>> = {
  'daemon.started': (record, options) => lifecycle(record, options, LIFECYCLE.start),
  'daemon.stopped': (record, options) => lifecycle(record, options, LIFECYCLE.stop),
  'run.admitted': configured,
  'run.verified': configured,
  'run.changed': configured,
  'approval.decided': configured,
  'run.held': (record, options) => ({
    ...processed(record, options, PROCESS.other),
    severity: SEVERITY.medium,
  }),
  'run.resumed': (record, options) => processed(record, options, PROCESS.other),
  'run.started': (record, options) => processed(record, options, PROCESS.launch),
  'run.adopted': (record, options) => processed(record, options, PROCESS.open),
  'run.refused': (record, options) => {
    const shape = processed(record, options, PROCESS.launch);
    const status = { status_id: FAILURE, status: 'Failure', status_code: text(record['code'], 64) };
    return { ...shape, severity: SEVERITY.low, fields: { ...shape.fields, ...status } };
  },
  'run.ended': (record, options) => {
    const outcome = fieldsOf(record['outcome']);
    const shape = processed(record, options, PROCESS.terminate);
    const code = typeof outcome['exitCode'] === 'number' ? { exit_code: outcome['exitCode'] } : {};
    return {
      ...shape,
      severity: outcome['incidentId'] === null ? SEVERITY.info : SEVERITY.high,
      fields: { ...shape.fields, ...code, status_detail: text(outcome['reason'], 64) },
    };
  },
  'egress.denied': (record) => {
    const denial = fieldsOf(record['denial']);
    return {
      class: 'network',
      activity: NETWORK.refuse,
      severity: SEVERITY.medium,
      fields: {
        ...networkFields(denial),
        action_id: ACTION.denied,
        disposition_id: DISPOSITION.blocked,
        count: 1 + (typeof record['suppressed'] === 'number' ? record['suppressed'] : 0),
        firewall_rule: { name: text(denial['rule'], 64) },
        status_detail: text(denial['explanation']),
      },
    };
  },
  'egress.suppressed': (record) => ({
    class: 'network',
    activity: NETWORK.refuse,
    severity: SEVERITY.low,
    fields: { action_id: ACTION.denied, disposition_id: DISPOSITION.blocked, count: numberOf(record['suppressed']) },
  }),
  'egress.allowed': (record) => ({
    class: 'network',
    activity: NETWORK.traffic,
    severity: SEVERITY.info,
    fields: {
      ...networkFields(record),
      action_id: ACTION.allowed,
      disposition_id: DISPOSITION.allowed,
      traffic: {
        bytes_out: numberOf(record['egressBytes']),
        ...(typeof record['ingressBytes'] === 'number' ? { bytes_in: record['ingressBytes'] } : {}),
        ...(typeof record['packets'] === 'number' ? { packets_out: record['packets'] } : {}),
      },
      ...(typeof record['connections'] === 'number' ? { count: record['connections'] } : {}),
      start_time: timeOf(record['fromAt']),
      end_time: timeOf(record['toAt']),
    },
  }),
  'approval.requested': (record) => {
    const request = fieldsOf(record['request']);
    const fields = networkFields({ ...request, destination: request['name'] });
    return { class: 'network', activity: NETWORK.other, severity: SEVERITY.low, fields };
  },
  'approval.expired': (record) => ({
    class: 'network',
    activity: NETWORK.refuse,
    severity: SEVERITY.low,
    fields: { action_id: ACTION.denied, disposition_id: DISPOSITION.blocked, status_detail: text(record['why']) },
  }),
  'incident.closed': (record) => ({
    class: 'finding',
    activity: FINDING.close,
    severity: SEVERITY.info,
    fields: {
      is_alert: false,
      finding_info: { uid: text(record['incidentId'], 64), title: 'the incident is over' },
      evidences: [{ process: processOf(record) }],
      status_detail: text(record['how'], 64),
    },
  }),
  'incident.opened': (record) => {
    const incident = fieldsOf(record['incident']);
    const what = fieldsOf(incident['what']);
    return {
      class: 'finding',
      activity: FINDING.create,
      severity: severityOf(what['severity']),
      fields: {
        is_alert: true,
        finding_info: {
          uid: text(incident['id'], 64),
          title: text(what['summary']),
          desc: text(what['explanation']),
          types: [text(what['rule'], 64)],
        },
        evidences: [{ process: processOf(record) }],
        remediation: { desc: text(incident['cure']) },
        disposition_id: DISPOSITION.blocked,
        action_id: ACTION.denied,
      },
    };
  },
  breach: (record) => {
    const breach = fieldsOf(record['breach']);
    return finding(record, { title: `${text(breach['rule'], 64)} was crossed`, severity: SEVERITY.medium });
  },
  'budget.warned': (record) =>
    finding(record, { title: `${text(record['rule'], 64)} is nearly used up`, severity: SEVERITY.low }),
  'drift.detected': (record) => finding(record, { title: text(record['what']), severity: SEVERITY.high }),
  'enforcement.lost': (record) =>
    finding(record, { title: `not in force: ${text(record['what'], 200)}`, severity: SEVERITY.critical }),
  'ledger.recovered': (record) => {
    const damaged = record['broken'] === true;
    const title = damaged ? 'the ledger is damaged' : 'a torn end of the ledger was moved aside';
    return finding(record, { title, severity: damaged ? SEVERITY.critical : SEVERITY.low });
  },
  'quarantine.set': (record) => ({
    ...finding(record, { title: 'the agent is in quarantine', severity: SEVERITY.high }),
    activity: FINDING.update,
  }),
  'quarantine.released': (record) => ({
    ...finding(record, { title: 'the quarantine was ended by a person', severity: SEVERITY.info }),
    activity: FINDING.close,
  }),
};

function other(record: LedgerRecord, options: OcsfOptions): Shape {
  return lifecycle(record, options, OTHER);
}

function lifecycle(record: LedgerRecord, options: OcsfOptions, activity: number): Shape {
  const app = { name: 'ringfenced', uid: `ringfenced@${options.host}` };
  return { class: 'lifecycle', activity, severity: SEVERITY.info, fields: { app, actor: actorOf(record) } };
}

function processed(record: LedgerRecord, { host }: OcsfOptions, activity: number): Shape {
  const fields = { actor: actorOf(record), device: deviceOf(host), process: processOf(record) };
  return { class: 'process', activity, severity: SEVERITY.info, fields };
}

function configured(record: LedgerRecord, { host }: OcsfOptions): Shape {
  const device = deviceOf(host);
  const digest = text(record['toDigest'] ?? record['profileDigest'], 80);
  const policy = { name: text(record.profile, 64), uid: digest };
  return {
    class: 'config',
    activity: CONFIG.log,
    severity: SEVERITY.info,
    fields: { device, actor: actorOf(record), policy },
  };
}

function finding(record: LedgerRecord, about: { readonly title: string; readonly severity: number }): Shape {
  const uid = `${record.seq}:${printable(record.kind, 40)}`;
  const fields = {
    is_alert: false,
    finding_info: { uid, title: about.title },
    evidences: [{ process: processOf(record) }],
  };
  return { class: 'finding', activity: FINDING.create, severity: about.severity, fields };
}

function networkFields(about: Fields): Fields {
  const destination = text(about['destination'] ?? about['address'], 300);
  const port = typeof about['port'] === 'number' ? { port: about['port'] } : {};
  const isAddress = /^[0-9.]+$/.test(destination);
  return {
    dst_endpoint: { ...(isAddress ? { ip: destination } : { hostname: destination }), ...port },
    connection_info: { direction_id: OUTBOUND, protocol_name: text(about['protocol'], 16) },
  };
}

function processOf(record: LedgerRecord): Fields {
  const pid = typeof record['pid'] === 'number' ? { pid: record['pid'] } : {};
  return { name: text(record.profile, 64), uid: text(record.runId, 64) || `record ${record.seq}`, ...pid };
}

function actorOf(record: LedgerRecord): Fields {
  const { uid } = fieldsOf(record['caller']);
  return typeof uid === 'number' ? { user: { uid: String(uid) } } : { app_name: 'ringfenced' };
}

function deviceOf(host: string): Fields {
  return { type_id: SERVER, hostname: host };
}

function severityOf(severity: unknown): number {
  const known = ['info', 'low', 'medium', 'high', 'critical'].indexOf(String(severity));
  return known === -1 ? SEVERITY.high : known + 1;
}

function messageOf(record: LedgerRecord): string {
  return renderEvent(record).replaceAll(/ {2,}/g, ' ');
}

function timeOf(at: unknown): number {
  const time = Date.parse(String(at));
  return Number.isFinite(time) ? time : 0;
}

function numberOf(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0;
}

function text(value: unknown, charsMax = TEXT_CHARS_MAX): string {
  return typeof value === 'string' || typeof value === 'number' ? printable(String(value), charsMax) : '';
}

function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}
