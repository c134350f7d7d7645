import { Outlook, type OutlookOptions } from '../../core/decide/outlook.js';
import { presence } from '../../core/domain/node.js';
import type { HeardNode } from '../env.js';
import type { Snapshot } from '../snapshot.js';

/** What this agent read of the ledger and hears on the radio, as decisions about nodes see it. */
export function outlookOf(s: Snapshot, heard: readonly HeardNode[], o: OutlookOptions = {}): Outlook {
  const byNode = new Map(heard.map((h) => [h.node, h]));
  return new Outlook(
    { ...s, live: (node) => s.lives.has(node) },
    {
      node: (id) => {
        const h = byNode.get(id);
        return h === undefined ? undefined : { presence: presence(h.beatAgeMs), state: h.state };
      },
      vm: (id, owner) => byNode.get(owner)?.vms.get(id)?.state ?? null,
    },
    o,
  );
}
