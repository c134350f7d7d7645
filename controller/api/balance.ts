import { balanceId } from '../../core/domain/balance.js';
import { capacitySteps, daysUntilFull } from '../../core/decide/plan/capacity.js';
import { placementPolicy, poolUse } from '../../core/decide/plan/fit.js';
import { poolHasNode, type Pool } from '../../core/domain/pool.js';
import { formatSize } from '../../core/domain/units.js';
import type { BalanceAnswer } from '../../core/wire/rest.js';
import { inSlices, outlookOf } from '../plan-view.js';
import type { View } from '../view.js';
import type { ApiDeps, Some } from './context.js';
import { poolOf } from './lookup.js';

/** A plan of the agents that is older than this is not shown as what is, ms: they write it anew every few minutes. */
const planAgeMsMax = 15 * 60_000;

/** What would even the cluster out, and what is done about it. */
export function balanceHandlers({ view, clock }: ApiDeps): Some<'balanceGet' | 'capacityGet'> {
  return {
    async balanceGet() {
      view.freshness();
      const { plan } = view.ledger.policy;
      const record = view.ledger.tables.balance.get(balanceId)?.value;
      const past = [...(record?.past ?? [])].reverse();
      const set = { mode: plan.balance, movesPerHourMax: plan.movesPerHourMax };
      const fresh =
        plan.balance !== 'off' && record !== undefined && clock.wallMs() - record.atMs < planAgeMsMax;
      if (!fresh) {
        const moves = await momentary(view);
        return { body: { ...set, sentence: sentenceOf(moves.length), by: null, atMs: null, moves, past } };
      }
      // What has moved since is not shown as still to be moved.
      const moves = record.moves.filter((m) => view.ledger.tables.vmOwn.get(m.vm)?.value.owner === m.from);
      const { by, atMs, sentence } = record;
      return {
        body: {
          ...set,
          sentence: `${sentence.charAt(0).toUpperCase()}${sentence.slice(1)}.`,
          by,
          atMs,
          moves,
          past,
        },
      };
    },
    async capacityGet({ query }) {
      view.freshness();
      const outlook = outlookOf(view);
      const { cpus, memoryMiB, diskBytes, ha } = query;
      const size = { cpus, memoryMiB: memoryMiB + placementPolicy.vmOverheadMiB, diskMiB: 0 };
      const fit = await inSlices(
        capacitySteps(outlook.cluster, size, { alone: ha === 'false', max: countedMax }),
      );
      const pool = diskBytes === 0 ? null : poolOf(view, query.pool);
      const room = pool === null ? Infinity : Math.floor(freeOf(view, pool) / diskBytes);
      const vms = Math.min(fit, room);
      const points = view.ledger.tables.balance.get(balanceId)?.value.use ?? [];
      const use = outlook.use();
      const now = { atMs: clock.wallMs(), ...use };
      const trend = (of: 'memoryMiB' | 'diskBytes', total: number) => ({
        used: use[of],
        total,
        daysUntilFull:
          points.length < 2
            ? null
            : daysUntilFull(
                [...points, now].map((p) => ({ atMs: p.atMs, used: p[of] })),
                total,
              ),
      });
      const more = vms === countedMax ? `At least ${vms}` : String(vms);
      const kept = ha === 'false' ? '' : ', each with a standby, and all that is promised is kept';
      const limit = vms === countedMax ? '' : room < fit ? `; the pool "${pool?.name}" ends it` : '';
      return {
        body: {
          vms,
          countedMax,
          sentence: `${more} more VMs of ${cpus} CPUs and ${formatSize(memoryMiB * 2 ** 20)} fit${kept}${limit}.`,
          memoryMiB: trend('memoryMiB', use.memoryTotalMiB),
          diskBytes: trend('diskBytes', use.diskTotalBytes),
          points: points.length,
        },
      };
    },
  };
}

/** More VMs than this are not counted: who has so much room does not ask. */
const countedMax = 200;

/** Free bytes of a pool beyond its reserve: of a shared one as any node sees it; else of all its nodes together. */
function freeOf(view: View, pool: Pool): number {
  const free = view.clusterNodes().flatMap((n) => {
    const use = poolHasNode(pool, n.id) ? poolUse(pool, n.pools) : undefined;
    return use?.ok === true ? [Math.max(0, use.freeBytes - (use.totalBytes * pool.reservePct) / 100)] : [];
  });
  return pool.kind === 'shared' ? Math.min(...free, Infinity) : free.reduce((a, b) => a + b, 0);
}

/** By the loads of the moment: nobody has planned by smoothed ones. */
const momentary = (view: View): Promise<BalanceAnswer['moves']> => inSlices(outlookOf(view).balance());

const sentenceOf = (n: number): string =>
  n === 0
    ? 'The cluster is even: no move would gain what it costs.'
    : `${n} ${n === 1 ? 'move' : 'moves'} would even the cluster out.`;
