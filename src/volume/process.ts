import { messageOf, RingfenceError } from '../core/errors.ts';
import { perform, type MountAct } from './mounting.ts';

/** One act, as `hands.ts` orders it, in a process that systemd starts among the mounts of the host. */
try {
  await perform(JSON.parse(Buffer.from(process.argv[2] ?? '', 'base64url').toString()) as MountAct);
} catch (error) {
  const { code, hint } = error instanceof RingfenceError ? error : { code: 'HOST_CANNOT_ENFORCE', hint: undefined };
  process.stdout.write(`${JSON.stringify({ code, detail: messageOf(error), hint })}\n`);
  process.exitCode = 1;
}
