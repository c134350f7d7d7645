import t from 'tap';
import { opFinished } from '../../core/domain/op.js';
import { templateVmMember, type Template } from '../../core/domain/template.js';
import { vappStartDefault, vappStopDefault, type Vapp } from '../../core/domain/vapp.js';
import type { VmSnapshot } from '../../core/domain/vm-snapshot.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { Death } from './cluster/time.js';
import { World } from './cluster/world.js';
import { records, vappOf } from './vapps.js';

/** A template is made of a VM while agents die at each of their acts, outlives that VM, and a vApp is made of it. */

const id = '00000000-0000-4000-8000-0000000000cc';
const snapshot = '00000000-0000-4000-8000-0000000000cd';
const made = '00000000-0000-4000-8000-0000000000ce';

async function cluster(): Promise<{ w: World; vm: string; template: Template }> {
  const w = new World({ seed: 13, nodes: 3, log: true, locks: null });
  w.boot();
  await w.pass(25_000);
  const vm = w.createVm('golden', 'n2', { power: 'stopped', ha: { enabled: false } as never });
  await w.pass(3_000);
  return {
    w,
    vm,
    template: {
      id,
      name: 'golden',
      note: '',
      tags: [],
      of: { kind: 'vm', name: 'golden' },
      document: {},
      begins: [{ member: templateVmMember, from: { vm, snapshot, linked: false, keep: true } }],
      state: 'making',
      createdMs: 0,
    },
  };
}

function vapp(w: World, vm: string, linked: boolean): Vapp {
  return vappOf(id, 'second', [
    {
      name: templateVmMember,
      group: null,
      vm: made,
      start: vappStartDefault,
      stop: vappStopDefault,
      make: {
        name: 'second',
        memoryMiB: 128,
        stopTimeoutS: 10,
        disks: [{ name: 'root', pool: w.sharedPool }],
      },
      from: { vm, snapshot, linked, keep: true },
      leaving: false,
    },
  ]);
}

await t.test('it outlives its VM; what is made of it runs, and its data stay', async (t) => {
  const { w, vm, template } = await cluster();
  const op = w.makeTemplate(template);
  await w.until('it is made', () => opFinished(w.op(op)), 120_000);
  t.match(w.op(op), { state: 'done', error: null });
  t.match(records<Template>(w, kinds.template.prefix), [{ state: 'ready' }]);
  t.match(records<VmSnapshot>(w, kinds.vmSnapshot.prefix), [{ id: snapshot, state: 'ready', template: id }]);
  w.deleteVm(vm);
  await w.until('the VM is gone', () => w.voters.store.peek(kinds.vmSpec.key(vm)) === null, 120_000);
  t.match(records<VmSnapshot>(w, kinds.vmSnapshot.prefix), [{ state: 'ready' }], 'its data are not the VM’s');
  const deploy = w.deployVapp(vapp(w, vm, false), true);
  await w.until('it is deployed', () => opFinished(w.op(deploy)), 200_000);
  t.match(w.op(deploy), { state: 'done', error: null }, w.lines.slice(-20).join('\n'));
  t.equal(w.runsOn(made).length, 1);
  t.match(records<VmSnapshot>(w, kinds.vmSnapshot.prefix), [{ state: 'ready' }], 'its data stay');
  t.same(w.checks.violations, []);
  w.end();
});

await t.test('cancelled, or its VM gone: nothing is left of it', async (t) => {
  for (const how of ['cancelled', 'failed'] as const) {
    const { w, vm, template } = await cluster();
    const op = w.makeTemplate(template);
    if (how === 'cancelled') w.cancel(op);
    else {
      w.vms.delete('golden');
      for (const e of w.voters.store.peekAll('/flotilla/vm/'))
        if (e.key.includes(vm)) w.voters.store.drop(e.key);
    }
    await w.until('it ends', () => opFinished(w.op(op)), 120_000);
    t.equal(w.op(op).state, how);
    await w.until('nothing is left', () => w.pool.snapshots.size === 0, 60_000);
    t.same(
      ['template', 'snapshot', 'name/template'].flatMap((p) => records(w, `/flotilla/${p}/`)),
      [],
      how,
    );
    w.end();
  }
});

await t.test('agents die at each of their acts: another one goes on', async (t) => {
  const life = async (death: { who: string; n: number; when: Death['when'] } | null) => {
    const { w, template } = await cluster();
    const node = w.node(death?.who ?? 'n2');
    const before = node.agent?.acts ?? 0;
    if (death !== null) node.dieAt('agent', death.n, death.when);
    const op = w.makeTemplate(template);
    await w.until('it ends', () => opFinished(w.op(op)), 300_000);
    const end = {
      state: w.op(op).state,
      snapshots: records<VmSnapshot>(w, kinds.vmSnapshot.prefix).map((x) => x.state),
      volumes: w.pool.snapshots.size,
      violations: w.checks.violations.length,
    };
    const acts = (node.agent?.acts ?? 0) - before;
    w.end();
    return { end, acts };
  };
  const well = { state: 'done', snapshots: ['ready'], volumes: 1, violations: 0 };
  for (const who of ['n1', 'n2']) {
    const { acts } = await life(null);
    for (let n = 0; n < Math.min(acts, 60); n += 4)
      for (const when of ['before', 'after'] as const)
        t.same((await life({ who, n, when })).end, well, `${who}, act ${n}, ${when}`);
  }
});
