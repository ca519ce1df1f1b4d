import { createDockerEngine } from '../../src/engine/docker.ts';
import { removeRunCgroup } from '../../src/meter/cgroup.ts';
import { engineConformance } from '../support/conformance-engine.ts';

const SHELL_IMAGE = 'ringfence/agent-shell:local';

engineConformance('Docker', () => {
  const engine = createDockerEngine({ host: process.env['DOCKER_HOST'] ?? 'unset' });
  const shell = (script: string): readonly string[] => ['/bin/sh', '-c', script];
  return Promise.resolve({
    engine,
    image: SHELL_IMAGE,
    fileInImage: '/bin/sh',
    // As every Debian has it.
    regularFileInImage: { path: '/etc/host.conf', content: 'multi on\n' },
    commands: {
      exits: (code) => shell(`exit ${code}`),
      prints: ({ stdout, stderr }) => ['/bin/sh', '-c', 'printf %s "$0"; printf %s "$1" >&2', stdout, stderr],
      waits: shell('trap "exit 143" TERM; echo ready; while :; do sleep 0.05; done'),
      copies: ['/bin/cat'],
    },
    removeCgroups: (runId) => removeRunCgroup(runId),
    close: () => Promise.resolve(engine.close()),
  });
});
