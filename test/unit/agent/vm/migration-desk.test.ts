import t from 'tap';
import type { AgentEnv } from '../../../../agent/env.js';
import type { OpBook } from '../../../../agent/op-book.js';
import type { ReplicaDesk } from '../../../../agent/replica/replica-desk.js';
import type { Snapshot } from '../../../../agent/snapshot.js';
import { MigrationDesk } from '../../../../agent/vm/migration-desk.js';
import type { Ownership } from '../../../../agent/vm/ownership.js';
import { Turns } from '../../../../agent/vm/turns.js';
import { migratePolicyDefault } from '../../../../core/domain/migration.js';
import type { VmOwn } from '../../../../core/domain/vm.js';
import { epochKey, ledger as kinds, writeRecord } from '../../../../core/wire/ledger-keys.js';
import { KeptLog } from '../cluster/rig.js';

const id = '00000000-0000-4000-8000-000000000001';
const opId = '00000000-0000-4000-8000-000000000002';
const migrating: VmOwn = {
  owner: 'n1',
  standby: 'n2',
  copies: [],
  gen: 4,
  state: 'migrating',
  sync: 'ok',
  fence: { armed: false, waitMs: 0 },
  op: opId,
  synced: [],
  syncEpoch: 0,
  failoversMs: [],
  migration: { to: 'n2', op: opId, gen: 4, handedOver: false },
};
const handed: VmOwn = {
  ...migrating,
  owner: 'n2',
  state: 'running',
  gen: 5,
  migration: { to: 'n2', op: opId, gen: 4, handedOver: true },
};

/** A desk of n2, which the VM is on its way to. `heard` has each hand-over that it told of; `goes`: the guest goes on by that. */
function desk(goes = true) {
  const heard: number[] = [];
  const state = { own: migrating, woken: 0 };
  const env = {
    node: 'n2',
    clock: { nowMs: () => 0 },
    log: new KeptLog(),
    ledger: {
      get: (key: string) =>
        Promise.resolve({
          key,
          modRevision: 1n,
          value: key === epochKey ? '1' : writeRecord(kinds.vmOwn, state.own),
        }),
    },
  } as unknown as AgentEnv;
  const d = new MigrationDesk(
    env,
    { hasEnded: () => false } as unknown as OpBook,
    {} as Ownership,
    new Turns(() => undefined),
    {} as ReplicaDesk,
    () => void state.woken++,
    (_, own) => {
      heard.push(own.value.gen);
      return goes;
    },
  );
  const op = {
    id: opId,
    kind: 'vm.migrate',
    subject: { kind: 'vm', id, name: 'web' },
    state: 'running',
    args: { from: 'n1', to: 'n2', policy: migratePolicyDefault },
  };
  const kept = <T>(value: T) => ({ value, modRevision: 1n });
  const snapshot = (own: VmOwn): Snapshot =>
    ({
      ops: new Map([[opId, kept(op)]]),
      specs: new Map([[id, kept({ id, name: 'web', power: 'running' })]]),
      owns: new Map([[id, kept(own)]]),
      lives: new Map(),
      nodes: new Map(),
      meta: kept({ epoch: 1 }),
    }) as unknown as Snapshot;
  /** A bell, and all that it leads to. */
  const bell = async (): Promise<boolean> => {
    const sees = d.rang();
    for (let i = 0; i < 50; i++) await Promise.resolve();
    return sees;
  };
  return { d, heard, state, bell, look: (own: VmOwn) => d.look(snapshot(own), 0, new Map()) };
}

await t.test(
  'a hand-over is acted upon once, also where a pass has still read what was before',
  async (t) => {
    const { heard, state, bell, look } = desk();
    t.equal(await bell(), false, 'nothing is on its way: the pass is the loop’s');
    look(migrating);
    t.equal(await bell(), true);
    t.same([heard, state.woken], [[], 1], 'it was something else');
    state.own = handed;
    t.equal(await bell(), true);
    t.same([heard, state.woken], [[5], 1], 'the end of the guest’s turn wakes');
    t.equal(await bell(), false, 'what comes now is a bell as any other');
    look(migrating);
    await bell();
    t.same([heard, state.woken], [[5], 2]);
  },
);

await t.test('a hand-over whose guest cannot go on just now is left to the next pass', async (t) => {
  const { heard, state, bell, look } = desk(false);
  look(migrating);
  state.own = handed;
  await bell();
  t.same([heard, state.woken], [[5], 1]);
});
