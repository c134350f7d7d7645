import type { FailoverAction } from '../../core/decide/failover.js';
import { staleFor } from '../../core/decide/replica.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { FailoverTimeline } from '../../core/domain/ha.js';
import type { Op } from '../../core/domain/op.js';
import type { VmOwn } from '../../core/domain/vm.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { Compare } from '../ledger/ledger.js';
import type { Ownership, Subject } from '../vm/ownership.js';
import { failedOver, failoverOp } from './failover-op.js';

type Take = Extract<FailoverAction, { do: 'take' }>;
type Move = Extract<FailoverAction, { do: 'move' }>;

/** Makes this node the owner of a VM whose owner is gone. The transaction proves again all that the plan assumed. */
export class Takeover {
  private readonly env: AgentEnv;
  private readonly own: Ownership;

  constructor(env: AgentEnv, own: Ownership) {
    this.env = env;
    this.own = own;
  }

  /**
   * A VM that ran. The keeper arms first: from the transaction on others may believe that this node freezes it.
   *
   * @param heardMs - monotonic ms of the last beat of the old owner; null: none was heard
   * @throws FlotillaError `stale-view`: somebody was faster, or the owner is back; `not-armable`
   */
  async take(a: Take, s: Subject, heardMs: number | null): Promise<void> {
    const { clock, node } = this.env;
    const { waitMs } = await this.own.arm(s);
    const own = s.own.value;
    const next: VmOwn = {
      ...own,
      owner: node,
      ...this.copiesAfter(own),
      gen: own.gen + 1,
      state: 'running',
      fence: { armed: true, waitMs },
      // What a migration has brought is never taken for the machine of the new owner.
      migration: null,
      failoversMs: failedOver(own, clock.wallMs()),
    };
    const op = this.op(a, s, heardMs);
    const proof = a.fence === 'waited' ? null : s.snapshot.fenced.get(a.from);
    if (proof === undefined)
      throw new FlotillaError('stale-view', `The proof that ${a.from} is off is gone`, { hint: '' });
    await this.own.swap(s, next, {
      compare: [
        ...absent(a.from, a.absence.seenRevision),
        ...standbyAbsent(a, own),
        this.stays(s),
        ...(proof === null ? [] : [{ key: kinds.fenced.key(a.from), modRevision: proof.modRevision }]),
      ],
      writes: [{ put: kinds.op.key(op.id), value: writeRecord(kinds.op, op) }],
    });
    this.env.radio.say('op', op, op.id);
    // At once, for a former owner that froze and still reads the pool; the start does it again and insists.
    await this.own.leaveTakeover(s, next.gen).catch((e: unknown) => {
      this.env.log.warn(`VM "${s.spec.value.name}": no takeover record yet: ${String(e)}`, { vm: s.id });
    });
  }

  /** A VM that is off: nothing of it can run anywhere, so nobody has to be armed or proven off. */
  async move(a: Move, s: Subject): Promise<void> {
    const own = s.own.value;
    await this.own.swap(
      s,
      {
        ...own,
        owner: this.env.node,
        ...this.copiesAfter(own),
        gen: own.gen + 1,
        migration: null,
      },
      { compare: [...absent(a.from, a.absence.seenRevision), ...standbyAbsent(a, own), this.stays(s)] },
    );
  }

  /**
   * The standby is chosen anew by the new owner once it runs. Where the disks have a copy here, it is the old owner,
   * whose copy counts as stale from now on: what it wrote last nobody was told of, and it may never have come here.
   */
  private copiesAfter(own: VmOwn): Pick<VmOwn, 'standby' | 'sync' | 'synced' | 'syncEpoch' | 'copies'> {
    const { sync, synced, syncEpoch, copies } =
      own.copies.length > 0 ? staleFor(own, this.env.node) : { ...own, sync: 'none' as const };
    const standby = own.copies.length > 0 ? own.owner : null;
    return { standby, sync, synced, syncEpoch, copies };
  }

  /** This node is still of the cluster, and not leaving it: its removal has seen that it owns nothing. */
  private stays(s: Subject): Compare {
    const { node } = this.env;
    return { key: kinds.node.key(node), modRevision: s.snapshot.nodes.get(node)?.modRevision ?? 0n };
  }

  private op(a: Take, s: Subject, heardMs: number | null): Op {
    const { clock, node } = this.env;
    const nowMs = clock.nowMs();
    const wallMs = clock.wallMs();
    const { sinceMs } = a.absence;
    // A node may go on beating after its lease is gone: then its last beat is no beginning.
    const beatMs = heardMs !== null && heardMs <= sinceMs ? heardMs : null;
    const beginMs = beatMs ?? sinceMs;
    const after = (ms: number): number => Math.round(ms - beginMs);
    const timeline: FailoverTimeline = {
      from: a.from,
      to: node,
      fence: a.fence,
      atMs: Math.max(0, Math.round(wallMs - (nowMs - beginMs))),
      phasesMs: {
        ...(beatMs === null ? {} : { 'last-beat': 0 }),
        'lease-gone': after(sinceMs),
        'wait-over': after(a.overMs),
        owned: after(nowMs),
      },
    };
    return failoverOp(this.env, s, {
      askedBy: `standby ${node}`,
      step: `taken over from ${a.from}`,
      args: timeline,
    });
  }
}

/** The node is gone, and was not back since its absence began. */
const absent = (node: string, seenRevision: bigint): Compare[] => [
  { key: kinds.live.key(node), createRevision: 0n },
  { key: kinds.seen.key(node), modRevision: seenRevision },
];

const standbyAbsent = (a: Take | Move, own: VmOwn): Compare[] =>
  a.standbyAbsence === null || own.standby === null ? [] : absent(own.standby, a.standbyAbsence.seenRevision);
