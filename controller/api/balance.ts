import { setImmediate as breathe } from 'node:timers/promises';
import { balanceId } from '../../core/domain/balance.js';
import type { BalanceAnswer } from '../../core/wire/rest.js';
import { outlookOf } from '../plan-view.js';
import type { View } from '../view.js';
import type { ApiDeps, Some } from './context.js';

/** A plan of the agents that is older than this is not shown as what is, ms: they write it anew every few minutes. */
const planAgeMsMax = 15 * 60_000;

/** What would even the cluster out, and what is done about it. */
export function balanceHandlers({ view, clock }: ApiDeps): Some<'balanceGet'> {
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
  };
}

/** By the loads of the moment: nobody has planned by smoothed ones. */
async function momentary(view: View): Promise<BalanceAnswer['moves']> {
  const steps = outlookOf(view).balance();
  let beganMs = performance.now();
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done === true) return step.value;
    if (performance.now() - beganMs < sliceMs) continue;
    await breathe();
    beganMs = performance.now();
  }
}

/** Other requests are answered between two slices of a plan, ms. */
const sliceMs = 15;

const sentenceOf = (n: number): string =>
  n === 0
    ? 'The cluster is even: no move would gain what it costs.'
    : `${n} ${n === 1 ? 'move' : 'moves'} would even the cluster out.`;
