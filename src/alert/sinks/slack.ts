import type { Alert, AlertFact, AlertSeverity, AlertType, SlackSink } from '../../core/ports/alert.ts';
import type { Deliverer, Delivery } from '../deliverer.ts';
import type { Answer, HttpOptions } from '../http.ts';
import { openEndpoint } from '../http.ts';
import { boundedFacts, oneLine, timestampOf } from '../wording.ts';

/** Slack takes 3,000 characters in a section and 50 blocks; in practice whole messages fail well below their product. */
const SECTION_CHARS_MAX = 2_900;
const MESSAGE_CHARS_MAX = 10_000;
const SUMMARY_CHARS_MAX = 600;

const TYPES: readonly AlertType[] = [
  'incident.opened',
  'incident.released',
  'incident.resolved',
  'approval.requested',
  'run.held',
  'ledger.checkpoint',
  'digest',
  'test',
];

/** A Slack incoming webhook. Its URL is the secret, so no message ever shows its path. */
export function openSlack(sink: SlackSink, options: HttpOptions): Deliverer {
  const secrets = URL.canParse(sink.url) ? [new URL(sink.url).pathname].filter((path) => path.length > 1) : [];
  const endpoint = openEndpoint(sink, { ...options, secrets });
  return {
    kind: 'slack',
    says: (type) => TYPES.includes(type),
    send: async (alert, signal) =>
      await endpoint.post({ body: JSON.stringify(slackMessage(alert)), headers: {} }, judge, signal),
  };
}

/** 400 and 413 speak of the message, which will be no better next time; 403 and 404 of a webhook somebody may repair. */
function judge({ status, message }: Answer): Delivery | null {
  return status === 400 || status === 413 ? { kind: 'rejected', message } : null;
}

const MARKS: Readonly<Record<AlertSeverity, string>> = {
  critical: ':red_circle: CRITICAL',
  high: ':red_circle: HIGH',
  medium: ':large_orange_circle: MEDIUM',
  low: ':large_yellow_circle: LOW',
  info: ':white_circle: INFO',
};

const TITLES: Readonly<Record<AlertType, string>> = {
  'incident.opened': 'Incident',
  'incident.released': 'Released',
  'incident.resolved': 'Over',
  'approval.requested': 'A person is asked',
  'run.held': 'Held',
  'ledger.checkpoint': 'Ledger checkpoint',
  digest: 'Many alerts',
  heartbeat: 'Heartbeat',
  test: 'Test',
};

/**
 * Text that an agent may have chosen is escaped, so that it is no mention and no link, and is plain text or stands in a code
 * span, so that it is no formatting; `verbatim` keeps Slack from making links of names that nobody should follow.
 */
function slackMessage(alert: Alert): Readonly<Record<string, unknown>> {
  const summary = escaped(oneLine(alert.summary, SUMMARY_CHARS_MAX));
  const head = `${MARKS[alert.severity]} *${TITLES[alert.type]}*`;
  const foot = [alert.type, alert.key, timestampOf(alert) ?? ''].filter((part) => part !== '').join(' · ');
  return {
    text: `${TITLES[alert.type]}: ${summary}`,
    mrkdwn: false,
    parse: 'none',
    link_names: false,
    unfurl_links: false,
    unfurl_media: false,
    blocks: [
      { type: 'section', text: markdown(head) },
      { type: 'section', text: { type: 'plain_text', text: summary === '' ? alert.type : summary, emoji: false } },
      ...sectionsOf(boundedFacts(alert)).map((text) => ({ type: 'section', text: markdown(text) })),
      { type: 'context', elements: [markdown(escaped(foot))] },
    ],
  };
}

/** One line for each fact, as many sections as they need, and an end. */
function sectionsOf(facts: readonly AlertFact[]): readonly string[] {
  const sections: string[] = [];
  let section = '';
  let chars = 0;
  for (const { name, value } of facts) {
    const line = `*${escaped(name.replace(/[*_~`]/g, ''))}* ${value === '' ? '' : `\`${escaped(value.replaceAll('`', 'ˋ'))}\``}`;
    if (chars + line.length > MESSAGE_CHARS_MAX || line.length > SECTION_CHARS_MAX) continue;
    chars += line.length;
    if (section !== '' && section.length + line.length + 1 > SECTION_CHARS_MAX) {
      sections.push(section);
      section = '';
    }
    section += section === '' ? line : `\n${line}`;
  }
  return section === '' ? sections : [...sections, section];
}

function markdown(text: string): Readonly<Record<string, unknown>> {
  return { type: 'mrkdwn', text, verbatim: true };
}

/** The three characters with which Slack's control sequences begin and end. */
function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
