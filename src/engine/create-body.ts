import type { ContainerPlan, EngineFacts, NetworkPlan } from '../core/ports/engine.ts';

/**
 * Plans as the engine's API wants them. What an agent never gets is written here once and depends on no plan:
 * capabilities, privilege, devices, ports, host namespaces, restarts.
 */
const LOG_FILES = 2;

/** Under memory pressure of the whole host, agents die before its services. */
const OOM_SCORE_ADJUST = 500;

export function containerBody(plan: ContainerPlan, engine: EngineFacts): unknown {
  return {
    Image: plan.image,
    // The whole command replaces the image's entry point, which could otherwise wrap or ignore it.
    Entrypoint: plan.command.slice(0, 1),
    Cmd: plan.command.slice(1),
    User: plan.user,
    Env: plan.env,
    ...(plan.workingDirectory === null ? {} : { WorkingDir: plan.workingDirectory }),
    Hostname: plan.hostname,
    Tty: plan.tty,
    OpenStdin: plan.stdin,
    StdinOnce: plan.stdin,
    AttachStdin: plan.stdin,
    AttachStdout: true,
    AttachStderr: true,
    Labels: plan.labels,
    StopSignal: 'SIGTERM',
    Healthcheck: { Test: ['NONE'] },
    ExposedPorts: {},
    HostConfig: hostConfig(plan, engine),
    NetworkingConfig: {
      EndpointsConfig: { [plan.network]: { IPAMConfig: { IPv4Address: plan.address } } },
    },
  };
}

function hostConfig(plan: ContainerPlan, engine: EngineFacts): unknown {
  return {
    Privileged: false,
    CapAdd: [],
    CapDrop: ['ALL'],
    SecurityOpt: [
      'no-new-privileges:true',
      ...(plan.appArmorProfile === null ? [] : [`apparmor=${plan.appArmorProfile}`]),
    ],
    ReadonlyRootfs: true,
    Init: true,
    PidMode: '',
    IpcMode: 'private',
    UTSMode: '',
    UsernsMode: '',
    CgroupnsMode: 'private',
    NetworkMode: plan.network,
    Dns: [plan.dns],
    // A lone dot is "no search domain"; without it the engine copies the host's.
    DnsSearch: ['.'],
    DnsOptions: [],
    ExtraHosts: [],
    Links: [],
    PublishAllPorts: false,
    PortBindings: {},
    RestartPolicy: { Name: 'no', MaximumRetryCount: 0 },
    AutoRemove: false,
    Devices: (plan.gpu?.nodes ?? []).map(({ source, target }) => ({
      PathOnHost: source,
      PathInContainer: target,
      // Not to be made anew.
      CgroupPermissions: 'rw',
    })),
    DeviceCgroupRules: [],
    DeviceRequests: deviceRequests(plan),
    VolumesFrom: [],
    Sysctls: {},
    GroupAdd: (plan.gpu?.groupIds ?? []).map(String),
    ...resources(plan, engine),
    Tmpfs: Object.fromEntries(plan.tmpfs.map((entry) => [entry.path, tmpfsOptions(entry)])),
    ShmSize: plan.sharedMemoryBytesMax,
    Mounts: plan.binds.map((bind) => ({
      Type: 'bind',
      Source: bind.source,
      Target: bind.target,
      ReadOnly: bind.readOnly,
      // Not recursive: what else is mounted below the folder was not checked, and older engines leave it writable.
      BindOptions: { Propagation: 'rprivate', NonRecursive: true },
    })),
    LogConfig: {
      Type: 'json-file',
      Config: { 'max-size': String(Math.floor(plan.logBytesMax / LOG_FILES)), 'max-file': String(LOG_FILES) },
    },
  };
}

function resources(plan: ContainerPlan, engine: EngineFacts): Readonly<Record<string, unknown>> {
  return {
    Memory: plan.memoryBytesMax,
    // Left out, the engine allows the same again as swap.
    MemorySwap: plan.memoryBytesMax,
    // Cgroup v2 has no swappiness per group, and the engine warns about it there.
    ...(engine.cgroupVersion === 1 ? { MemorySwappiness: 0 } : {}),
    OomKillDisable: false,
    OomScoreAdj: OOM_SCORE_ADJUST,
    NanoCpus: plan.cpuMillis * 1_000_000,
    PidsLimit: plan.pidsMax,
    CgroupParent: plan.cgroupParent,
    BlkioDeviceReadBps: ioRates(plan),
    BlkioDeviceWriteBps: ioRates(plan),
    Ulimits: [
      { Name: 'nofile', Soft: plan.filesMax, Hard: plan.filesMax },
      { Name: 'core', Soft: 0, Hard: 0 },
    ],
  };
}

function ioRates({ io }: ContainerPlan): unknown {
  return (io?.devices ?? []).map(({ path }) => ({ Path: path, Rate: io?.bytesPerSecond }));
}

/** Always by id: a count or an index would let the engine choose what a run was not leased. */
function deviceRequests({ gpu }: ContainerPlan): unknown {
  if (gpu === null || gpu.devices.length === 0) return [];
  return gpu.request === 'cdi'
    ? [{ Driver: 'cdi', DeviceIDs: gpu.devices.map((uuid) => `nvidia.com/gpu=${uuid}`) }]
    : [{ Driver: 'nvidia', DeviceIDs: gpu.devices, Capabilities: [['gpu', 'compute', 'utility']] }];
}

export function tmpfsOptions(entry: ContainerPlan['tmpfs'][number]): string {
  const execution = entry.executable ? 'exec' : 'noexec';
  return `rw,nosuid,nodev,${execution},size=${entry.bytesMax},nr_inodes=${entry.inodesMax},mode=1777`;
}

export function networkBody(plan: NetworkPlan): unknown {
  return {
    Name: plan.name,
    CheckDuplicate: true,
    Driver: 'bridge',
    Internal: false,
    Attachable: false,
    EnableIPv6: false,
    IPAM: { Driver: 'default', Config: [{ Subnet: plan.subnet, Gateway: plan.gateway }] },
    Options: {
      'com.docker.network.bridge.name': plan.bridge,
      'com.docker.network.bridge.enable_icc': 'false',
    },
    Labels: plan.labels,
  };
}
