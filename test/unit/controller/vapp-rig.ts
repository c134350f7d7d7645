import { newSnapshot } from '../../../core/decide/vm-snapshot.js';
import type { Disk } from '../../../core/domain/disk.js';
import type { Template } from '../../../core/domain/template.js';
import type { Vapp } from '../../../core/domain/vapp.js';
import type { VmOwn, VmSpec } from '../../../core/domain/vm.js';
import type { VmSnapshot } from '../../../core/domain/vm-snapshot.js';
import { ledger as kinds } from '../../../core/wire/ledger-keys.js';
import type { Rig } from './rig.js';

export const recordsOf = <T>(r: Rig, prefix: string): T[] =>
  r.memory.peekAll(prefix).map((e) => JSON.parse(e.value) as T);

export const namedOf = <T>(r: Rig, prefix: string, name: string): T | undefined =>
  recordsOf<T & { name: string }>(r, prefix).find((x) => x.name === name);

/** All that is under way is called done, and the view has it. */
async function allDone(r: Rig): Promise<void> {
  for (const e of r.memory.peekAll(kinds.disk.prefix))
    r.memory.poke(
      e.key,
      JSON.stringify({ ...(JSON.parse(e.value) as object), state: 'ready', madeBytes: 2 ** 30 }),
    );
  for (const e of r.memory.peekAll(kinds.op.prefix))
    r.memory.poke(e.key, JSON.stringify({ ...(JSON.parse(e.value) as object), state: 'done' }));
  await r.view.ledger.refresh();
  r.view.fold();
}

/** A vApp whose VMs there are, as if the agents had made them. @param body - of the request that makes it */
export async function wholeVapp(
  r: Rig,
  body: {
    readonly document: { readonly name: string; readonly [key: string]: unknown };
    readonly [key: string]: unknown;
  },
): Promise<Vapp> {
  const applied = await r.call('POST', '/api/v1/vapps', body);
  if (applied.status !== 202) throw new Error(JSON.stringify(applied.body));
  const v = namedOf<Vapp>(r, kinds.vapp.prefix, body.document.name);
  if (v === undefined) throw new Error('there is no vApp');
  for (const m of v.members) {
    const { name, nics, disks, cloudInit } = m.make as Record<string, object>;
    const vm = { name, memoryMiB: 128, nics, disks, cloudInit };
    m.vm = ((await r.call('POST', '/api/v1/vms', vm)).body as { vm: { id: string } }).vm.id;
    m.make = null;
  }
  r.memory.poke(kinds.vapp.key(v.id), JSON.stringify(v));
  await allDone(r);
  return v;
}

/** A template as the agents leave it: its data are snapshotted, and it is ready. */
export async function finishTemplate(r: Rig, name: string): Promise<void> {
  const template = namedOf<Template>(r, kinds.template.prefix, name);
  if (template === undefined) throw new Error(`there is no template ${name}`);
  for (const { from } of template.begins) {
    const [spec, own] = ['spec', 'own'].map(
      (k) => JSON.parse(r.memory.peek(`/flotilla/vm/${from.vm}/${k}`)?.value ?? 'null') as unknown,
    );
    const taken = newSnapshot(
      {
        spec: spec as VmSpec,
        own: own as VmOwn,
        disks: recordsOf<Disk>(r, kinds.disk.prefix)
          .filter((d) => d.vm === from.vm)
          .map((d) => ({ ...d, state: 'ready', madeBytes: 2 ** 30 })),
        pool: (p) => JSON.parse(r.memory.peek(kinds.pool.key(p))?.value ?? 'null') as never,
        snapshots: [],
      },
      {
        id: from.snapshot,
        name: 'x',
        note: '',
        consistency: 'auto',
        keptFor: [],
        nowMs: 0,
        newId: () => '00000000-0000-4000-8000-0000000000d1',
      },
    );
    const disks = taken.disks.map((d) => ({ ...d, usedBytes: 2 ** 20 }));
    const x: VmSnapshot = { ...taken, disks, state: 'ready', template: template.id };
    r.memory.poke(kinds.vmSnapshot.key(x.id), JSON.stringify(x));
  }
  r.memory.poke(kinds.template.key(template.id), JSON.stringify({ ...template, state: 'ready' }));
  await allDone(r);
}
