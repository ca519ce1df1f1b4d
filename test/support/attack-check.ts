import { attack, packetsFor, type Attack } from './attack.ts';

/**
 * "Name check" of the list of attacks. Each has a listed name with an address of its own, which it asks for first, so
 * that the road to that address is one that the gate has opened: only what the connection shows is wrong.
 */
const EVIL = 'evil.example.test';

type Draft = {
  readonly id: string;
  /** `NAME` stands for the listed name, `ADDRESS` for its address. */
  readonly attempt: string;
  /** What must not arrive at that address; nothing at all may when it is left out. */
  readonly shows?: string;
  readonly blunt?: string;
};

const TLS_DRAFTS: readonly Draft[] = [
  { id: 'other-name', attempt: `echo | openssl s_client -connect ADDRESS:443 -servername ${EVIL}` },
  { id: 'no-name', attempt: 'echo | openssl s_client -connect ADDRESS:443 -noservername' },
  { id: 'raw-address', attempt: 'curl -sSk --max-time 3 https://ADDRESS/' },
  { id: 'unlisted-by-curl', attempt: `curl -sSk --max-time 3 --resolve ${EVIL}:443:ADDRESS https://${EVIL}/` },
  {
    id: 'ssh-bytes',
    attempt: 'timeout 3 ssh -o BatchMode=yes -o StrictHostKeyChecking=no -p 443 operator@ADDRESS true',
  },
  { id: 'plain-http', attempt: 'curl -sS --max-time 3 http://NAME:443/' },
  { id: 'bytes-first', attempt: 'raw lines ADDRESS 443 "hello there\\r\\n" "\\x16\\x03\\x01"' },
  { id: 'silence-then-bytes', attempt: 'raw lines ADDRESS 443 "" "" "" "SSH-2.0-x\\r\\n"' },
  { id: 'pieces', attempt: `raw hello ADDRESS pieces ${EVIL}` },
  { id: 'records', attempt: `raw hello ADDRESS records ${EVIL}` },
  { id: 'two-names', attempt: `raw hello ADDRESS whole NAME ${EVIL}` },
  { id: 'two-names-turned', attempt: `raw hello ADDRESS whole ${EVIL} NAME` },
  { id: 'two-extensions', attempt: `raw hello ADDRESS twice NAME ${EVIL}` },
  { id: 'nul-in-name', attempt: `raw hello ADDRESS whole 'NAME\\x00.${EVIL}'` },
  { id: 'name-as-suffix', attempt: 'raw hello ADDRESS whole NAME.evil.test' },
  { id: 'name-as-prefix', attempt: 'raw hello ADDRESS whole evilNAME' },
  { id: 'address-as-name', attempt: 'raw hello ADDRESS whole ADDRESS' },
  { id: 'empty-name', attempt: `raw hello ADDRESS whole ''` },
  { id: 'very-large', attempt: `raw hello ADDRESS padded ${EVIL}` },
  { id: 'very-slow', attempt: `raw hello ADDRESS slow ${EVIL}` },
  { id: 'name-of-another', attempt: 'echo | openssl s_client -connect ADDRESS:443 -servername docs.example.test' },
];

const HTTP_DRAFTS: readonly Draft[] = [
  { id: 'other-host', attempt: `curl -sS --max-time 3 -H 'Host: ${EVIL}' http://NAME/`, shows: EVIL },
  { id: 'no-host', attempt: `raw lines ADDRESS 80 'GET /no-host HTTP/1.0\\r\\n\\r\\n'`, shows: 'no-host' },
  {
    id: 'two-hosts',
    attempt: `raw lines ADDRESS 80 'GET / HTTP/1.1\\r\\nHost: NAME\\r\\nHost: ${EVIL}\\r\\n\\r\\n'`,
    shows: EVIL,
  },
  {
    id: 'second-request',
    attempt: `raw lines ADDRESS 80 'GET / HTTP/1.1\\r\\nHost: NAME\\r\\n\\r\\n' 'GET / HTTP/1.1\\r\\nHost: ${EVIL}\\r\\n\\r\\n'`,
    shows: EVIL,
  },
  {
    id: 'pipelined',
    attempt: `raw lines ADDRESS 80 'GET / HTTP/1.1\\r\\nHost: NAME\\r\\n\\r\\nGET / HTTP/1.1\\r\\nHost: ${EVIL}\\r\\n\\r\\n'`,
    shows: EVIL,
  },
  {
    id: 'smuggled',
    attempt: `raw lines ADDRESS 80 'POST / HTTP/1.1\\r\\nHost: NAME\\r\\nContent-Length: 6\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\nGET / HTTP/1.1\\r\\nHost: ${EVIL}\\r\\n\\r\\n'`,
    shows: EVIL,
  },
  {
    id: 'connect',
    attempt: `raw lines ADDRESS 80 'CONNECT ${EVIL}:443 HTTP/1.1\\r\\nHost: NAME\\r\\n\\r\\n'`,
    shows: EVIL,
  },
  {
    id: 'absolute-form',
    attempt: `raw lines ADDRESS 80 'GET http://${EVIL}/ HTTP/1.1\\r\\nHost: NAME\\r\\n\\r\\n'`,
    shows: EVIL,
  },
  {
    id: 'other-protocol-on-80',
    attempt: `raw lines ADDRESS 80 'SSH-2.0-x\\r\\n' 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'`,
  },
];

const two = (number: number): string => String(number).padStart(2, '0');
const DRAFTS = [...TLS_DRAFTS, ...HTTP_DRAFTS];
export const CHECKED_NAMES: readonly string[] = DRAFTS.map((_, index) => `check-${two(index + 1)}.example.test`);

export const CHECKS: readonly Attack[] = DRAFTS.map(({ id, attempt, shows, blunt }, index) => {
  const name = `check-${two(index + 1)}.example.test`;
  const address = `192.0.2.${101 + index}`;
  return attack({
    id: `check-${id}`,
    attempt: `getent hosts ${name}; ${attempt.replaceAll('NAME', name).replaceAll('ADDRESS', address)}`,
    through: packetsFor(address, (packet) => shows === undefined || packet.payload.includes(shows)),
    blunt: blunt ?? null,
  });
});

/** What is granted, by the real clients and in every shape that means the same. */
export const GRANTED_CHECKS: readonly Attack[] = [
  {
    id: 'shown-by-curl',
    attempt: 'curl -sS --cacert /agent/lab-ca.crt --max-time 4 https://docs.example.test/by-curl',
    detail: 'GET docs.example.test/by-curl',
  },
  {
    id: 'shown-in-capitals',
    attempt: 'curl -sSk --max-time 4 https://DOCS.example.TEST/in-capitals',
    detail: 'GET DOCS.example.TEST/in-capitals',
  },
  {
    id: 'shown-by-openssl',
    attempt: `printf 'GET /by-openssl HTTP/1.1\\r\\nHost: docs.example.test\\r\\nConnection: close\\r\\n\\r\\n' | openssl s_client -quiet -ign_eof -connect docs.example.test:443 -servername docs.example.test`,
    detail: 'GET docs.example.test/by-openssl',
  },
  {
    id: 'shown-in-http',
    attempt: 'curl -sS --max-time 4 http://llm.example.test/one http://llm.example.test/two',
    detail: 'GET llm.example.test/two',
  },
].map(({ id, attempt: line, detail }) =>
  attack({
    id,
    attempt: line,
    through: ({ seen }) => seen.filter((each) => each.detail.toLowerCase() === detail.toLowerCase()).map(() => detail),
  }),
);
