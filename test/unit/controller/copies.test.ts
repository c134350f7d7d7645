import t from 'tap';
import type { VmView } from '../../../core/wire/rest.js';
import { ledger as kinds, readRecord, unique, writeRecord } from '../../../core/wire/ledger-keys.js';
import { GiB, rig } from './rig.js';

const pool = '00000000-0000-4000-8000-00000000000b';

void t.test(
  'a disk on two nodes: owner and standby, a pair of its own, and its secret with nobody else',
  async (t) => {
    const r = await rig();
    t.teardown(() => r.stop());
    r.memory.poke(
      kinds.pool.key(pool),
      writeRecord(kinds.pool, {
        id: pool,
        name: 'fast',
        kind: 'thin',
        path: '/dev/flotilla-00000000',
        nodes: ['n1', 'n2'],
        reservePct: 5,
        drives: [],
      }),
    );
    r.memory.poke(unique.name('pool', 'fast'), pool);
    await r.view.ledger.refresh();
    const use = { pool, totalBytes: 100 * GiB, freeBytes: 80 * GiB, ok: true, text: '', ageMs: 1 };
    const say = (replication: Record<string, string>): void => {
      for (const [n, heard] of r.radio.nodes) {
        const state = { ...heard.state, pools: [...heard.state.pools, use] };
        const text = replication[n];
        r.radio.nodes.set(n, {
          ...heard,
          state: text === undefined ? state : { ...state, replication: text },
        });
      }
      r.radio.news();
    };
    const create = (name: string, disk: Record<string, unknown>) =>
      r.call('POST', '/api/v1/vms', { name, memoryMiB: 64, disks: [{ sizeBytes: GiB, ...disk }] });

    say({ n1: '', n2: 'the kernel of this node has no DRBD' });
    const none = await create('db', { pool: 'fast', replicas: 2 });
    t.equal(none.status, 409);
    t.match(none.body, { code: 'no-node-fits', message: /no DRBD/ });
    t.match((await create('db', { replicas: 2 })).body, {
      code: 'bad-input',
      message: /only disks on pools of kind thin/,
    });

    say({ n1: '', n2: '' });
    const made = await create('db', { pool: 'fast', replicas: 2 });
    t.equal(made.status, 202);
    const { vm } = made.body as { vm: VmView };
    const [owner, standby] = [vm.node ?? '', vm.own?.standby ?? ''];
    t.same([owner, standby].sort(), ['n1', 'n2']);
    t.match(vm.own, {
      sync: 'stale',
      copies: [
        { node: owner, state: 'ok' },
        { node: standby, state: 'stale' },
      ],
    });
    t.match(vm.disks[0], { replicas: 2, node: null, format: 'raw' });
    const kept = r.memory.peek(kinds.replica.key(vm.id));
    const pair = readRecord(kinds.replica, kept?.key ?? '', kept?.value ?? '');
    t.equal(r.memory.peek(unique.minor(pair.volumes[0]?.minor ?? 0))?.value, vm.id);
    t.equal(r.memory.peek(unique.replicaPort(pair.port))?.value, vm.id);

    const other = await create('db2', { pool: 'fast', replicas: 2 });
    t.equal(other.status, 202, 'its numbers are others');
    for (const path of [`vms/${vm.id}`, 'vms', 'ops', 'disks', 'nodes', 'cluster']) {
      const { body } = await r.call('GET', `/api/v1/${path}`);
      t.notOk(JSON.stringify(body).includes(pair.secret), path);
    }
    const patch = (body: object) => r.call('PATCH', '/api/v1/vms/db', body);
    const pairNow = () => {
      const e = r.memory.peek(kinds.replica.key(vm.id));
      return readRecord(kinds.replica, e?.key ?? '', e?.value ?? '');
    };
    t.equal((await patch({ growDisks: [{ disk: 'disk0', sizeBytes: 2 * GiB }] })).status, 202);
    t.equal((await patch({ addDisks: [{ sizeBytes: GiB, pool: 'fast', replicas: 2 }] })).status, 202);
    t.match(pairNow(), { port: pair.port, volumes: [{ volume: 0 }, { volume: 1 }] }, 'it joins the pair');
    t.equal(r.memory.peek(unique.minor(pairNow().volumes[1]?.minor ?? 0))?.value, vm.id);
    t.match((await patch({ detachDisks: ['disk1'], removeDisks: ['disk1'] })).body, { code: 'bad-input' });
    const out = (await patch({ detachDisks: ['disk1'] })).body as { vm: VmView };
    t.match(out.vm.spec.disks, [{ detached: undefined }, { detached: true }]);
    const back = (await patch({ attachDisks: ['disk1'] })).body as { vm: VmView };
    t.equal(back.vm.spec.disks[1]?.detached, undefined);

    t.equal((await r.call('POST', '/api/v1/vms', { name: 'plain', node: owner, memoryMiB: 64 })).status, 202);
    const first = await r.call('PATCH', '/api/v1/vms/plain', {
      addDisks: [{ sizeBytes: GiB, pool: 'fast', replicas: 2 }],
    });
    t.match(first.body, {
      vm: { own: { standby, sync: 'stale', copies: [{ node: owner }, { node: standby }] } },
    });
    t.equal((await r.call('DELETE', '/api/v1/vms/plain')).status, 202);

    const local = { name: 'single', node: owner, memoryMiB: 64, disks: [{ sizeBytes: GiB }] };
    const single = (await r.call('POST', '/api/v1/vms', local)).body as { vm: VmView; op: { id: string } };
    const move = (vmName: string, body: object) =>
      r.call('POST', `/api/v1/vms/${vmName}/disks/disk0/move`, body);
    t.match((await move('single', { pool: 'fast' })).body, { code: 'wrong-state', message: /vm.create/ });
    const ready = async (vmId: string): Promise<void> => {
      await r.view.ledger.refresh();
      for (const k of r.view.vmDisks(vmId))
        r.memory.poke(
          kinds.disk.key(k.value.id),
          writeRecord(kinds.disk, { ...k.value, state: 'ready', madeBytes: k.value.sizeBytes }),
        );
      for (const op of r.view.vmOps(vmId))
        r.memory.poke(kinds.op.key(op.id), writeRecord(kinds.op, { ...op, state: 'done' }));
      await r.view.ledger.refresh();
    };
    await ready(single.vm.id);
    t.match((await move('single', {})).body, { code: 'bad-input' });
    t.match((await move('single', { pool: 'local' })).body, { code: 'bad-input', message: /there already/ });
    t.match((await move('single', { pool: 'local', replicas: 2 })).body, { code: 'bad-input' });
    const went = await move('single', { pool: 'fast', replicas: 2, limitBps: 1_000_000 });
    t.match(went.body, {
      op: { kind: 'vm.move-disk', args: { limitBps: 1_000_000, where: 'pool "fast", with two copies' } },
      vm: { disks: [{ name: 'disk0', pool: single.vm.disks[0]?.pool }], own: { standby } },
    });
    t.equal((went.body as { vm: VmView }).vm.disks.length, 1, 'what is filled is no disk of it yet');
    t.match((await move('single', { pool: 'fast' })).body, { code: 'wrong-state', message: /move-disk/ });
    t.match((await r.call('PATCH', '/api/v1/vms/single', { removeDisks: ['disk0'] })).body, {
      code: 'wrong-state',
      message: /being moved/,
    });
    t.equal((await r.call('DELETE', '/api/v1/vms/single')).status, 202);

    const ask = (body: object) => r.call('POST', '/api/v1/vms/db/standby', body);
    t.match((await ask({ node: standby })).body, { code: 'bad-input' }, 'it has one already');
    t.match((await ask({ node: 'n9' })).body, { code: 'not-found' });
    const own = r.memory.peek(kinds.vmOwn.key(vm.id));
    const ok = { ...readRecord(kinds.vmOwn, own?.key ?? '', own?.value ?? ''), sync: 'ok' as const };
    r.memory.poke(kinds.vmOwn.key(vm.id), writeRecord(kinds.vmOwn, ok));
    t.match((await ask({})).body, { code: 'wrong-state', hint: /--unprotected/ });
    const wish = await ask({ unprotected: true });
    t.match(wish, {
      status: 202,
      body: {
        op: { kind: 'vm.standby', state: 'queued', args: { from: standby, to: null, unprotected: true } },
      },
    });
    t.match((await ask({ unprotected: true })).body, { code: 'wrong-state', message: /under way/ });
    const repair = (vmName: string, discard: string) =>
      r.call('POST', `/api/v1/vms/${vmName}/repair`, { discard });
    t.match((await repair('db', standby)).body, { code: 'wrong-state' }, 'its copies are the same');
    t.match((await repair('db2', standby)).body, { op: { kind: 'vm.repair', args: { discard: standby } } });
    t.match((await r.call('POST', '/api/v1/vms', { name: 'bare' })).status, 202);
    t.match((await r.call('POST', '/api/v1/vms/bare/standby', {})).body, {
      message: /no disks with two copies/,
    });

    // All VMs are on the other node: it has copies, and nothing else.
    for (const [id, k] of r.view.ledger.tables.vmOwn)
      r.memory.poke(kinds.vmOwn.key(id), writeRecord(kinds.vmOwn, { ...k.value, owner }));
    r.memory.poke(
      kinds.live.key(standby),
      writeRecord(kinds.live, { node: standby, boot: 'b', version: '1' }),
    );
    await r.view.ledger.refresh();
    const remove = () => r.call('DELETE', `/api/v1/nodes/${standby}`);
    t.match((await remove()).body, { code: 'in-use', message: /second copies of/ });
  },
);
