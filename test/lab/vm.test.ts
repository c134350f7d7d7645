import { readFile } from 'node:fs/promises';
import t from 'tap';
import type { Op } from '../../core/domain/op.js';
import { LabCluster } from './cluster.js';
import { waitFor } from './harness.js';

/** The life of VMs on real nodes: shipped programs, real libvirt, QEMU, etcd and mosquitto. */

const c = new LabCluster({ id: 'flvm', net: '10.76.0', guestNet: '10.76.100' });
const { lab } = c;
t.teardown(() => c.down());

await c.up(3);
await c.must('POST', 'pools', { name: 'shared', kind: 'shared', path: '/srv/shared' });
await c.must('POST', 'pools', { name: 'local', kind: 'local', path: '/var/lib/flotilla/pools/local' });
await c.must('POST', 'networks', {
  name: 'lan',
  bridge: 'flt0',
  uplink: 'eth1',
  subnet: '10.76.100.0/24',
  gateway: '10.76.100.254',
  range: ['10.76.100.10', '10.76.100.99'],
});
await waitFor('the pool is known of every node', async () => {
  const { body } = await c.get<{ items: { name: string; use: { ok: boolean }[] }[] }>('pools');
  return body.items.every((p) => p.use.length === 3 && p.use.every((u) => u.ok));
});
await c.image('tiny', 'shared', await readFile('build/images/tiny.qcow2'));

type Change = { op: Op; vm: { id: string } };
const create = (name: string, more: Record<string, unknown> = {}): Promise<Change> =>
  c.must<Change>('POST', 'vms', {
    name,
    memoryMiB: 96,
    disks: [{ name: 'root', pool: 'shared', image: 'tiny', mode: 'linked' }],
    power: 'running',
    ...more,
  });
const consoleOf = (node: string, id: string): Promise<string> =>
  lab.sh(node, `cat /var/lib/flotilla/consoles/${id}.log 2>/dev/null || true`);
const starts = async (node: string, id: string): Promise<number> =>
  Number(await lab.sh(node, `grep -c 'starting up libvirt' /var/log/libvirt/qemu/${id}.log`));
const domainXml = (node: string, id: string): Promise<string> => c.virsh(node, 'dumpxml', id);

await t.test(
  'a VM from an image comes up, with an address of the network, and its guest speaks',
  async (t) => {
    const { op, vm } = await create('one', {
      node: 'n2',
      nics: [{ network: 'lan' }],
      cloudInit: { hostname: 'one' },
    });
    t.equal((await c.opEnd(op)).state, 'done');
    const seen = await c.untilPhase('one', 'running');
    t.equal(seen.node, 'n2');
    t.same(seen.addresses, ['10.76.100.10']);
    await waitFor('the guest speaks', async () => /TINY ready/.test(await consoleOf('n2', vm.id)), {
      limitMs: 90_000,
    });
    t.match(await domainXml('n2', vm.id), /<title>one<\/title>/);
  },
);

await t.test("every node's page shows it, without the controller", async (t) => {
  const token = await lab.sh('n1', 'cat /var/lib/flotilla/admin-token');
  const { stdout } = await lab.fabric(
    'curl',
    '-sk',
    '-H',
    `Authorization: Bearer ${token}`,
    `https://${lab.address('n3')}:7443/`,
  );
  t.match(stdout, /one/);
  const bare = await lab.fabric(
    'curl',
    '-sk',
    '-o',
    '/dev/null',
    '-w',
    '%{http_code}',
    `https://${lab.address('n3')}:7443/metrics`,
  );
  t.equal(bare.stdout, '401');
});

await t.test(
  'QEMU killed under a VM is noticed and the VM started again; a guest that shuts down stays off',
  async (t) => {
    const { id } = await c.vm('one');
    const before = await starts('n2', id);
    await lab.sh('n2', `kill -9 $(cat /run/libvirt/qemu/${id}.pid)`);
    await waitFor('it was started again', async () => (await starts('n2', id)) === before + 1);
    await c.untilPhase('one', 'running');
    // The guest is asked from outside Flotilla: to the agent it shuts itself down.
    await waitFor(
      'the guest listens to the power button',
      async () => {
        await lab.sh('n2', `virsh shutdown ${id} >/dev/null 2>&1 || true`);
        return (await c.vm('one')).phase === 'stopped';
      },
      { limitMs: 90_000, everyMs: 2_000 },
    );
    t.equal((await c.vm('one')).power, 'stopped');
    t.match((await c.vm('one')).reason, /guest shut itself down/);
    t.equal(await starts('n2', id), before + 1);
  },
);

