import { setImmediate as breathe } from 'node:timers/promises';
import { Outlook, type OutlookOptions } from '../core/decide/outlook.js';
import type { View } from './view.js';

/** Ledger and radio as decisions about nodes see them. */
export function outlookOf(view: View, o: OutlookOptions = {}): Outlook {
  const t = view.ledger.tables;
  return new Outlook(
    {
      nodes: t.node,
      specs: t.vmSpec,
      owns: t.vmOwn,
      disks: t.disk,
      pools: t.pool,
      images: t.image,
      networks: t.network,
      ops: t.op,
      rules: t.rule,
      vapps: t.vapp,
      policy: view.ledger.policy,
      live: (node) => view.isLive(node),
    },
    {
      node: (id) => ({ presence: view.presenceOf(id), state: view.stateOf(id) }),
      vm: (id, owner) => view.saidOf(id, owner),
    },
    o,
  );
}

/** Runs a plan, with other requests answered meanwhile. */
export async function inSlices<T>(steps: Generator<undefined, T>): Promise<T> {
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
