import { describe, expect, it } from 'vitest';
import { engineConformance } from '../../test/support/conformance-engine.ts';
import { plansOf } from '../../test/support/launch-fixtures.ts';
import { createFakeEngine } from './fake.ts';

engineConformance('the fake', () => {
  const fake = createFakeEngine();
  const regularFileInImage = { path: '/etc/issue', content: 'a line\n' };
  fake.addImage('ringfence/agent-shell:local', {
    files: ['/bin/sh', '/etc/issue'],
    contents: { '/etc/issue': 'a line\n' },
  });
  return Promise.resolve({
    engine: fake.engine,
    image: 'ringfence/agent-shell:local',
    fileInImage: '/bin/sh',
    regularFileInImage,
    commands: {
      exits: (code) => ['exit', String(code)],
      prints: ({ stdout, stderr }) => ['print', stdout, stderr],
      waits: ['wait'],
      copies: ['copy'],
    },
    removeCgroups: () => Promise.resolve(),
    close: () => Promise.resolve(),
  });
});

describe('the fake engine’s faults', () => {
  async function planned() {
    const fake = createFakeEngine();
    fake.addImage('agent');
    const image = await fake.engine.resolveImage('agent');
    const plans = plansOf({ index: 0, image, engine: await fake.engine.facts(), spec: { command: ['wait'] } });
    await fake.engine.createNetwork(plans.network);
    return { fake, plan: plans.container };
  }

  it('fails once before the effect, then works', async () => {
    const { fake, plan } = await planned();
    fake.faults.fail('createContainer');
    await expect(fake.engine.createContainer(plan)).rejects.toMatchObject({ code: 'ENGINE_FAILED' });
    expect(fake.containers()).toEqual([]);
    await fake.engine.createContainer(plan);
    expect(fake.containers()).toEqual([plan.name]);
  });

  it('loses the reply after the effect', async () => {
    const { fake, plan } = await planned();
    fake.faults.loseReply('createContainer');
    await expect(fake.engine.createContainer(plan)).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE' });
    expect(fake.containers()).toEqual([plan.name]);
  });

  it('holds a call until it is released', async () => {
    const { fake, plan } = await planned();
    const release = fake.faults.hold('createContainer');
    const creating = fake.engine.createContainer(plan);
    await fake.engine.facts();
    expect(fake.containers()).toEqual([]);
    release();
    await creating;
    expect(fake.containers()).toEqual([plan.name]);
  });

  it('runs a program that was added, and shows what somebody changed', async () => {
    const { fake, plan } = await planned();
    fake.addProgram('wait', ({ write }) => {
      write('stdout', 'mine');
      return Promise.resolve(5);
    });
    const id = await fake.engine.createContainer(plan);
    const attached = await fake.engine.attach(id, { tty: false, stdin: false });
    await fake.engine.startContainer(id);
    let text = '';
    for await (const bytes of attached.stdout) text += String(bytes);
    fake.tamper(id, { privileged: true });
    expect({ text, facts: await fake.engine.inspectContainer(id) }).toMatchObject({
      text: 'mine',
      facts: { exitCode: 5, privileged: true },
    });
  });
});
