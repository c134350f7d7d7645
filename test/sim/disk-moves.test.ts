import { randomUUID } from 'node:crypto';
import t from 'tap';
import { diskInMachine, parseDomain } from '../../agent/vm/domain-xml.js';
import { movedDisk } from '../../core/decide/disk-move.js';
import { newCopies, newReplica } from '../../core/decide/replica-edit.js';
import type { Disk } from '../../core/domain/disk.js';
import type { Op } from '../../core/domain/op.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import { FakePairs } from './fake-pairs.js';
import { SimNode, type Death } from './sim-node.js';

/** A disk of a VM moves from the local pool of its node to the shared one, while its guest writes. */

const diskOf = (n: SimNode, id: string): Disk | null => {
  const e = n.ledger.peek(kinds.disk.key(id));
  return e === null ? null : (JSON.parse(e.value) as Disk);
};
const disksOf = (n: SimNode): Disk[] =>
  n.ledger.peekAll('/flotilla/disk/').map((e) => JSON.parse(e.value) as Disk);

/** Volumes with what is written on them, and a guest that is told. */
class Guest {
  /** The last write on each volume, by path. */
  readonly data = new Map<string, number>();
  told = 0;
  readonly #n: SimNode;
  readonly #vm: string;

  constructor(n: SimNode, vm: string) {
    this.#n = n;
    this.#vm = vm;
    const before = n.host.beforeStart;
    n.host.beforeStart = (uuid, gen, paused) => {
      before(uuid, gen, paused);
      const has = this.data.get(this.path()) ?? 0;
      if (has < this.told) throw new Error(`started from a volume that has ${has} of ${this.told} writes`);
    };
    n.host.onPivot = () => {
      const has = this.data.get(this.path()) ?? 0;
      if (has < this.told) throw new Error(`goes over to a volume that has ${has} of ${this.told} writes`);
    };
    n.files.onCopy = (from, to) => {
      if (n.host.domains.get(vm)?.active === true) return;
      this.data.set(to, this.data.get(from) ?? 0);
    };
  }

