import { z } from 'zod';

/** What a `node.update` op keeps for itself: the slot that was written, and the boot of the machine in which it was. */
export const nodeUpdateArgsSchema = z.object({
  slot: z.enum(['a', 'b']).optional(),
  boot: z.string().max(64).optional(),
});
