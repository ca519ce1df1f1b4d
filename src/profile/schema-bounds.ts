import { z } from 'zod';
import { bitRate, byteRate, duration, listOf, size, text, wholeNumber } from './fields.ts';
import { parseDenials } from './values.ts';

/** The part of the schema that bounds a run: levels under `limits`, amounts under `budget`. */
export const BYTES_MAX = 2 ** 50;
export const TIME_MS_MAX = 366 * 86_400_000;
// Less, and the engine refuses the container.
const MEMORY_BYTES_MIN = 6 * 2 ** 20;
const DENIALS_MUST = 'must be a count, or a count within a time, such as 20/1m';

/** A card without an id of its own goes by its place on the bus. */
const GPU_ID = /^(?:(?:GPU|MIG)-[0-9A-Za-z-]{1,64}|pci:[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])$/;

const gpu = z
  .strictObject({
    count: wholeNumber({ min: 1, max: 64 })
      .optional()
      .meta({ description: 'How many whole GPUs, all of one vendor.', examples: [1] }),
    vendor: z
      .enum(['nvidia', 'amd', 'intel'])
      .optional()
      .meta({
        description: 'Whose GPUs count takes. Left out: NVIDIA’s where enough are free, else AMD’s, else Intel’s.',
        examples: ['amd'],
      }),
    devices: listOf(text({ pattern: GPU_ID, must: 'must be the id of a device, GPU-…, MIG-… or pci:0000:03:00.0' }), 64)
      .min(1)
      .optional()
      .meta({
        description: 'These GPUs and no other, by id.',
        examples: [['GPU-8a3b0e2c-5f0e-4d7e-9b1a-2f1f6a1f0c11']],
      }),
    mig: text({ pattern: /^[1-9]g\.[1-9][0-9]{0,3}gb$/, must: 'must be the name of a MIG slice, such as 1g.10gb' })
      .optional()
      .meta({ description: 'One slice of a GPU, by its MIG profile.', examples: ['1g.10gb'] }),
    memory: size({ min: 2 ** 20, max: BYTES_MAX })
      .optional()
      .meta({
        description: 'GPU memory the run may hold.',
        examples: ['8GiB'],
      }),
    share: z.boolean().default(false).meta({ description: 'Whether other runs may use the same device.' }),
  })
  .meta({ description: 'GPUs of the run: exactly one of count, devices and mig. Left out: none.' });

export const limits = z
  .strictObject({
    cpu: z
      .number()
      .min(0.01)
      .max(1024)
      .refine((cores) => Number.isInteger(Math.round(cores * 1e6) / 1e3), 'must have at most three decimals')
      .meta({ description: 'CPU cores.', examples: [1.5] }),
    memory: size({ min: MEMORY_BYTES_MIN, max: BYTES_MAX }).meta({
      description: 'Memory; swap counts, and so does everything in /tmp.',
      examples: ['1GiB'],
    }),
    onOom: z
      .enum(['agent', 'process'])
      .default('agent')
      .meta({ description: 'What ends when memory runs out: the whole agent, or the process that the kernel picks.' }),
    pids: wholeNumber({ min: 1, max: 4_194_304 }).meta({
      description: 'Processes and threads together.',
      examples: [128],
    }),
    disk: size({ min: 2 ** 20, max: BYTES_MAX })
      .default('64MiB')
      .meta({
        description: 'Everything writable outside mounts: the root is read-only, /tmp has this size.',
        examples: ['2GiB'],
      }),
    files: wholeNumber({ min: 16, max: 1_048_576 }).default(1024).meta({
      description: 'Open files of one process.',
    }),
    bandwidth: bitRate()
      .optional()
      .meta({ description: 'Network rate, both directions.', examples: ['20Mbit/s'] }),
    io: byteRate()
      .optional()
      .meta({ description: 'Disk rate, reads and writes.', examples: ['50MiB/s'] }),
    gpu: gpu.optional(),
  })
  .meta({ description: 'Levels: the kernel holds these at every moment.' });

export const budget = z
  .strictObject({
    wall: duration({ min: 1000, max: TIME_MS_MAX }).meta({ description: 'Time from start to end.', examples: ['30m'] }),
    cpu: duration({ min: 100, max: TIME_MS_MAX })
      .optional()
      .meta({
        description: 'CPU time of every process of the run.',
        examples: ['20m'],
      }),
    gpu: duration({ min: 1000, max: TIME_MS_MAX })
      .optional()
      .meta({
        description: 'GPU-seconds, integrated from utilisation.',
        examples: ['10m'],
      }),
    egress: size({ min: 1024, max: BYTES_MAX })
      .optional()
      .meta({
        description: 'Bytes out, counted and cut off in the kernel.',
        examples: ['200MiB'],
      }),
    ingress: size({ min: 1024, max: BYTES_MAX })
      .optional()
      .meta({ description: 'Bytes in.', examples: ['1GiB'] }),
    connections: wholeNumber({ min: 1, max: 1_000_000_000 })
      .optional()
      .meta({
        description: 'New connections over the run.',
        examples: [2000],
      }),
    denials: z
      .union([wholeNumber({ min: 0, max: 1_000_000 }), text({ must: DENIALS_MUST, check: parseDenials })], {
        error: DENIALS_MUST,
      })
      .optional()
      .meta({
        description: 'Refused attempts to leave; 0 means the first one is a breach. `20/1m`: so many within that time.',
        examples: ['20/1m'],
      }),
  })
  .meta({ description: 'Amounts used up over a run: crossing one is a breach.' });
