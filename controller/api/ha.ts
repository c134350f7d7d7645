import { policyDefault, policySchema, type Policy } from '../../core/domain/ha.js';
import { policyKey, readRecord, writeRecord } from '../../core/wire/ledger-keys.js';
import { haView, policyUnset, policyView } from '../ha-view.js';
import { contentMark, type Kept } from '../tables.js';
import { Change, checkIfMatch, commit, etagOf } from './commit.js';
import type { ApiDeps, Reply, Some } from './context.js';

/** The switches of the whole cluster, and high availability at a glance. */
export function haHandlers(deps: ApiDeps): Some<'haGet' | 'policyGet' | 'policyPatch'> {
  const { view } = deps;
  const shown = (kept: { value: Policy; raw: string } | null): Reply<'policyGet'> => {
    const body = policyView(view, kept);
    return { body, etag: etagOf(body.revision) };
  };
  const read = async (): Promise<Kept<Policy> | null> => {
    const e = await deps.ledger.get(policyKey);
    if (e === null) return null;
    const value = readRecord({ schema: policySchema }, policyKey, e.value);
    return { value, raw: e.value, modRevision: e.modRevision };
  };
  return {
    async haGet() {
      return { body: haView(view) };
    },
    async policyGet() {
      view.freshness();
      return shown(await read());
    },
    async policyPatch({ body, ifMatch }) {
      view.freshness();
      return commit(deps, 'The cluster’s policy', async () => {
        const kept = await read();
        checkIfMatch(ifMatch, kept === null ? policyUnset : contentMark(kept), 'The cluster’s policy');
        const before = kept?.value ?? policyDefault;
        const value: Policy = {
          ha: { ...before.ha, ...defined(body.ha) },
          plan: { ...before.plan, ...defined(body.plan) },
          copies: { ...before.copies, ...defined(body.copies) },
        };
        const raw = writeRecord({ schema: policySchema }, value);
        const change = new Change().at(policyKey, kept).write({ put: policyKey, value: raw });
        return { change, answer: () => shown({ value, raw }) };
      });
    },
  };
}

/** What was given of switches; the others stay. */
const defined = (given: object | undefined): object =>
  Object.fromEntries(Object.entries(given ?? {}).filter(([, v]) => v !== undefined));
