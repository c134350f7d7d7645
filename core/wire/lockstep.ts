import { z } from 'zod';
import { ipv4Schema, idSchema } from '../domain/schema.js';

/** What the agents of two nodes say to each other about machines in lockstep: `POST /v1/lockstep`, with their certificates. */

/**
 * How one side of a pair is, by its own agent. `well`: it runs. `broken`: it lives, and has lost the other one. `lost`: it is gone,
 * frozen, does not answer, or its guest has panicked. `over`: it ended in order, and the ledger is about to say so. `yours`: the twin shall go on in its place.
 */
export const lockstepWordSchema = z.enum(['well', 'broken', 'lost', 'over', 'yours']);
export type LockstepWord = z.output<typeof lockstepWordSchema>;

/** Pairs that two nodes share, at most. */
export const pairsMax = 256;
/** The machine as its owner started it; as libvirt has it, a dozen disks are 20 kB. */
const xmlMax = 64_000;

const wordsSchema = z.array(z.object({ vm: idSchema, word: lockstepWordSchema })).max(pairsMax);

const beatSchema = z.object({
  do: z.literal('beat'),
  /** Which of the asked node's addresses was asked. */
  via: z.number().int().min(0).max(7),
  /** Of the twins that the asking node has of machines of the asked one. */
  words: wordsSchema,
});

const bearSchema = z.object({
  do: z.literal('bear'),
  vm: idSchema,
  /** Generation of the ownership that names the asked node as twin. */
  pair: z.number().int().positive(),
  xml: z.string().max(xmlMax),
});

/** Files of a VM's disks that are not its data are wiped. */
const wipeSchema = z.object({ do: z.literal('wipe'), vm: idSchema });

export const lockstepAskSchema = z.discriminatedUnion('do', [beatSchema, bearSchema, wipeSchema]);
export type LockstepAsk = z.output<typeof lockstepAskSchema>;

const portSchema = z.number().int().min(1).max(65_535);

/**
 * What a primary must reach on its twin's node: QEMU's own ports, all of which it opens. `input`: what its guest receives;
 * `output`: what the twin's guest answers.
 */
export const lockstepDoorSchema = z.object({
  address: ipv4Schema,
  memory: portSchema,
  disk: portSchema,
  input: portSchema,
  output: portSchema,
});
export type LockstepDoor = z.output<typeof lockstepDoorSchema>;

export const lockstepAnswerSchemas = {
  /** Of the asked node's machines that have their twin on the asking one. */
  beat: z.object({ words: wordsSchema }),
  bear: lockstepDoorSchema,
  wipe: z.object({}),
};
export type LockstepAnswers = {
  readonly [K in keyof typeof lockstepAnswerSchemas]: z.output<(typeof lockstepAnswerSchemas)[K]>;
};
