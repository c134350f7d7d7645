import { newcomerNotes } from '../../core/decide/newcomer.js';
import { FlotillaError } from '../../core/domain/error.js';
import { ipv4Schema, parse } from '../../core/domain/schema.js';
import { makeToken } from '../../agent/pki/tokens.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import { Change, commit } from './commit.js';
import type { ApiDeps, Some } from './context.js';
import { joinText } from './tokens.js';

/** The token of one admission lives so long, ms: the node uses it at once. */
const admitTtlMs = 5 * 60_000;

/** Nodes that are in no cluster yet: who waits, and admitting one. */
export function pendingHandlers(deps: ApiDeps): Some<'pendingList' | 'pendingGet' | 'pendingAdmit'> {
  const { view, pending } = deps;
  const addressOf = (text: string): string => parse(ipv4Schema, text, 'the address');
  return {
    async pendingList() {
      const known = new Set([...view.ledger.tables.node.values()].map((n) => n.value.fingerprint));
      return { body: { items: pending.heard().filter((p) => !known.has(p.fingerprint)) } };
    },
    async pendingGet({ params }) {
      const { machine, ...seen } = await pending.look(addressOf(params.address));
      if (machine === undefined) return { body: seen };
      const facts = [...view.ledger.tables.node.keys()].flatMap((id) => view.stateOf(id)?.facts ?? []);
      const networks = [...view.ledger.tables.network.values()].map((n) => n.value);
      return { body: { ...seen, notes: newcomerNotes(machine, facts, networks) } };
    },
    async pendingAdmit({ params, body, who }) {
      const address = addressOf(params.address);
      view.freshness();
      const seen = await pending.look(address);
      if (seen.fingerprint !== body.fingerprint) {
        throw new FlotillaError('wrong-certificate', `The machine at ${address} has another key`, {
          hint: 'Compare the fingerprint with the one on its console. It was sent nothing.',
        });
      }
      const { record, secret, writes } = makeToken(
        { kind: 'join', name: null, ttlMs: admitTtlMs, uses: 1 },
        deps.clock.wallMs(),
      );
      await commit(deps, `The admission of ${seen.name}`, async () => {
        const change = new Change()
          .at(kinds.token.key(record.id), null)
          .at(unique.name('token', record.name), null);
        for (const w of writes) change.write(w);
        return { change, answer: () => undefined };
      });
      try {
        const token = joinText(view, { id: record.id, secret });
        const node = await pending.adopt(address, body.fingerprint, token);
        deps.log.info('admitted a node', { node, address, by: who });
        return { body: { node } };
      } finally {
        // Used or not, nobody needs it any more; one that cannot be taken back now expires soon.
        await forget(record.id);
      }
    },
  };

  async function forget(id: string): Promise<void> {
    await commit(deps, `The token ${id}`, async () => {
      await view.ledger.refresh('token');
      const kept = view.ledger.tables.token.get(id);
      const change = new Change();
      if (kept !== undefined)
        change
          .at(kinds.token.key(id), kept)
          .del(kinds.token.key(id))
          .del(unique.name('token', kept.value.name));
      return { change, answer: () => undefined };
    }).catch(() => undefined);
  }
}
