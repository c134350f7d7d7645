import { opFinished } from '../../core/domain/op.js';
import { resumed, rollingArgs, type RollingArgs } from '../../core/domain/rolling.js';
import { World } from './cluster/world.js';

/** A cluster of three under VMs that run, for work on all its nodes. */

export const names = ['web', 'db', 'mail'];
export const ran = [...names, 'bare'];

export async function cluster(o: { seed?: number; copies?: boolean } = {}): Promise<World> {
  const w = new World({ seed: o.seed ?? 7, nodes: 3, log: true, locks: null, copies: o.copies === true });
  w.boot();
  names.forEach((name, i) => w.createVm(name, `n${i + 1}`));
  w.createVm('off', 'n2', { power: 'stopped' });
  w.createVm('bare', 'n1', { ha: { enabled: false } as never });
  await w.until('all run, protected', () =>
    names.every((name) => {
      const vm = w.vms.get(name) ?? '';
      return w.runsOn(vm).length === 1 && w.own(vm)?.standby !== null;
    }),
  );
  await w.pass(2_000);
  return w;
}

export const starts = (w: World): number =>
  [...w.nodes.values()].reduce((sum, n) => sum + n.host.libvirt.starts.length, 0);
export const boots = (w: World): number[] => [...w.nodes.values()].map((n) => n.host.boots);
export const desired = (w: World, node: string): string =>
  (JSON.parse(w.voters.store.peek(`/flotilla/node/${node}`)?.value ?? '{}') as { desired: string }).desired;
export const states = (w: World, op: string): (string | undefined)[] =>
  rollingArgs(w.op(op))?.nodes.map((n) => n.state) ?? [];

/** Lets it end, and watches that no more nodes are away than may be. @returns what it said on the way */
export async function ended(
  w: World,
  op: string,
  o: { away?: number; limitMs?: number } = {},
): Promise<Set<string>> {
  let most = 0;
  const steps = new Set<string>();
  await w
    .until(
      'the op ends',
      () => {
        steps.add(w.op(op).step);
        most = Math.max(most, [...w.nodes.values()].filter((n) => !n.host.powered).length);
        return opFinished(w.op(op));
      },
      o.limitMs ?? 1_200_000,
    )
    .catch((e: unknown) => {
      throw new Error(`${JSON.stringify(w.op(op))}\n${w.lines.slice(-60).join('\n')}`, { cause: e });
    });
  if (most > (o.away ?? 1)) throw new Error(`${most} nodes were away at once\n${w.lines.join('\n')}`);
  return steps;
}

/** As the API does it where somebody goes on with one that ended. */
export const goOn = (w: World, op: string): string =>
  w.rolling(
    resumed(rollingArgs(w.op(op)) as RollingArgs, (o) => w.ops().some((x) => x.id === o && !opFinished(x))),
  );

export async function atRest(w: World): Promise<void> {
  await w.until('it rests', () => w.checks.resting(), 60_000);
  await w.pass(15_000);
  w.checks.atRest();
}

export const all = ['n1', 'n2', 'n3'];
export const three = ['active', 'active', 'active'];