await t.test('devices come and go while it runs; what cannot waits for a restart and says so', async (t) => {
  const start = await c.must<Change>('POST', 'vms/one/actions/start');
  t.equal((await c.opEnd(start.op)).state, 'done');
  const { id } = await c.vm('one');
  const edit = await c.must<Change>('PATCH', 'vms/one', {
    cpus: 2,
    memoryMiB: 128,
    addDisks: [{ name: 'data', pool: 'shared', sizeBytes: 64 * 1024 * 1024 }],
    addNics: [{ network: 'lan' }],
  });
  t.equal((await c.opEnd(edit.op)).state, 'done');
  const xml = await domainXml('n2', id);
  t.equal([...xml.matchAll(/alias name='ua-disk-/g)].length, 2);
  t.equal([...xml.matchAll(/alias name='ua-nic-/g)].length, 2);
  t.match(xml, /<vcpu placement='static' current='2'>/);
  // The radio says a VM's line at most once a second.
  await waitFor('what waits for a restart is shown', async () =>
    (await c.vm('one')).pendingRestart.includes('memory changes from 96 MiB to 128 MiB'),
  );
  const grow = await c.must<Change>('PATCH', 'vms/one', {
    growDisks: [{ disk: 'data', sizeBytes: 128 * 1024 * 1024 }],
  });
  t.equal((await c.opEnd(grow.op)).state, 'done');
  t.match(await c.virsh('n2', 'domblkinfo', id, 'vdb'), /Capacity: +134217728/);
});

await t.test('the agent killed while a VM is made: it is made once', async (t) => {
  const { op, vm } = await create('two', {
    node: 'n3',
    disks: [{ name: 'root', pool: 'local', image: 'tiny', mode: 'full' }],
  });
  for (let i = 0; i < 4; i++) {
    await lab.sh('n3', 'systemctl kill -s KILL flotilla-agent');
    await waitFor(
      'systemd starts it again',
      async () => (await lab.sh('n3', 'systemctl is-active flotilla-agent || true')) === 'active',
    );
  }
  t.equal((await c.opEnd(op)).state, 'done');
  await c.untilPhase('two', 'running');
  t.equal(await starts('n3', vm.id), 1);
  t.equal(await lab.sh('n3', 'ls -A /var/lib/flotilla/pools/local/disks | grep -c . || true'), '1');
});

await t.test('libvirtd killed: the VM runs on, and is managed again', async (t) => {
  const { id } = await c.vm('two');
  const before = await starts('n3', id);
  await lab.sh('n3', 'systemctl kill -s KILL libvirtd');
  const reset = await waitFor('an action reaches it again', async () => {
    const r = await c.call<Change>('POST', 'vms/two/actions/reset');
    return r.status < 300 ? r.body : null;
  });
  t.equal((await c.opEnd(reset.op)).state, 'done');
  t.equal(await starts('n3', id), before);
});

await t.test('a node that loses power runs its VMs again, each once, by a new generation', async (t) => {
  const { id } = await c.vm('two');
  await lab.kill('n3');
  await waitFor('n3 is missed', async () => (await c.vm('two')).phase === 'unknown');
  await lab.boot('n3');
  // QEMU's log of before may have gone with the power; the journal of this boot has not.
  const started = (): Promise<string> =>
    lab.sh('n3', `journalctl -b -u flotilla-agent --no-pager | grep -c 'two: started' || true`);
  await waitFor('it was started', async () => (await started()) !== '0', { limitMs: 120_000 });
  await c.untilPhase('two', 'running');
  t.equal(await started(), '1');
  t.match(await c.virsh('n3', 'domstate', id), /running/);
});
await t.test(
  'without a quorum VMs run on and nothing starts; with it back, what was asked is done',
  async (t) => {
    await waitFor(
      'three voters',
      async () => {
        const { body } = await c.get<{ items: { record: { voter: boolean } }[] }>('nodes');
        return body.items.filter((n) => n.record.voter).length === 3;
      },
      { limitMs: 120_000 },
    );
    const { id } = await c.vm('two');
    for (const n of ['n1', 'n2']) await lab.sh(n, 'systemctl mask --runtime --now --quiet flotilla-etcd');
    await waitFor('the node says so', async () => {
      const r = await lab.fabric('curl', '-sk', `https://${lab.address('n3')}:7443/healthz`);
      return (JSON.parse(r.stdout) as { ok: boolean }).ok === false;
    });
    t.match(await c.virsh('n3', 'domstate', id), /running/);
    const refused = await c.call('POST', 'vms/one/actions/stop');
    t.equal(refused.status, 503);
    t.equal((refused.body as { code: string }).code, 'ledger-unavailable');
    for (const n of ['n1', 'n2'])
      await lab.sh(
        n,
        'systemctl unmask --runtime --quiet flotilla-etcd; systemctl start --no-block flotilla-etcd',
      );
    const stop = await waitFor('the API takes changes again', async () => {
      const r = await c.call<Change>('POST', 'vms/two/actions/stop');
      return r.status < 300 ? r.body : null;
    });
    t.equal((await c.opEnd(stop.op)).state, 'done');
  },
);

await t.test('the controller gone and another started elsewhere: nothing is lost', async (t) => {
  await lab.sh('n1', 'systemctl kill -s KILL flotilla-controller; systemctl stop flotilla-controller');
  await c.controllerOn('n2');
  await c.untilHere(3);
  t.equal((await c.vm('one')).phase, 'running');
});

await t.test('UEFI boots too, and a deaf guest is forced off after its time', async (t) => {
  const { op, vm } = await create('efi', { node: 'n1', firmware: 'uefi', memoryMiB: 192, stopTimeoutS: 3 });
  t.equal((await c.opEnd(op)).state, 'done');
  t.match(await domainXml('n1', vm.id), /OVMF/);
  // In its firmware it does not listen to the power button.
  const stop = await c.must<Change>('POST', 'vms/efi/actions/stop');
  t.equal((await c.opEnd(stop.op)).state, 'done');
  t.match(await c.virsh('n1', 'domstate', vm.id), /shut off/);
});

await t.test(
  'clumsy and hostile wishes are refused with object, reason and way out, and leave nothing',
  async (t) => {
    const before = (await c.get<{ total: number }>('vms')).body.total;
    const refusals: [unknown, string][] = [
      [{ name: 'one' }, 'name-taken'],
      [{ name: 'x', memoryMiB: -5 }, 'bad-input'],
      [{ name: 'x'.repeat(1000) }, 'bad-input'],
      [{ name: 'x', speed: 'fast' }, 'unknown-field'],
      [{ name: 'x', disks: [{ pool: 'shared', sizeBytes: 10e15 }] }, 'bad-input'],
      [{ name: 'x', disks: [{ pool: 'shared', sizeBytes: 40 * 2 ** 40 }] }, 'no-space'],
      [{ name: 'x', disks: [{ pool: 'nowhere', sizeBytes: 2 ** 30 }] }, 'not-found'],
      [{ name: 'x', memoryMiB: 4 * 1024 * 1024 }, 'no-node-fits'],
    ];
    for (const [body, code] of refusals) {
      const r = await c.call<{ code: string; hint: string; detail?: string }>('POST', 'vms', body);
      t.equal(r.body.code, code, JSON.stringify(body).slice(0, 80));
      t.ok(r.body.hint.length > 10, 'it says what to do');
    }
    const running = await c.call<{ code: string }>('DELETE', 'vms/one');
    t.equal(running.body.code, 'wrong-state');
    t.equal((await c.get<{ total: number }>('vms')).body.total, before);
  },
);

await t.test('deleting leaves no file, no domain, no key', async (t) => {
  for (const name of ['one', 'two', 'efi']) {
    const { node, id, phase } = await c.vm(name);
    if (phase !== 'stopped') {
      const off = await c.must<Change>('POST', `vms/${name}/actions/force-stop`);
      await c.opEnd(off.op);
    }
    await waitFor(`${name} is seen stopped`, async () => (await c.vm(name)).phase === 'stopped');
    const del = await c.must<Change>('DELETE', `vms/${name}`);
    t.equal((await c.opEnd(del.op)).state, 'done', name);
    t.notMatch(await c.virsh(node, 'list', '--all', '--uuid'), id);
  }
  t.equal(await lab.sh('n1', 'ls -A /srv/shared/disks | wc -l'), '0');
  t.equal(await lab.sh('n3', 'ls -A /var/lib/flotilla/pools/local/disks | wc -l'), '0');
  const keys = await lab.sh(
    'n1',
    'cd /var/lib/flotilla/pki; ETCDCTL_API=3 etcdctl --cacert ca.crt --cert node.crt --key node.key --endpoints https://127.0.0.1:2379 get --prefix /flotilla/ --keys-only',
  );
  t.notMatch(keys, /\/(vm|disk|mac|address)\//);
});
