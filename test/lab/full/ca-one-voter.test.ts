import t from 'tap';
import type { Op } from '../../../core/domain/op.js';
import type { NodeView } from '../../../core/wire/rest-objects.js';
import { Drills } from '../drill.js';

/** The CA of two nodes, whose ledger has one voter: it is away while etcd starts anew, and nothing else happens. */

const d = await Drills.up({ id: 'flca1', net: '10.63.0', guestNet: '10.63.100', nodes: 2, timing: 'lab' });
const { c, lab } = d;
t.teardown(() => d.down());

const ca = '/var/lib/flotilla/pki/ca.crt';

await t.test('with one voter: the CA is replaced, and a VM with HA goes on in the same boot', async (t) => {
  const nodes = (await c.get<{ items: NodeView[] }>('nodes')).body.items;
  t.equal(nodes.filter((n) => n.record.voter).length, 1);
  await d.witness('web', 'n2');
  const boot = d.bootOf('web');
  const before = await lab.sh('n2', `openssl x509 -in ${ca} -noout -fingerprint -sha256`);
  const { op } = await c.must<{ op: Op }>('POST', 'ca/actions/rotate', {});
  const learning = setInterval(() => void c.learnCa().catch(() => undefined), 5_000);
  const end = await c.opEnd(op, 900_000).finally(() => clearInterval(learning));
  await c.learnCa();
  t.match(end, { state: 'done', error: null }, JSON.stringify(end));
  for (const n of d.nodes) {
    t.equal(await lab.sh(n, `grep -c BEGIN ${ca}`), '1', `${n} trusts one CA`);
    t.not(await lab.sh(n, `openssl x509 -in ${ca} -noout -fingerprint -sha256`), before);
  }
  await d.goesOn('web');
  t.equal(d.bootOf('web'), boot, 'the same boot of the guest');
  t.equal(await d.ownerOf('web'), 'n2');
  await d.untilProtected('web');
  t.same(d.violations(), []);
  t.comment(`took ${Math.round((end.updatedMs - end.createdMs) / 1000)} s`);
});
