import { errorRecord } from '../../core/domain/error.js';
import type { AgentEnv } from '../env.js';
import type { Snapshot } from '../snapshot.js';

/**
 * Notes in this node's journal of whose VMs it is the standby, and under which generation: with the ledger and the
 * owner both lost, the standby still knows who owned what. Best effort beside the loop; nothing waits for it.
 *
 * Never while a machine of that VM is here: the keeper ends a foreign one because the ledger's generation is above the
 * journal's, and the note would raise that.
 */
export class StandbyNotes {
  private readonly env: AgentEnv;
  private readonly noted = new Map<string, number>();

  constructor(env: AgentEnv) {
    this.env = env;
  }

  /** @param here - whether this node has a machine of that VM, or one is being made */
  look(s: Snapshot, here: (vmId: string) => boolean): void {
    const { node, journal, log } = this.env;
    if (s.meta === null) return;
    for (const id of this.noted.keys()) if (s.owns.get(id)?.value.standby !== node) this.noted.delete(id);
    for (const [id, { value: own }] of s.owns) {
      if (own.standby !== node || own.owner === node || this.noted.get(id) === own.gen || here(id)) continue;
      this.noted.set(id, own.gen);
      const entry = {
        vm: id,
        gen: own.gen,
        role: 'standby' as const,
        owner: own.owner,
        epoch: s.meta.value.epoch,
      };
      void journal.record(entry).catch((e: unknown) => log.warn(`the journal: ${errorRecord(e).message}`));
    }
  }
}