  path(): string {
    return parseDomain(this.#n.host.get(this.#vm).xml).hardware.disks[0]?.path ?? '';
  }

  /** Each write goes to the volume it uses, and to the one it is copied to. */
  write(): void {
    const { host } = this.#n;
    const d = host.domains.get(this.#vm);
    if (d?.active !== true || d.state.state !== 'running') return;
    this.data.set(this.path(), ++this.told);
    const m = host.mirrors.get(`${this.#vm}/vda`);
    if (m?.ready === true) this.data.set(/(?:file|dev)=["']([^"']+)/.exec(m.xml)?.[1] ?? '', this.told);
  }
}

/** What the API writes: without more, to the shared pool. */
function move(
  n: SimNode,
  vm: string,
  disk: string,
  limitBps: number | null = null,
  target?: Disk,
): { op: string; to: string } {
  const from = diskOf(n, disk);
  if (from === null) throw new Error('no such disk');
  const to: Disk = target ?? {
    ...from,
    id: randomUUID(),
    pool: n.sharedId,
    node: null,
    madeBytes: 0,
    source: { kind: 'blank' },
    state: 'wanted',
    instead: disk,
  };
  n.ledger.poke(kinds.disk.key(to.id), writeRecord(kinds.disk, to));
  const id = n.ask('vm.move-disk', vm);
  const op: Op = { ...n.op(id), args: { disk, to: to.id, limitBps, where: 'there' } };
  n.ledger.poke(kinds.op.key(id), writeRecord(kinds.op, op));
  return { op: id, to: to.id };
}

interface Rig {
  readonly n: SimNode;
  readonly vm: string;
  readonly disk: string;
  readonly guest: Guest;
  readonly until: (what: string, holds: () => boolean) => Promise<void>;
}

async function rig(death: Death | null = null, power: 'running' | 'stopped' = 'running'): Promise<Rig> {
  const n = new SimNode();
  n.host.mirrorMs = 5_000;
  n.boot(death);
  const made = n.createVm({ power });
  const guest = new Guest(n, made.id);
  const until = (what: string, holds: () => boolean): Promise<void> =>
    n.untilOutlived(what, () => {
      guest.write();
      return holds();
    });
  await until('made', () => n.op(made.op).state === 'done');
  return { n, vm: made.id, disk: made.disk, guest, until };
}

/** Nothing of a move is left but the disk in its new place. */
function settled({ n, vm, disk }: Rig, to: string): string | null {
  if (n.spec(vm)?.disks[0]?.disk !== to) return 'the spec names the old disk';
  if (diskOf(n, disk) !== null || n.files.disks.has(disk)) return 'the old volume is left';
  if (diskOf(n, to)?.instead !== undefined) return 'the new one is still on its way';
  return n.host.mirrors.size > 0 ? 'QEMU copies still' : null;
}
/** Nothing of it is left at all. */
function undone({ n, vm, disk }: Rig, to: string): string | null {
  if (n.spec(vm)?.disks[0]?.disk !== disk || diskOf(n, disk)?.state !== 'ready') return 'the disk is gone';
  if (diskOf(n, to) !== null || n.files.disks.has(to)) return 'the new volume is left';
  return n.host.mirrors.size > 0 ? 'QEMU copies still' : null;
}

async function moved(death: Death | null): Promise<Rig & { acts: number; to: string }> {
  const r = await rig(death);
  const { n, vm, disk, until } = r;
  await until('running', () => n.said.get(vm)?.phase === 'running');
  const { op, to } = move(n, vm, disk);
  await until('moved', () => n.op(op).state === 'done');
  await until('nothing is left', () => settled(r, to) === null);
  await until('it goes on', () => n.host.domains.get(vm)?.state.state === 'running');
  const acts = n.acts;
  if (!r.guest.path().startsWith('/share/')) throw new Error('the machine uses the old volume');
  if (n.host.starts.length !== 1) throw new Error('the machine was started again');
  // What machines call it stays, also from the next start on.
  const stop = n.action('force-stop', vm);
  await until('off', () => n.op(stop).state === 'done');
  const start = n.action('start', vm);
  await until('started from the new one', () => n.op(start).state === 'done');
  if (diskInMachine(n.host.get(vm).xml, disk)?.path !== r.guest.path()) throw new Error('another device');
  return { ...r, acts, to };
}

await t.test('a disk moves while its guest writes, and nothing is left', async (t) => {
  const { n, guest, to, vm } = await moved(null);
  t.ok(guest.told > 20, `${guest.told} writes`);
  t.equal(diskOf(n, to)?.name, 'root');
  t.same(n.said.get(vm)?.pendingRestart, []);
  const again = move(n, vm, to);
  await n.until('and once more', () => n.op(again.op).state === 'done');
  await n.stop();
});

await t.test('the agent dies at each act of that', async (t) => {
  const whole = await moved(null);
  await whole.n.stop();
  t.ok(whole.acts > 15, `${whole.acts} acts`);
  for (let at = 0; at < whole.acts; at++)
    for (const when of ['before', 'after'] as const) {
      const { n } = await moved({ at, when }).catch((e: unknown) => {
        throw new Error(`${when} act ${at}`, { cause: e });
      });
      await n.stop();
    }
});

await t.test('cancelled, or broken off by a fault: the guest goes on with the old one', async (t) => {
  const r = await rig();
  const { n, vm, disk, until } = r;
  t.teardown(() => n.stop());
  n.host.mirrorMs = 60_000;
  const first = move(n, vm, disk, 1_000_000);
  await until('QEMU copies', () => n.host.mirrors.size === 1);
  n.ledger.poke(kinds.op.key(first.op), writeRecord(kinds.op, { ...n.op(first.op), cancelAsked: true }));
  await until('cancelled', () => n.op(first.op).state === 'cancelled');
  await until('nothing is left', () => undone(r, first.to) === null);

  n.host.mirrorMs = 2_000;
  n.host.failMirror = new Error('No space left on device');
  const second = move(n, vm, disk);
  await until('failed', () => n.op(second.op).state === 'failed');
  t.match(n.op(second.op).error, { code: 'tool-failed', causes: ['No space left on device'] });
  await until('nothing is left', () => undone(r, second.to) === null);

  n.files.failMake = new Error('the pool is full');
  const third = move(n, vm, disk);
  await until('failed again', () => n.op(third.op).state === 'failed');
  await until('nothing is left', () => undone(r, third.to) === null);
  t.equal(n.host.starts.length, 1);
  t.equal(n.host.domains.get(vm)?.state.state, 'running');
});

await t.test(
  'a VM that is off: a plain copy; one that starts meanwhile is copied anew while it runs',
  async (t) => {
    const r = await rig(null, 'stopped');
    const { n, vm, disk, guest, until } = r;
    t.teardown(() => n.stop());
    const first = move(n, vm, disk);
    await until('moved', () => n.op(first.op).state === 'done');
    await until('nothing is left', () => settled(r, first.to) === null);
    t.equal(n.host.starts.length, 0);

    n.files.copyMs = 60_000;
    const second = move(n, vm, first.to);
    await until(
      'it is copied',
      () => n.op(second.op).state === 'running' && disksOf(n).every((d) => d.state === 'ready'),
    );
    await n.clock.advance(3_000);
    const start = n.action('start', vm);
    await until('started', () => n.op(start).state === 'done');
    t.equal(n.op(second.op).state, 'running', 'long before the copy would have been whole');
    await until('moved while it runs', () => n.op(second.op).state === 'done');
    t.ok(guest.told > 0);
    t.equal(n.spec(vm)?.disks[0]?.disk, second.to);
  },
);

await t.test('its machine dies, or its VM is deleted, in the middle', async (t) => {
  const r = await rig();
  const { n, vm, disk, until } = r;
  t.teardown(() => n.stop());
  n.host.mirrorMs = 20_000;
  const first = move(n, vm, disk);
  await until('QEMU copies', () => n.host.mirrors.size === 1);
  n.host.die(vm, 'crashed');
  await until('moved all the same', () => n.op(first.op).state === 'done');
  await until('nothing is left', () => settled(r, first.to) === null);
  t.equal(n.host.starts.length, 2);

  const second = move(n, vm, first.to);
  await until('QEMU copies again', () => n.host.mirrors.size === 1);
  const gone = n.ask('vm.delete', vm);
  await until('deleted', () => n.op(gone).state === 'done');
  await until('the move is over', () => n.op(second.op).state === 'cancelled');
  t.same(disksOf(n), []);
  t.equal(n.files.disks.size, 0);
});

await t.test(
  'the ledger is away as the machine goes over: it stands still until the ledger knows',
  async (t) => {
    const r = await rig();
    const { n, vm, disk, guest, until } = r;
    t.teardown(() => n.stop());
    const { op, to } = move(n, vm, disk);
    n.host.onPivot = () => (n.leased = false);
    await until('it has gone over', () => guest.path().startsWith('/share/'));
    await n.clock.advance(20_000);
    t.equal(n.host.domains.get(vm)?.state.state, 'paused');
    t.equal(n.spec(vm)?.disks[0]?.disk, disk);
    n.leased = true;
    await until('noted', () => n.op(op).state === 'done');
    await until('it goes on', () => n.host.domains.get(vm)?.state.state === 'running');
    await until('nothing is left', () => settled(r, to) === null);
  },
);

/** A disk with one copy gets a second one, and gives it up again, while the guest writes. */
async function recopied(death: Death | null): Promise<{ n: SimNode; acts: number; vm: string; to: string }> {
  const n = new SimNode();
  const pairs = new FakePairs(n.clock);
  n.pairs = pairs;
  n.peerDesk('n2', pairs);
  n.host.mirrorMs = 5_000;
  n.boot(death);
  const made = n.createVm();
  const vm = made.id;
  const guest = new Guest(n, vm);
  const until = (what: string, holds: () => boolean): Promise<void> =>
    n.untilOutlived(what, () => {
      guest.write();
      return holds();
    });
  await until('running', () => n.said.get(vm)?.phase === 'running');
  const from = diskOf(n, made.disk);
  const own = n.own(vm);
  if (from === null || own === null) throw new Error('no disk');
  const place = { id: randomUUID(), owner: 'n1' };
  const pool = {
    id: n.thinId,
    name: 'thin',
    kind: 'thin' as const,
    path: '/dev/x',
    nodes: null,
    reservePct: 5,
  };
  const two = movedDisk('the VM', from, { pool, format: undefined, replicas: 2 }, place);
  const nodes = [
    { id: 'n1', addresses: ['10.0.0.1'] },
    { id: 'n2', addresses: ['10.0.0.2'] },
  ] as const;
  const taken = { minors: new Set<number>(), ports: new Set<number>() };
  const replica = newReplica({ vm, disks: [two], nodes, secret: 'a'.repeat(32), taken });
  if (replica === null) throw new Error('no pair');
  n.ledger.poke(kinds.replica.key(vm), writeRecord(kinds.replica, replica));
  const fresh = { ...(n.own(vm) ?? own), ...newCopies('n1', 'n2'), synced: [] };
  n.ledger.poke(kinds.vmOwn.key(vm), writeRecord(kinds.vmOwn, fresh));
  const first = move(n, vm, from.id, null, two);
  await until('two copies', () => n.op(first.op).state === 'done');
  await until('the same', () => n.own(vm)?.sync === 'ok' && diskOf(n, from.id) === null);
  if (!guest.path().startsWith('/dev/drbd') || n.own(vm)?.standby !== 'n2')
    throw new Error('not on two nodes');

  const twice = diskOf(n, two.id);
  if (twice === null) throw new Error('no disk');
  const one = movedDisk(
    'the VM',
    twice,
    { pool, format: undefined, replicas: 1 },
    { id: randomUUID(), owner: 'n1' },
  );
  const second = move(n, vm, two.id, null, one);
  await until('one copy', () => n.op(second.op).state === 'done');
  // Not before the owner's own is what the machine uses.
  await until('the pair goes', () => n.ledger.peek(kinds.replica.key(vm)) === null && pairs.below.size === 0);
  await until('settled', () => diskOf(n, two.id) === null && n.own(vm)?.copies.length === 0);
  await until('it goes on', () => n.host.domains.get(vm)?.state.state === 'running');
  if (n.host.starts.length !== 1) throw new Error('the machine was started again');
  return { n, acts: n.acts, vm, to: one.id };
}

await t.test('one copy becomes two, and two become one, while the guest writes', async (t) => {
  const { n, vm, to } = await recopied(null);
  t.match(n.own(vm), { sync: 'none', standby: null, copies: [] });
  t.equal(n.spec(vm)?.disks[0]?.disk, to);
  t.equal((diskOf(n, to)?.sizeBytes ?? 0) >= 2 ** 30, true);
  await n.stop();
});

await t.test('the agent dies at acts of that', async (t) => {
  const whole = await recopied(null);
  await whole.n.stop();
  t.ok(whole.acts > 20, `${whole.acts} acts`);
  for (let at = 0; at < whole.acts; at += 2) {
    const when = at % 4 === 0 ? 'before' : 'after';
    const { n } = await recopied({ at, when }).catch((e: unknown) => {
      throw new Error(`${when} act ${at}`, { cause: e });
    });
    await n.stop();
  }
});
