import { FlotillaError } from '../../core/domain/error.js';
import { vmFields, type VmRow, type VmView } from '../../core/wire/rest.js';
import type { Cell, View } from '../view.js';
import { etagOf } from './commit.js';
import type { ApiDeps, Reply, Some } from './context.js';
import { idOf, notFound } from './lookup.js';
import { opView } from './ops.js';
import { bulkHandlers } from './bulk.js';
import { DiskMoves } from './disk-moves.js';
import { nameKeyOf, page } from './page.js';
import { cloneVm } from './clone.js';
import { Snapshots } from './snapshots.js';
import { VmCopies } from './vm-copies.js';
import { protectionHandlers } from './vm-protection.js';
import { VmMigrations } from './vm-migrate.js';
import { VmWrites, type VmChanged } from './vm-write.js';

type Names =
  | 'vmMigrate'
  | 'vmExport'
  | 'vmMigrateCheck'
  | 'vmProtection'
  | 'vmStandby'
  | 'vmMoveDisk'
  | 'vmRepair'
  | 'vmList'
  | 'vmGet'
  | 'vmCreate'
  | 'cloneCreate'
  | 'vmPatch'
  | 'vmAction'
  | 'vmDelete'
  | 'vmBulk'
  | 'diskList'
  | 'diskGet';

export function vmHandlers(deps: ApiDeps): Some<Names> {
  const { view } = deps;
  const writes = new VmWrites(deps);
  const snapshots = new Snapshots(deps);
  const migrations = new VmMigrations(deps);
  const copies = new VmCopies(deps);
  const moves = new DiskMoves(deps);
  const bulk = bulkHandlers(deps, writes);
  const changed = ({ op, vmId, warnings = [] }: VmChanged): Reply<'vmCreate'> => {
    const vm = view.vm(vmId);
    if (vm === null) throw notFound('vm', vmId);
    return { body: { op: opView(view, op), vm, warnings: [...warnings] }, etag: etagOf(vm.generation) };
  };
  return {
    ...protectionHandlers(deps),
    async vmList({ query: q }) {
      const tag = q.tag?.normalize('NFC');
      const part = q.name?.normalize('NFC').toLocaleLowerCase('en');
      const network = q.network === undefined ? undefined : await idOf(view, 'network', q.network);
      const { vmSpec } = view.ledger.tables;
      const filtered = [q.node, q.phase, q.power, tag, part, network].some((x) => x !== undefined);
      const wanted = (v: VmRow): boolean =>
        (q.node ?? v.node) === v.node &&
        (q.phase ?? v.phase) === v.phase &&
        (q.power ?? v.power) === v.power &&
        (tag === undefined || v.tags.includes(tag)) &&
        (network === undefined || vmSpec.get(v.id)?.value.nics.some((n) => n.network === network) === true) &&
        (part === undefined || nameKeyOf(v).includes(part));
      return page(view, view.list('vm'), q, {
        ...(filtered ? { wanted } : {}),
        ...(q.fields === undefined ? {} : { text: fieldsText(view, q.fields) }),
      });
    },
    async vmGet({ params }) {
      const vm = view.vm(await idOf(view, 'vm', params.vm));
      if (vm === null) throw notFound('vm', params.vm);
      return { body: vm, etag: etagOf(vm.generation) };
    },
    vmCreate: async (ask) => changed(await writes.create(ask)),
    cloneCreate: async (ask) => changed(await cloneVm(deps, writes, ask)),
    vmPatch: async (ask) => changed(await writes.patch(ask)),
    vmBulk: bulk.vmBulk,
    vmAction: async (ask) => changed(await writes.act(ask)),
    vmExport: async (ask) => ({ body: { op: opView(view, await snapshots.pack(ask)) } }),
    vmMigrateCheck: (ask) => migrations.check(ask),
    vmRepair: async (ask) => changed(await copies.repair(ask)),
    vmMoveDisk: async (ask) => changed(await moves.move(ask)),
    vmStandby: async (ask) => changed(await copies.standby(ask)),
    vmMigrate: async (ask) => changed(await migrations.migrate(ask)),
    vmDelete: async (ask) => ({ body: { op: opView(view, await writes.remove(ask)) } }),
    async diskList({ query: q }) {
      const vm = q.vm === undefined ? null : await idOf(view, 'vm', q.vm);
      const pool = q.pool === undefined ? null : await idOf(view, 'pool', q.pool);
      view.freshness();
      const cells = view
        .disks()
        .filter((d) => (vm ?? d.vm) === d.vm && (pool ?? d.pool) === d.pool)
        .map((d) => ({ view: d, json: JSON.stringify(d) }))
        .sort((a, b) => (diskKey(a.view) < diskKey(b.view) ? -1 : 1));
      return page(view, cells, q, { keyOf: diskKey });
    },
    async diskGet({ params }) {
      const find = () => view.disks().find((d) => d.id === params.disk);
      if (find() === undefined) await view.ledger.refresh('disk');
      const disk = find();
      if (disk !== undefined) return { body: disk };
      throw new FlotillaError('not-found', `There is no disk ${params.disk}`, {
        hint: 'See which there are: GET /api/v1/disks.',
      });
    },
  };
}

const diskKey = (d: { vmName: string | null; name: string; id: string }): string =>
  `${d.vmName ?? ''}\u0000${d.name}\u0000${d.id}`;

/** Makes the text of the fields asked for. @throws FlotillaError `unknown-field` */
function fieldsText(view: View, fields: string): (c: Cell<VmRow>) => string {
  const names = fields.split(',').map((f) => f.trim());
  const unknown = names.filter((n) => !vmFields.includes(n as keyof VmView));
  if (unknown.length > 0) {
    throw new FlotillaError('unknown-field', `VMs have no field ${unknown.map((u) => `"${u}"`).join(', ')}`, {
      hint: `There are: ${vmFields.join(', ')}.`,
    });
  }
  const whole = names.some((n) => ['spec', 'own', 'observed', 'disks', 'afterNames', 'problems'].includes(n));
  return (c) => {
    const v: Partial<VmView> = whole ? (view.vm(c.view.id) ?? c.view) : c.view;
    return JSON.stringify(Object.fromEntries(names.map((n) => [n, v[n as keyof VmView]])));
  };
}
