import { planRecovery, type RecoverAnswers, type RecoverPlan } from '../../../core/decide/recover.js';
import { staleFor } from '../../../core/decide/replica.js';
import { FlotillaError } from '../../../core/domain/error.js';
import {
  epochKey,
  ledger as kinds,
  metaKey,
  metaSchema,
  readRecord,
  recoveryKey,
  recoverySchema,
  writeRecord,
} from '../../../core/wire/ledger-keys.js';
import type { VmOwn } from '../../../core/domain/vm.js';
import { admittedKey } from '../../../core/wire/key-names.js';
import { notOlder } from '../../journal/read.js';
import type { Compare, Ledger, Write } from '../../ledger/ledger.js';
import { putRecord } from '../../ledger/records.js';
import type { AgentConfig } from '../config.js';
import { askJournal, collect, readRecovery, type Collected } from './collect.js';

/** VMs per transaction: each is one compare and one write, etcd takes 128 of both. */
const batch = 60;

export interface ConfirmDeps {
  readonly config: AgentConfig;
  readonly ledger: Ledger;
  readonly say: (text: string) => void;
  /** For tests; production asks the nodes. */
  readonly ask?: typeof askJournal;
}

export interface Confirmed {
  readonly epoch: number;
  readonly plan: RecoverPlan;
  readonly admitted: readonly string[];
  readonly off: readonly string[];
}

/**
 * Ends a recovery: writes who owns what, in new generations, admits the nodes that answer, and lets go. Until the
 * last transaction nothing may start; cut off before it, the same call comes to the same end.
 *
 * @throws FlotillaError `wrong-state`: questions are open, or a node said to be off answers; `not-found`: no such node
 */
export async function confirmRecovery(d: ConfirmDeps, a: RecoverAnswers): Promise<Confirmed> {
  const c = await collect(d.config, d.ledger, d.ask);
  for (const node of a.off) {
    const asked = c.asked.find((x) => x.node === node);
    if (asked === undefined) {
      throw new FlotillaError('not-found', `There is no node "${node}"`, {
        hint: 'See: flotilla-agent recover journals.',
      });
    }
    if (!asked.on) continue;
    const how = asked.journal === null ? 'its machine answers, only its agent does not' : 'its agent answers';
    throw new FlotillaError('wrong-state', `Node ${node} is not off: ${how}`, {
      hint: 'Start its agent and leave it out, so that it is admitted; or switch it off first.',
    });
  }
  const plan = planRecovery(c.view, a);
  if (plan.questions.length > 0) {
    throw new FlotillaError(
      'wrong-state',
      `${plan.questions.length} questions are open: ${plan.questions.map((q) => q.text).join(' ')}`,
      {
        hint: 'Answer with "--off NODE" for a node that is off for certain, "--owner VM=NODE" for a VM; nothing was changed.',
        details: plan.questions,
      },
    );
  }
  const epoch = await raiseEpoch(d, c, plan.epochSeen);
  const at = await readRecovery(d.ledger);
  const guard: Compare[] = [
    { key: recoveryKey, modRevision: at.modRevision },
    { key: epochKey, value: String(epoch) },
  ];
  d.say(`writes who owns ${plan.vms.length} VMs`);
  const writes = plan.vms.flatMap((m) => owned(c, m));
  for (let i = 0; i < writes.length; i += batch) {
    const part = writes.slice(i, i + batch);
    await must(
      d.ledger,
      [...guard, ...part.map((w) => w.compare)],
      part.map((w) => w.write),
    );
  }
  const admitted = c.asked
    .filter((x) => x.journal !== null && c.snapshot.nodes.has(x.node))
    .map((x) => x.node);
  d.say(`admits ${admitted.join(', ')}, and ends the recovery`);
  await must(d.ledger, guard, [
    ...admitted.map((n) => ({ put: admittedKey(n), value: String(epoch) })),
    { del: recoveryKey },
  ]);
  return { epoch, plan, admitted, off: a.off };
}

/** A journal may speak of an epoch that began after the snapshot: this one must be above all of them. */
async function raiseEpoch(d: ConfirmDeps, c: Collected, seen: number): Promise<number> {
  const { epoch } = c.recovery.value;
  if (seen < epoch) return epoch;
  const next = seen + 1;
  d.say(`raises the epoch to ${next}: the journals speak of ${seen}`);
  const meta = await d.ledger.get(metaKey);
  if (meta === null)
    throw new FlotillaError('unreadable-record', 'The ledger holds no cluster', { hint: 'Begin anew.' });
  const value = { ...readRecord({ schema: metaSchema }, metaKey, meta.value), epoch: next };
  await must(
    d.ledger,
    [
      { key: metaKey, modRevision: meta.modRevision },
      { key: recoveryKey, modRevision: c.recovery.modRevision },
    ],
    [
      { put: metaKey, value: writeRecord({ schema: metaSchema }, value) },
      { put: epochKey, value: String(next) },
      {
        put: recoveryKey,
        value: writeRecord({ schema: recoverySchema }, { ...c.recovery.value, epoch: next }),
      },
    ],
  );
  return next;
}

