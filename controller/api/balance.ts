import { setImmediate as breathe } from 'node:timers/promises';
import { evenOut } from '../../core/decide/plan/even.js';
import type { MigrateCheck } from '../../core/decide/migrate-check.js';
import { outlookOf } from '../plan-view.js';
import type { ApiDeps, Some } from './context.js';

/** What would even the cluster out. */
export function balanceHandlers({ view }: ApiDeps): Some<'balanceGet'> {
  return {
    async balanceGet() {
      view.freshness();
      const outlook = outlookOf(view);
      const { vmSpec, vmOwn } = view.ledger.tables;
      const moves = outlook.moves();
      const ids = new Map([...vmSpec].map(([id, k]) => [k.value.name, id]));
      const checks = new Map<string, MigrateCheck | null>();
      const checkOf = (name: string): MigrateCheck | null => {
        const known = checks.get(name);
        if (known !== undefined) return known;
        const id = ids.get(name) ?? '';
        const [spec, own] = [vmSpec.get(id)?.value, vmOwn.get(id)?.value];
        const phase = view.vm(id)?.phase ?? 'unknown';
        const check =
          spec === undefined || own?.state !== 'running'
            ? null
            : outlook.check(spec, own, { node: null, phase, moves });
        checks.set(name, check);
        return check;
      };
      const steps = evenOut(outlook.cluster, (vm, node) => {
        const c = checkOf(vm);
        return c !== null && c.blockers.length === 0 && !c.nodes.some((n) => n.node === node);
      });
      let step = steps.next();
      for (; step.done !== true; step = steps.next()) await breathe();
      const found = step.value.map(({ vm, ...m }) => ({ vm: ids.get(vm) ?? '', name: vm, ...m }));
      const n = found.length;
      return {
        body: {
          sentence:
            n === 0
              ? 'The cluster is even: no move would gain what it costs.'
              : `${n} ${n === 1 ? 'move' : 'moves'} would even the cluster out.`,
          moves: found,
        },
      };
    },
  };
}
