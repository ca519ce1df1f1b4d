import type {
  ContainerFacts,
  ContainerSummary,
  EngineComponent,
  EngineFacts,
  ImageFacts,
  NetworkFacts,
} from '../core/ports/engine.ts';
import { printable } from '../core/text.ts';

/**
 * The engine's answers reduced to facts. Nothing is trusted to be there: a missing field reads as the value that will
 * not match a plan (an empty text, -1), never as the one that would.
 */
type Json = Readonly<Record<string, unknown>>;

export function containerFacts(answer: unknown): ContainerFacts {
  const root = objectOf(answer);
  const state = objectOf(root['State']);
  const config = objectOf(root['Config']);
  const host = objectOf(root['HostConfig']);
  return {
    id: text(root['Id']),
    name: text(root['Name']).replace(/^\//, ''),
    image: text(root['Image']),
    labels: texts(config['Labels']),
    state: stateOf(text(state['Status'])),
    pid: number(state['Pid']) > 0 ? number(state['Pid']) : null,
    exitCode: text(state['Status']) === 'exited' ? number(state['ExitCode']) : null,
    oomKilledFlag: state['OOMKilled'] === true,
    startedAt: timeOf(state['StartedAt']),
    finishedAt: timeOf(state['FinishedAt']),
    user: text(config['User']),
    privileged: host['Privileged'] !== false,
    readOnlyRoot: host['ReadonlyRootfs'] === true,
    capabilitiesAdded: list(host['CapAdd']).map(text),
    capabilitiesDropped: list(host['CapDrop']).map(text),
    securityOptions: list(host['SecurityOpt']).map(text),
    appArmorProfile: text(root['AppArmorProfile']),
    namespaceModes: {
      pid: text(host['PidMode']),
      ipc: text(host['IpcMode']),
      uts: text(host['UTSMode']),
      user: text(host['UsernsMode']),
      network: text(host['NetworkMode']),
      cgroup: text(host['CgroupnsMode']),
    },
    publishedPorts: publishedPorts(host, objectOf(root['NetworkSettings'])),
    devices: list(host['Devices'])
      .map((entry) => deviceNode(objectOf(entry)))
      .toSorted(),
    groupsAdded: list(host['GroupAdd']).map(text).toSorted(),
    deviceRequests: list(host['DeviceRequests'])
      .map((entry) => deviceRequest(objectOf(entry)))
      .toSorted(),
    restartPolicy: text(objectOf(host['RestartPolicy'])['Name']),
    memoryBytesMax: number(host['Memory']),
    memorySwapBytesMax: number(host['MemorySwap']),
    cpuMillis: number(host['NanoCpus']) / 1_000_000,
    pidsMax: number(host['PidsLimit']),
    ulimits: ulimits(list(host['Ulimits'])),
    tmpfs: texts(host['Tmpfs']),
    mounts: list(root['Mounts']).map((entry) => mountFacts(objectOf(entry))),
    networks: Object.entries(objectOf(objectOf(root['NetworkSettings'])['Networks'])).map(([name, endpoint]) => ({
      name,
      address: addressOf(objectOf(endpoint)),
    })),
    dns: list(host['Dns']).map(text),
    logDriver: text(objectOf(host['LogConfig'])['Type']),
    logOptions: texts(objectOf(host['LogConfig'])['Config']),
    init: host['Init'] === true,
    cgroupParent: text(host['CgroupParent']),
  };
}

function mountFacts(mount: Json): ContainerFacts['mounts'][number] {
  return {
    type: text(mount['Type']),
    source: text(mount['Source']),
    target: text(mount['Destination']),
    readOnly: mount['RW'] === false,
    propagation: text(mount['Propagation']),
  };
}

function deviceNode(node: Json): string {
  return `${text(node['PathOnHost'])} → ${text(node['PathInContainer'])} ${text(node['CgroupPermissions'])}`;
}

/** A count asks for devices that nobody chose, so it shows. */
function deviceRequest(request: Json): string {
  const count = number(request['Count']);
  const capabilities = list(request['Capabilities']).map((set) => list(set).map(text).join('+'));
  return [
    text(request['Driver']),
    list(request['DeviceIDs']).map(text).join(','),
    ...capabilities,
    ...(count > 0 || (count < 0 && 'Count' in request) ? [`count ${count}`] : []),
  ].join(' ');
}

function addressOf(endpoint: Json): string {
  return text(endpoint['IPAddress']) || text(objectOf(endpoint['IPAMConfig'])['IPv4Address']);
}

function publishedPorts(host: Json, network: Json): number {
  const bound = [...Object.values(objectOf(host['PortBindings'])), ...Object.values(objectOf(network['Ports']))];
  return bound.filter((bindings) => list(bindings).length > 0).length + (host['PublishAllPorts'] === true ? 1 : 0);
}

/** Soft and hard are one value in everything we make; where they differ, the soft one is shown beside the hard one. */
function ulimits(entries: readonly unknown[]): Record<string, number> {
  const facts: Record<string, number> = {};
  for (const entry of entries.map(objectOf)) {
    const name = text(entry['Name']);
    facts[name] = number(entry['Hard']);
    if (number(entry['Soft']) !== number(entry['Hard'])) facts[`${name}.soft`] = number(entry['Soft']);
  }
  return facts;
}

const STATES = ['created', 'running', 'paused', 'restarting', 'removing', 'exited', 'dead'] as const;

function stateOf(status: string): ContainerFacts['state'] {
  return STATES.find((state) => state === status) ?? 'dead';
}

/** The engine writes the year 1 for "never". */
function timeOf(value: unknown): string | null {
  const at = text(value);
  return at === '' || at.startsWith('0001-') ? null : at;
}

export function containerSummary(answer: unknown): ContainerSummary {
  const root = objectOf(answer);
  return {
    id: text(root['Id']),
    name: text(list(root['Names'])[0]).replace(/^\//, ''),
    state: text(root['State']),
    labels: texts(root['Labels']),
  };
}

export function networkFacts(answer: unknown): NetworkFacts {
  const root = objectOf(answer);
  return {
    id: text(root['Id']),
    name: text(root['Name']),
    bridge: text(objectOf(root['Options'])['com.docker.network.bridge.name']),
    subnet: subnetsOf(answer)[0] ?? '',
    labels: texts(root['Labels']),
    containerIds: Object.keys(objectOf(root['Containers'])),
  };
}

export function subnetsOf(answer: unknown): readonly string[] {
  return list(objectOf(objectOf(answer)['IPAM'])['Config'])
    .map((entry) => text(objectOf(entry)['Subnet']))
    .filter((subnet) => subnet !== '');
}

export function imageFacts(answer: unknown): ImageFacts {
  const root = objectOf(answer);
  const config = objectOf(root['Config']);
  return {
    digest: text(root['Id']),
    repoDigests: list(root['RepoDigests']).map(text),
    entrypoint: list(config['Entrypoint']).map(text),
    env: list(config['Env']).map(text),
    user: text(config['User']),
    volumes: Object.keys(objectOf(config['Volumes'])),
    workingDirectory: text(config['WorkingDir']),
    sizeBytes: number(root['Size']),
  };
}

export function engineFacts(answer: unknown, apiVersion: string): EngineFacts {
  const info = objectOf(answer);
  const security = list(info['SecurityOptions']).map(text);
  const has = (name: string): boolean => security.some((option) => option.split(',').includes(`name=${name}`));
  return {
    version: text(info['ServerVersion']),
    apiVersion,
    cgroupVersion: text(info['CgroupVersion']) === '2' ? 2 : 1,
    cgroupDriver: text(info['CgroupDriver']) === 'systemd' ? 'systemd' : 'cgroupfs',
    storageDriver: text(info['Driver']),
    imageStore: list(info['DriverStatus']).some(isSnapshotter) ? 'containerd' : 'classic',
    holds: {
      cpu: info['CpuCfsPeriod'] === true && info['CpuCfsQuota'] === true,
      memory: info['MemoryLimit'] === true,
      swap: info['SwapLimit'] === true,
      pids: info['PidsLimit'] === true,
    },
    rootDirectory: text(info['DockerRootDir']),
    appArmor: has('apparmor'),
    seccomp: has('seccomp'),
    userNamespaces: has('userns'),
    liveRestore: info['LiveRestoreEnabled'] === true,
    cdiFolders: list(info['CDISpecDirs']).map(text),
    cpus: number(info['NCPU']),
    memoryBytes: number(info['MemTotal']),
  };
}

/** `["driver-type", "io.containerd.snapshotter.v1"]` */
function isSnapshotter(entry: unknown): boolean {
  const [key, value] = list(entry).map(text);
  return key === 'driver-type' && value?.startsWith('io.containerd.snapshotter') === true;
}

export function componentsOf(answer: unknown): readonly EngineComponent[] {
  return list(objectOf(answer)['Components'])
    .map(objectOf)
    .map((component) => ({
      name: printable(text(component['Name'])),
      version: printable(text(component['Version'])),
      build: printable(text(objectOf(component['Details'])['GitCommit'])),
    }));
}

export function objectOf(value: unknown): Json {
  return typeof value === 'object' && value !== null ? (value as Json) : {};
}

export function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

export function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function number(value: unknown): number {
  return typeof value === 'number' ? value : -1;
}

function texts(value: unknown): Record<string, string> {
  return Object.fromEntries(Object.entries(objectOf(value)).map(([key, entry]) => [key, text(entry)]));
}
