import { FlotillaError } from '../../core/domain/error.js';
import { fencingDeviceView } from '../../core/domain/fencing.js';
import type { Fenced } from '../../core/domain/ha.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { Change, checkIfMatch, commit, etagOf, fresh } from './commit.js';
import type { ApiDeps, Some } from './context.js';
import { idOf, notFound } from './lookup.js';

type Names = 'bmcGet' | 'bmcPut' | 'bmcDelete' | 'bmcTest' | 'bmcTestGet' | 'nodeConfirmOff';

/** How nodes are powered off from outside, and the word of a person that one is. */
export function fencingHandlers(deps: ApiDeps): Some<Names> {
  const { view } = deps;
  const none = (node: string): FlotillaError =>
    new FlotillaError('not-found', `Node ${node} has no fencing device`, {
      hint: `Set one: flotilla node bmc set ${node} --kind ipmi --address … --user … --password-file FILE.`,
    });
  // Its revision, not a mark of its content: that would let somebody try passwords against it.
  const tag = (kept: { modRevision: bigint } | null): string => String(kept?.modRevision ?? 'unset');

  return {
    async bmcGet({ params }) {
      const id = await idOf(view, 'node', params.node);
      const kept = await fresh(deps, kinds.bmc, id);
      const body = kept === null ? null : fencingDeviceView(kept.value);
      return { body, etag: etagOf(tag(kept)) };
    },
    async bmcPut({ params, body, ifMatch }) {
      const id = await idOf(view, 'node', params.node);
      const what = `The fencing device of node ${id}`;
      await commit(deps, what, async () => {
        const node = await fresh(deps, kinds.node, id);
        if (node === null) throw notFound('node', id);
        // What cannot be read is replaced, too: nobody could mend it otherwise.
        const kept = await deps.ledger.get(kinds.bmc.key(id));
        checkIfMatch(ifMatch, tag(kept), what);
        const change = new Change()
          .at(kinds.node.key(id), node)
          .at(kinds.bmc.key(id), kept)
          .put(kinds.bmc, id, body)
          // What was tried was another one.
          .del(kinds.bmcTest.key(id));
        return { change, answer: () => undefined };
      });
      const now = await fresh(deps, kinds.bmc, id);
      const mine = now?.raw === writeRecord(kinds.bmc, body);
      return { body: fencingDeviceView(body), ...(mine ? { etag: etagOf(tag(now)) } : {}) };
    },
    async bmcDelete({ params, ifMatch }) {
      const id = await idOf(view, 'node', params.node);
      const what = `The fencing device of node ${id}`;
      return commit(deps, what, async () => {
        const kept = await deps.ledger.get(kinds.bmc.key(id));
        if (kept === null) throw none(id);
        checkIfMatch(ifMatch, tag(kept), what);
        const change = new Change()
          .at(kinds.bmc.key(id), kept)
          .del(kinds.bmc.key(id))
          .del(kinds.bmcTest.key(id));
        return { change, answer: () => ({ body: null }) };
      });
    },
    async bmcTest({ params, who }) {
      const id = await idOf(view, 'node', params.node);
      return commit(deps, `The try of the BMC of node ${id}`, async () => {
        const kept = await deps.ledger.get(kinds.bmc.key(id));
        if (kept === null) throw none(id);
        const test = { node: id, askedMs: deps.clock.wallMs(), askedBy: who.slice(0, 128), result: null };
        const change = new Change().at(kinds.bmc.key(id), kept).put(kinds.bmcTest, id, test);
        return { change, answer: () => ({ body: test }) };
      });
    },
    async bmcTestGet({ params }) {
      const id = await idOf(view, 'node', params.node);
      const kept = await fresh(deps, kinds.bmcTest, id);
      return { body: kept?.value ?? null };
    },
    async nodeConfirmOff({ params, who }) {
      const id = await idOf(view, 'node', params.node);
      return commit(deps, `The proof that node ${id} is off`, async () => {
        // An absence is read here and compared below; what cannot be read is there all the same.
        const [live, seen, before] = await Promise.all([
          deps.ledger.get(kinds.live.key(id)),
          deps.ledger.get(kinds.seen.key(id)),
          deps.ledger.get(kinds.fenced.key(id)),
        ]);
        if (live !== null) {
          throw new FlotillaError('wrong-state', `Node ${id} is alive: it holds its lease in the ledger`, {
            hint: 'Its lease ends a few seconds after its power does. Switch it off first, then confirm it.',
          });
        }
        if (view.presenceOf(id) === 'here') {
          throw new FlotillaError(
            'wrong-state',
            `Node ${id} is not off: it was heard just now on the radio`,
            {
              hint: 'It has lost the ledger, not its power. Pull its power; a few seconds later it can be confirmed.',
            },
          );
        }
        const fenced: Fenced = {
          node: id,
          seenRevision: String(seen?.modRevision ?? 0n),
          how: 'person',
          by: who.slice(0, 128),
          atMs: deps.clock.wallMs(),
        };
        const change = new Change()
          .at(kinds.live.key(id), null)
          .at(kinds.seen.key(id), seen)
          .at(kinds.fenced.key(id), before)
          .put(kinds.fenced, id, fenced);
        return { change, answer: () => ({ body: { fenced, vms: vmsOf(id) } }) };
      });
    },
  };

  function vmsOf(node: string): { vm: string; name: string; standby: string | null }[] {
    const { vmOwn, vmSpec } = view.ledger.tables;
    return [...vmOwn].flatMap(([vm, { value: own }]) => {
      const spec = vmSpec.get(vm)?.value;
      if (own.owner !== node || spec?.ha.enabled !== true) return [];
      return [{ vm, name: spec.name, standby: own.standby }];
    });
  }
}
