import t from 'tap';
import type { AgentEnv, Slots, SlotState } from '../../../../agent/env.js';
import { OpBook } from '../../../../agent/op-book.js';
import { slotWords } from '../../../../agent/slots/slots.js';
import { UpdateDesk } from '../../../../agent/slots/update-desk.js';
import type { Snapshot } from '../../../../agent/snapshot.js';
import type { Image } from '../../../../core/domain/image.js';
import type { Op } from '../../../../core/domain/op.js';
import { ledger as kinds, readRecord, writeRecord } from '../../../../core/wire/ledger-keys.js';
import { MemoryLedger } from '../../../sim/memory-ledger.js';
import { FakeClock } from '../ledger/fake-clock.js';

const opId = '11111111-1111-4111-8111-111111111111';
const imageId = '22222222-2222-4222-8222-222222222222';
const poolId = '33333333-3333-4333-8333-333333333333';
const sha256 = 'ab'.repeat(32);

/** A machine with slots, as GRUB sees it. */
class FakeSlots implements Slots {
  booted: 'a' | 'b' | 'medium' = 'a';
  good_: 'a' | 'b' = 'a';
  onTrial: 'a' | 'b' | null = null;
  boot = 'boot-1';
  restarts = 0;
  none = false;
  readonly written: string[] = [];
  state(): Promise<SlotState | null> {
    const { booted, onTrial, boot, good_: good } = this;
    return Promise.resolve(this.none ? null : { booted, good, onTrial, boot });
  }
  write(file: string, hash: string): Promise<'a' | 'b'> {
    this.written.push(`${file} ${hash}`);
    return Promise.resolve('b');
  }
  tryNext(): Promise<void> {
    this.onTrial = 'b';
    return Promise.resolve();
  }
  good(): Promise<void> {
    this.good_ = this.booted === 'b' ? 'b' : 'a';
    this.onTrial = null;
    return Promise.resolve();
  }
  restart(): Promise<void> {
    this.restarts += 1;
    return Promise.resolve();
  }
}

async function rig(t: { teardown(f: () => void): void }) {
  const memory = new MemoryLedger(new FakeClock());
  t.teardown(() => memory.close());
  const ledger = memory.client('n1');
  const slots = new FakeSlots();
  const env = {
    node: 'n1',
    version: '0.2.0',
    ledger,
    clock: { nowMs: () => 0, wallMs: () => 0, sleep: () => Promise.resolve() },
    log: { info: () => undefined, warn: () => undefined, error: () => undefined },
    radio: { say: () => undefined },
    live: { compare: () => ({}) },
    volumes: { haveImage: () => Promise.resolve('/srv/local/images/x.iso') },
  } as unknown as AgentEnv;
  const op: Op = {
    ...{ id: opId, kind: 'node.update', subject: { kind: 'image', id: imageId, name: 'new' }, node: 'n1' },
    ...{ askedBy: 'admin', args: {}, state: 'queued', step: '', progress: null, cancelAsked: false },
    ...{ createdMs: 0, updatedMs: 0, error: null },
  };
  const key = kinds.op.key(opId);
  await ledger.txn([], [{ put: key, value: writeRecord(kinds.op, op) }]);
  const image = { id: imageId, name: 'new', pool: poolId, state: 'ready', sha256, format: 'iso' } as Image;
  let desk = new UpdateDesk(env, slots, new OpBook(env), () => undefined);
  const now = async (): Promise<Op> => readRecord(kinds.op, key, (await ledger.get(key))?.value ?? '');
  /** One pass of the agent, to its end. */
  const pass = async (running = 0): Promise<Op> => {
    const e = await ledger.get(key);
    const value = await now();
    const s = {
      ops: new Map([[opId, { value, modRevision: e?.modRevision ?? 0n }]]),
      nodes: new Map(),
      images: new Map([[imageId, { value: image }]]),
      pools: new Map([[poolId, { value: { id: poolId } }]]),
    } as unknown as Snapshot;
    desk.look(s, running);
    for (let n = 0; n < 50; n++) await new Promise((resolve) => setImmediate(resolve));
    return now();
  };
  const reboots = (to: 'a' | 'b'): void => {
    slots.booted = to;
    slots.boot = `${slots.boot}+`;
    desk = new UpdateDesk(env, slots, new OpBook(env), () => undefined);
  };
  const change = async (patch: Partial<Op>): Promise<void> => {
    await ledger.txn([], [{ put: key, value: writeRecord(kinds.op, { ...(await now()), ...patch }) }]);
  };
  return { slots, pass, reboots, change };
}

void t.test('an update: written, tried, restarted into, found well', async (t) => {
  const { slots, pass, reboots } = await rig(t);
  t.match(await pass(), { state: 'running', args: { slot: 'b', boot: 'boot-1' } });
  t.same(slots.written, [`/srv/local/images/x.iso ${sha256}`]);
  t.equal(slots.restarts, 0, 'what it will do is in the ledger before it does it');
  t.equal((await pass()).state, 'running');
  t.match(slots, { onTrial: 'b', restarts: 1 });
  reboots('b');
  t.match(await pass(), { state: 'done', step: 'runs version 0.2.0 from slot b' });
  t.match(slots, { good_: 'b', onTrial: null });
  t.equal(slots.written.length, 1);
});

void t.test('one that falls back says so, and keeps the slot it had', async (t) => {
  const { slots, pass, reboots } = await rig(t);
  await pass();
  await pass();
  reboots('a');
  t.match(await pass(), { state: 'failed', error: { message: /went back to slot a/ } });
  t.match(slots, { good_: 'a', onTrial: 'b' });
});

void t.test('an agent that dies before the restart restarts again, and writes nothing twice', async (t) => {
  const { slots, pass, reboots } = await rig(t);
  await pass();
  const { boot } = slots;
  reboots('a');
  slots.boot = boot;
  await pass();
  t.match(slots, { restarts: 1, onTrial: 'b' });
  t.equal(slots.written.length, 1);
});

void t.test('refused: with VMs that run, also after the writing; cancelled; without slots', async (t) => {
  const one = await rig(t);
  t.match(await one.pass(2), { state: 'failed', error: { code: 'in-use' } });
  t.same(one.slots.written, []);
  const late = await rig(t);
  await late.pass();
  t.match(await late.pass(1), { state: 'failed', error: { code: 'in-use' } });
  t.equal(late.slots.restarts, 0);
  const cancelled = await rig(t);
  await cancelled.change({ cancelAsked: true });
  t.equal((await cancelled.pass()).state, 'cancelled');
  const host = await rig(t);
  host.slots.none = true;
  t.match(await host.pass(), { state: 'failed', error: { code: 'unsupported', hint: /scripts\/install/ } });
});

void t.test('the words of the program', (t) => {
  t.same(slotWords('booted=b good=a try= tries=0\n'), { booted: 'b', good: 'a', try: '', tries: '0' });
  t.end();
});
