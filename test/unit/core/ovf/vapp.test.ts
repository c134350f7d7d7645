import t from 'tap';
import { planImport } from '../../../../core/ovf/plan.js';
import { vappOf } from '../../../../core/ovf/vapp.js';
import { vappDocSchema } from '../../../../core/wire/rest.js';
import { fixture, packageOf, read } from './read.js';

const planned = (source: string) => {
  const p = read(source);
  const plan = planImport(p, {
    networks: new Map(p.networks.map((n) => [n.name, `our ${n.name}`])),
    prefix: '',
    present: new Set(p.files.map((f) => f.id)),
    tag: 'x',
  });
  return vappDocSchema.parse(vappOf(p, plan, plan.vms, 'shop'));
};

void t.test('a collection becomes a vApp: members in their order, nested ones, networks, licences', (t) => {
  const p = read(fixture('three-tier.ovf'));
  const doc = planned(fixture('three-tier.ovf'));
  const flat = (m: typeof doc.members): string[] =>
    Object.entries(m).flatMap(([name, x]) => (x.vapp === undefined ? [name] : flat(x.vapp.members)));
  t.equal(flat(doc.members).length, p.systems.length, 'no system is lost');
  t.equal(
    Object.values(doc.members).filter((m) => m.vapp !== undefined).length,
    p.collections.length - 1,
    'the outermost collection is the vApp',
  );
  t.equal(doc.eulas?.length, Math.min(8, p.eulas.length));
  for (const m of Object.values(doc.members))
    for (const n of m.vm?.nics ?? []) t.ok(doc.networks?.[n.network], 'NICs name networks of the vApp');
  for (const s of p.startOrder) {
    const found = JSON.stringify(doc.members);
    t.match(found, `"order":${s.order}`);
  }
  t.end();
});

void t.test('names that are the same when they are made short', (t) => {
  const doc = planned(packageOf({}));
  t.strictSame(Object.keys(doc.members), ['vm']);
  t.end();
});