function owned(c: Collected, m: RecoverPlan['vms'][number]): { compare: Compare; write: Write }[] {
  const own = c.snapshot.owns.get(m.id);
  if (own === undefined) return [];
  const compare = { key: kinds.vmOwn.key(m.id), modRevision: own.modRevision };
  if (m.owner === null)
    return own.value.copies.length === 0
      ? []
      : [{ compare, write: putRecord(kinds.vmOwn, m.id, staleFor(own.value, own.value.owner)) }];
  const state = own.value.state === 'migrating' ? 'running' : own.value.state;
  const fence = { armed: false, waitMs: 0 };
  const next = {
    ...own.value,
    owner: m.owner,
    standby: null,
    ...copiesAfter(own.value, m.owner),
    gen: m.gen,
    state,
    fence,
    op: null,
    fresh: m.fresh,
  };
  return [{ compare, write: putRecord(kinds.vmOwn, m.id, next) }];
}

/** Of two copies the owner's counts; which writes the other one lacks, the ledger of before does not tell. */
function copiesAfter(own: VmOwn, owner: string): Partial<VmOwn> {
  if (own.copies.length === 0) return {};
  const standby = own.copies.find((c) => c.node !== owner)?.node ?? null;
  return { ...staleFor(own, owner), standby };
}

async function must(ledger: Ledger, compare: readonly Compare[], writes: readonly Write[]): Promise<void> {
  const r = await ledger.txn(compare, writes);
  if (r.done) return;
  throw new FlotillaError('edit-conflict', 'Somebody else changed the ledger meanwhile', {
    hint: 'Does another person recover it too? Run the same again.',
  });
}

/**
 * Admits a node that was off during a recovery and has come back.
 *
 * @throws FlotillaError `wrong-state`: a recovery is under way, or its journal knows later than the ledger;
 *   `not-found`, `node-unreachable`
 */
export async function admitNode(d: ConfirmDeps, node: string): Promise<{ node: string; epoch: number }> {
  const { config, ledger } = d;
  if ((await ledger.get(recoveryKey)) !== null) {
    throw new FlotillaError('wrong-state', 'A recovery is under way', {
      hint: 'End it first: flotilla-agent recover confirm. It admits all nodes that answer.',
    });
  }
  const record = await ledger.get(kinds.node.key(node));
  const epoch = await ledger.get(epochKey);
  if (record === null || epoch === null) {
    throw new FlotillaError('not-found', `There is no node "${node}" in the ledger`, {
      hint: 'One that joined after the snapshot joins again: move its state directory away first.',
    });
  }
  const { addresses } = readRecord(kinds.node, kinds.node.key(node), record.value);
  const { journal, why } = await (d.ask ?? askJournal)(config, node, addresses[0] ?? '');
  if (journal === null) {
    throw new FlotillaError('node-unreachable', `Node ${node} gives no journal: ${why}`, {
      hint: 'It must run, so that what it knows can be compared.',
    });
  }
  for (const e of journal.entries) {
    const at = await ledger.get(kinds.vmOwn.key(e.vm));
    if (at === null) continue;
    const own = readRecord(kinds.vmOwn, at.key, at.value);
    // Its own epoch it was told by this ledger; entries of before can only be of lower generations.
    const later = notOlder({ epoch: 0, gen: e.gen }, { epoch: 0, gen: own.gen }) && e.owner !== own.owner;
    if (!later) continue;
    throw new FlotillaError(
      'wrong-state',
      `The journal of ${node} knows later than the ledger of VM ${e.vm}: ${e.owner} owned it at generation ${e.gen}, the ledger has ${own.owner} at ${own.gen}`,
      {
        hint: 'Something ran there that the recovery did not know of. Look at its disks before it is admitted.',
      },
    );
  }
  d.say(`admits ${node}`);
  await must(
    ledger,
    [
      { key: record.key, modRevision: record.modRevision },
      { key: epochKey, value: epoch.value },
    ],
    [{ put: admittedKey(node), value: epoch.value }],
  );
  return { node, epoch: Number(epoch.value) };
}
