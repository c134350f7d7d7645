import { decideRotation, type RotationStep } from '../../core/decide/ca-rotation.js';
import { rotationArgs, rotationWithoutMax, type RotationArgs } from '../../core/domain/ca-rotation.js';
import type { ClusterMeta } from '../../core/domain/cluster.js';
import { FlotillaError } from '../../core/domain/error.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { CaView } from '../../core/wire/rest.js';
import { certificateSha256 } from '../../agent/pki/bundle.js';
import { certificateInfo } from '../../agent/pki/certificates.js';
import type { View } from '../view.js';
import { Change, commit, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Some } from './context.js';
import { idOf } from './lookup.js';
import { newOp, opView, repeated } from './ops.js';

/** The cluster's CA: which it is, and replacing it, which agents do. */
export function caHandlers(deps: ApiDeps): Some<'caGet' | 'caRotate'> {
  const { view } = deps;
  return {
    async caGet() {
      view.freshness();
      const meta = metaOf(view);
      const op = lastOf(view);
      const step = op === null || opFinished(op) ? null : stepOf(view, meta, op);
      const shown = (pem: string): CaView['ca'] => ({
        sha256: certificateSha256(pem),
        notAfterMs: certificateInfo(pem).notAfterMs,
        pem,
      });
      return {
        body: {
          sentence:
            step === null
              ? 'One CA signs the certificates of all nodes, and is not being replaced.'
              : `The CA is being replaced: ${step.step}.`,
          ca: shown(meta.ca),
          other: meta.otherCa === undefined ? null : shown(meta.otherCa),
          phase: step?.phase ?? null,
          waits: [...(step?.waits ?? [])],
          op: op === null ? null : opView(view, op),
        },
      };
    },
    async caRotate(ask) {
      const without = await Promise.all(ask.body.without.map((n) => idOf(view, 'node', n)));
      const key = ask.idempotencyKey;
      const opId = idFromKey(deps.chance, ask.who, 'caRotate', key);
      const mark = requestMark(ask);
      const op = await commit(deps, 'Replacing the CA', async () => {
        const before = key === null ? null : await repeated(deps, opId, mark);
        if (before !== null) return { change: null, answer: () => before };
        await view.ledger.refresh();
        const voter = without.find((n) => view.ledger.tables.node.get(n)?.value.voter === true);
        if (voter !== undefined)
          throw new FlotillaError('wrong-state', `Node ${voter} votes: it is always waited for`, {
            hint: 'Bring it back, or remove it; one that is gone for ten minutes is replaced as a voter by itself.',
          });
        const meta = metaOf(view);
        const open = openOf(view);
        if (open !== null) {
          const args = rotationArgs(open.value);
          const more = [...new Set([...(args?.without ?? []), ...without])].slice(0, rotationWithoutMax);
          const next: Op = { ...open.value, args: { ...open.value.args, without: more } };
          const change =
            args === null || more.length === args.without.length
              ? null
              : new Change().at(kinds.op.key(next.id), open).put(kinds.op, next.id, next);
          return { change, answer: () => next };
        }
        const args: RotationArgs = { from: certificateSha256(meta.ca), to: null, without, request: mark };
        const made = newOp(deps, {
          id: opId,
          kind: 'cluster.rotate-ca',
          subject: { kind: 'cluster', id: meta.id, name: meta.name },
          node: null,
          who: ask.who,
          args,
        });
        const change = new Change().at(kinds.op.key(opId), null).put(kinds.op, opId, made);
        return { change, answer: () => made };
      });
      return { body: { op: opView(view, op) } };
    },
  };
}

function metaOf(view: View): ClusterMeta {
  const { meta } = view.ledger;
  if (meta !== null) return meta;
  throw new FlotillaError('stale-view', 'The ledger has not been read yet', {
    hint: 'Try again in a moment.',
  });
}

const openOf = (view: View) =>
  [...view.ledger.tables.op.values()].find(
    ({ value: o }) => o.kind === 'cluster.rotate-ca' && !opFinished(o),
  ) ?? null;

function lastOf(view: View): Op | null {
  const all = [...view.ledger.tables.op.values()].flatMap(({ value: o }) =>
    o.kind === 'cluster.rotate-ca' ? [o] : [],
  );
  return openOf(view)?.value ?? all.sort((a, b) => b.createdMs - a.createdMs)[0] ?? null;
}

function stepOf(view: View, meta: ClusterMeta, op: Op): RotationStep | null {
  const args = rotationArgs(op);
  if (args === null) return null;
  const { node, live, trust } = view.ledger.tables;
  return decideRotation({
    args,
    cancelAsked: op.cancelAsked,
    ca: certificateSha256(meta.ca),
    otherCa: meta.otherCa === undefined ? null : certificateSha256(meta.otherCa),
    nodes: [...node.values()].map(({ value: n }) => ({
      id: n.id,
      voter: n.voter,
      live: live.has(n.id),
      says: trust.get(n.id)?.value ?? null,
    })),
    settledMs: 0,
  });
}
