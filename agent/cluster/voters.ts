import { decideVoters, type VoterStep } from '../../core/decide/voters.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { leadKey, ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { Clock, Liveness, Log } from '../env.js';
import type { LedgerMembers, Member } from '../ledger/members.js';
import type { RecordStore } from '../ledger/records.js';
import { absent } from '../ledger/records.js';
import type { AgentConfig } from './config.js';
import { peerUrl } from './etcd-settings.js';
import { jitterMs, type VoterSeat } from './voter-seat.js';

/** How often members are looked at, ms. A change is patient anyway: etcd wants its voters connected for 5 s first. */
export const votersEveryMs = 5_000;
/** A voter or learner whose node is gone for this long is replaced, ms: longer than a reboot with a memory check. */
export const lostAfterMs = 10 * 60_000;

export interface VoterLoopDeps {
  readonly config: AgentConfig;
  readonly store: RecordStore;
  readonly members: Pick<LedgerMembers, 'list' | 'addLearner' | 'promote' | 'remove' | 'status' | 'handOver'>;
  readonly live: Liveness & {
    /** The lease to bind what must end with this node to; null while it has none that counts. */
    lease(): string | null;
  };
  readonly seat: VoterSeat;
  /** Owners, and nodes of twins, of machines that are or are to be in lockstep. */
  pairs(): readonly { readonly owner: string; readonly twin: string | null }[];
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Keeps the ledger's voters as many as the cluster should have. Each node settles its own seat; the one that holds
 * `lead/voters` also takes the next step for all. Nothing is remembered between steps but for how long a node has
 * been gone: whoever leads next goes on from the members as they are.
 */
export class VoterLoop {
  readonly #d: VoterLoopDeps;
  readonly #goneSinceMs = new Map<string, number>();
  readonly #stop = new AbortController();
  #running: Promise<void> | null = null;
  #last: { text: string; ok: boolean } = { text: '', ok: true };
  #leads = false;

  constructor(d: VoterLoopDeps) {
    this.#d = d;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort(new Error('stopped'));
    await this.#running;
  }

  /** What it waits for or does, in words; for pages. */
  get state(): { readonly text: string; readonly ok: boolean; readonly leads: boolean } {
    return { ...this.#last, leads: this.#leads };
  }

  async #run(): Promise<void> {
    const { clock } = this.#d;
    const signal = this.#stop.signal;
    while (!signal.aborted) {
      const acted = await this.step();
      const pauseMs = acted ? 200 : votersEveryMs + jitterMs(1_000);
      await clock.sleep(pauseMs, signal).catch(() => undefined);
    }
  }

  /** One look and at most one act. @returns whether something was done, so that the next look comes soon */
  async step(): Promise<boolean> {
    try {
      const members = await this.#d.members.list();
      const settled = await this.#d.seat.settle(members);
      this.#leads = await this.#lead();
      if (!this.#leads) {
        this.#last = { text: settled ?? '', ok: true };
        return settled !== null;
      }
      const step = await this.#decide(members);
      await this.#act(step, members);
      this.#last = { text: step.why, ok: step.do !== 'nothing' || step.why === '' };
      return settled !== null || step.do !== 'nothing';
    } catch (error) {
      const { code, message, causes } = errorRecord(error);
      // "Not now" is etcd's usual answer for some seconds after each change.
      if (code !== 'wrong-state')
        this.#d.log.warn('the voters could not be tended', { code, message, causes });
      this.#last = { text: message, ok: code === 'wrong-state' };
      return false;
    }
  }

  /** True while this node holds the job: bound to its lease, so it ends with the node. */
  async #lead(): Promise<boolean> {
    const { store, live, config } = this.#d;
    const key = leadKey('voters');
    const mine = live.compare();
    const lease = live.lease();
    if (mine === null || lease === null) return false;
    const now = await store.ledger.get(key);
    if (now !== null) return now.value === config.name && now.lease === lease;
    const r = await store.txn([absent(key), mine], [{ put: key, value: config.name, lease }]);
    return r.done;
  }

  async #decide(members: readonly Member[]): Promise<VoterStep> {
    const { store, config, clock } = this.#d;
    const nodes = await store.list(kinds.node);
    const lives = await store.ledger.list(kinds.live.prefix);
    if (nodes.unreadable.length > 0) {
      // A node whose record cannot be read must not look like one that is not there.
      return { do: 'nothing', why: `the record ${nodes.unreadable[0]?.key} cannot be read` };
    }
    const alive = new Set(lives.entries.map((e) => kinds.live.idOf(e.key)));
    const pairs = this.#d.pairs();
    const view = nodes.items.map(({ value: n }) => ({
      ...n,
      lockstep: {
        owns: pairs.filter((p) => p.owner === n.id).length,
        twins: pairs.filter((p) => p.twin === n.id).length,
      },
      alive: alive.has(n.id),
      peerUrl: peerUrl(n.addresses[0] ?? '', config.ports),
    }));
    const aliveUrls = new Set(view.filter((n) => n.alive).map((n) => n.peerUrl));
    const lost = new Set<string>();
    for (const m of members) {
      if (m.peerUrls.some((u) => aliveUrls.has(u))) this.#goneSinceMs.delete(m.id);
      else if (!this.#goneSinceMs.has(m.id)) this.#goneSinceMs.set(m.id, clock.nowMs());
      else if (clock.nowMs() - (this.#goneSinceMs.get(m.id) ?? 0) > lostAfterMs) lost.add(m.id);
    }
    return decideVoters({
      nodes: view,
      members: members.map((m) => ({ id: m.id, peerUrl: m.peerUrls[0] ?? '', learner: m.learner })),
      lost,
      leader: pairs.length === 0 ? null : await this.#leader(members),
    });
  }

  /** As the first member says that answers. */
  async #leader(members: readonly Member[]): Promise<string | null> {
    for (const [url] of members.filter((m) => !m.learner).map((m) => m.clientUrls)) {
      const is = url === undefined ? null : await this.#d.members.status(url).catch(() => null);
      if (typeof is?.leader === 'string') return is.leader;
    }
    return null;
  }

  async #act(step: VoterStep, all: readonly Member[]): Promise<void> {
    const { members, store, log } = this.#d;
    if (step.do === 'nothing') return;
    if (this.#d.live.compare() === null)
      throw new FlotillaError('not-owner', 'The lease was lost before the step', {
        hint: 'It is tried again.',
      });
    switch (step.do) {
      case 'add-learner':
        await members.addLearner(step.peerUrl);
        break;
      case 'promote':
        await members.promote(step.member);
        break;
      case 'remove':
        await members.remove(step.member);
        break;
      case 'hand-over': {
        const url = all.find((m) => m.id === step.leader)?.clientUrls[0];
        if (url === undefined) return;
        await members.handOver(url, step.member);
        break;
      }
      case 'record':
        await store.change(kinds.node, step.node, (old) =>
          old === null ? null : { ...old, voter: step.voter },
        );
        break;
    }
    log.info('tended the voters', { ...step });
  }
}
