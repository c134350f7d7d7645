import { chmodSync, rmSync } from 'node:fs';
import net from 'node:net';
import { decideFence } from '../../core/decide/replica.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { PairSeen, ReplicaVolume } from '../../core/domain/replica.js';
import type { VmOwn } from '../../core/domain/vm.js';
import { epochKey, ledger as kinds, readRecord, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { LedgerEntry } from '../ledger/ledger.js';
import { vmOfResource } from './config.js';

/** The kernel's question is answered within this, ms; the program that carries it waits a little longer. */
const answerMs = 40_000;
/** A ledger, a lease or a reading that is away is asked for again so often, ms. */
const againMs = 500;
/** Longest question: `fence-peer`, a blank, a resource. */
const questionMax = 120;
/** More questions at once than a node has VMs would be somebody's mistake. */
const questionsMax = 256;

/** Exit codes of `fence-peer`, as the kernel takes them. @see drbd.conf(5) of 8.4: fence-peer */
export const verdicts = { refused: 1, outdated: 4, fenced: 7 } as const;
export type Verdict = (typeof verdicts)[keyof typeof verdicts];

type Asking = Pick<AgentEnv, 'node' | 'clock' | 'ledger' | 'live' | 'log'> & {
  readonly replication: Pick<NonNullable<AgentEnv['replication']>, 'observe'>;
};

/**
 * Answers the kernel that has lost a peer: the writes of a VM's disks go on only after the ledger calls the other copy stale.
 * What passes by itself (no ledger, no lease) is waited for; a no that stays is said at once.
 *
 * @see safety 2, core/decide/replica.ts
 */
export class FenceJudge {
  readonly #env: Asking;

  constructor(env: Asking) {
    this.#env = env;
  }

  /** @returns once decided, or when the time is over. Never throws */
  async judge(vm: string): Promise<Verdict> {
    const { clock, log } = this.#env;
    const until = clock.nowMs() + answerMs;
    for (;;) {
      const r = await this.once(vm).catch((e: unknown) => ({
        ok: false,
        why: errorRecord(e).message,
        stays: false,
      }));
      if (r.ok) {
        log.warn(`the other copy of the disks of VM ${vm} is stale from now on`, { vm });
        return verdicts.fenced;
      }
      if (r.stays || clock.nowMs() + againMs >= until) {
        log.error(`the disks of VM ${vm} stay frozen, or are not opened: ${r.why}`, { vm });
        return verdicts.refused;
      }
      await clock.sleep(againMs);
    }
  }

  /** One try. `stays`: asking again changes nothing. @throws FlotillaError `ledger-unavailable` */
  async once(vm: string): Promise<{ readonly ok: boolean; readonly why: string; readonly stays: boolean }> {
    const { ledger, live, node } = this.#env;
    const mine = live.compare();
    const [kept, epoch] = [await ledger.get(kinds.vmOwn.key(vm)), await ledger.get(epochKey)];
    const { pairs } = await this.#env.replication.observe();
    const own = readOwn(kept);
    const pair = pairs.get(vm) ?? null;
    const unused = pair === null ? new Set<number>() : await this.#unused(pair);
    const d = decideFence({ me: node, live: mine !== null, own, pair, unused });
    if (!d.ok) return { ok: false, why: d.why, stays: mine !== null };
    if (kept === null || mine === null || epoch === null)
      return { ok: false, why: 'the ledger has no epoch', stays: false };
    const r = await ledger.txn(
      [{ key: kept.key, modRevision: kept.modRevision }, mine, { key: epochKey, value: epoch.value }],
      [{ put: kept.key, value: writeRecord(kinds.vmOwn, d.own) }],
    );
    return { ok: r.done, why: 'its ownership record changed meanwhile', stays: false };
  }

  /** Volumes that are not whole and of disks still in the making. @throws FlotillaError `ledger-unavailable` */
  async #unused(pair: PairSeen): Promise<ReadonlySet<number>> {
    const out = new Set<number>();
    const odd = pair.volumes.filter((v) => v.here === 'Inconsistent');
    if (odd.length === 0) return out;
    const { ledger } = this.#env;
    const key = kinds.replica.key(pair.vm);
    const volumes = volumesOrNone(await ledger.get(key));
    for (const v of odd) {
      const disk = volumes.find((x) => x.volume === v.volume)?.disk;
      const kept = disk === undefined ? null : await ledger.get(kinds.disk.key(disk));
      if (kept !== null && stateOf(kept) === 'wanted') out.add(v.volume);
    }
    return out;
  }
}

function volumesOrNone(kept: LedgerEntry | null): readonly ReplicaVolume[] {
  try {
    return kept === null ? [] : readRecord(kinds.replica, kept.key, kept.value).volumes;
  } catch {
    return [];
  }
}

function stateOf(kept: LedgerEntry): string {
  try {
    return readRecord(kinds.disk, kept.key, kept.value).state;
  } catch {
    return '';
  }
}

function readOwn(kept: LedgerEntry | null): VmOwn | null {
  try {
    return kept === null ? null : readRecord(kinds.vmOwn, kept.key, kept.value);
  } catch {
    return null;
  }
}

/** The socket behind which the judge sits. Root's alone. */
export class FenceDoor {
  readonly #path: string;
  readonly #judge: Pick<FenceJudge, 'judge'>;
  readonly #onSplit: (minor: number) => void;
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();

  /** @param o.onSplit - told that two copies were both written while apart */
  constructor(o: { path: string; judge: Pick<FenceJudge, 'judge'>; onSplit: (minor: number) => void }) {
    this.#path = o.path;
    this.#judge = o.judge;
    this.#onSplit = o.onSplit;
    this.#server = net.createServer((s) => this.#serve(s));
    this.#server.maxConnections = questionsMax;
  }

  /** @throws FlotillaError `internal`: the socket cannot be made */
  async start(): Promise<void> {
    rmSync(this.#path, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', (cause) =>
        reject(
          new FlotillaError('internal', `The socket ${this.#path} cannot be made`, {
            hint: 'See whether /run/flotilla is there and not full; without it a lost peer freezes its VMs.',
            cause,
          }),
        ),
      );
      this.#server.listen(this.#path, resolve);
    });
    chmodSync(this.#path, 0o600);
  }

  stop(): void {
    this.#server.close();
    for (const s of this.#sockets) s.destroy();
  }

  #serve(socket: net.Socket): void {
    this.#sockets.add(socket);
    socket.setEncoding('utf8');
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    let text = '';
    const onData = (piece: string): void => {
      text += piece;
      const end = text.indexOf('\n');
      if (end < 0 && text.length <= questionMax) return;
      socket.off('data', onData);
      void this.#answer(text.slice(0, Math.max(0, end))).then((n) => socket.end(`${n}\n`));
    };
    socket.on('data', onData);
  }

  async #answer(question: string): Promise<number> {
    const [what = '', of = '', ...more] = question.split(' ');
    const minor = /^minor-(\d{1,7})$/.exec(of)?.[1];
    if (what === 'split-brain' && minor !== undefined) {
      this.#onSplit(Number(minor));
      return 0;
    }
    const vm = vmOfResource(of);
    if (what !== 'fence-peer' || vm === null || more.length > 0) return verdicts.refused;
    return this.#judge.judge(vm).catch(() => verdicts.refused);
  }
}
