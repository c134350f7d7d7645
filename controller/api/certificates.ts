import type { CertificateRecord } from '../../core/domain/certificate.js';
import { FlotillaError } from '../../core/domain/error.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { CertificateView } from '../../core/wire/rest.js';
import type { View } from '../view.js';
import { Change, commit, fresh } from './commit.js';
import type { ApiDeps, Reply, Some } from './context.js';
import { notFound } from './lookup.js';
import { pageOfViews } from './page.js';

/** Certificates of nodes: which there are, and revoking one. */
export function certificateHandlers(deps: ApiDeps): Some<'certificateList' | 'certificateRevoke'> {
  const { view } = deps;
  return {
    async certificateList({ query }) {
      view.freshness();
      const all = [...view.ledger.tables.cert.values()].map((k) => shown(view, k.value));
      all.sort((a, b) => (sortKey(a) < sortKey(b) ? -1 : 1));
      return pageOfViews(view, all, query, sortKey);
    },
    async certificateRevoke({ params: { serial }, body }) {
      return commit(deps, `Certificate ${serial}`, async () => {
        const kept = await fresh(deps, kinds.cert, serial);
        if (kept === null) throw notFound('certificate', serial);
        const answer = (c: CertificateRecord) => (): Reply<'certificateRevoke'> => ({ body: shown(view, c) });
        if (kept.value.revoked !== null) return { change: null, answer: answer(kept.value) };
        if (shown(view, kept.value).member && !body.force) {
          throw new FlotillaError(
            'in-use',
            `The certificate ${serial} is of node ${kept.value.node}, a node of the cluster`,
            {
              hint: `Remove the node: flotilla node remove ${kept.value.node}. Or cut it off as it is, with its VMs: --force.`,
            },
          );
        }
        const next = revoked(kept.value, 'by-hand', deps.clock.wallMs());
        const change = new Change().at(kinds.cert.key(serial), kept).put(kinds.cert, serial, next);
        return { change, answer: answer(next) };
      });
    },
  };
}

export const revoked = (
  c: CertificateRecord,
  why: 'removed' | 'by-hand',
  wallMs: number,
): CertificateRecord => ({ ...c, pem: null, revoked: { atMs: wallMs, why } });

function shown(view: View, { pem: _, serial, ...c }: CertificateRecord): CertificateView {
  const member = view.ledger.tables.node.get(c.node)?.value.fingerprint === c.fingerprint;
  return { ...c, id: serial, member: member && c.revoked === null };
}

const sortKey = (c: CertificateView): string => `${c.node} ${c.id}`;
