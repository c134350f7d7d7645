import { z } from 'zod';

/** What a `node.update` or `node.reboot` op keeps for itself: the slot that was written, and the boot of the machine that is to end. */
export const nodeUpdateArgsSchema = z.object({
  slot: z.enum(['a', 'b']).optional(),
  boot: z.string().max(64).optional(),
});
