import { FlotillaError } from '../domain/error.js';
import { protectionLevel } from '../domain/ha.js';
import type { OwnLockstep, VmOwn, VmSpec } from '../domain/vm.js';
import type { LockstepWord } from '../wire/lockstep.js';

/** The two machines of a pair are made equal at least so often, ms: what detection counts on. Costs an idle guest a tenth. */
export const checkpointEveryMs = 400;
/** A twin asks its owner's node so often, on each of its addresses, ms. */
export const beatEveryMs = 200;
/** After this silence on all networks, and as long without a checkpoint, the owner counts as lost, ms. */
export const ownerSilentMs = 700;
export const ownerQuietMs = checkpointEveryMs + 400;
/** The same of a twin; shorter, so that the owner goes on where only the way between the two is cut. */
export const twinSilentMs = 500;
export const twinQuietMs = checkpointEveryMs + 300;
/**
 * Nothing on any of its networks answers any more, not even its kernel, and no checkpoint comes: then its node is gone, after ms.
 * Each time it is asked anew: a packet or two that are lost do not look so. Longer for the twin: where both live, its owner goes on.
 */
export const ownerGoneMs = 450;
export const twinGoneMs = 350;
/** An owner that lost its twin, and could not say so in the ledger so long after the last checkpoint, lets the twin try, ms. */
export const cannotPartMs = twinQuietMs + 600;
/** QEMU itself lost the owner: then this silence is enough, ms. One whose QEMU alone died says so itself. */
export const brokenSilentMs = 300;
/** Both agents live and say that all is well, and yet there is no checkpoint for so long: the owner goes on alone, ms. */
export const stuckMs = 5_000;
/** The same, and the owner has not done so: the twin goes on, ms. */
export const stuckForTwinMs = 15_000;
/** The machine of a protected VM is gone here: so long its twin has to become the owner before it is started anew, ms. */
export const twinComesMs = 15_000;
/** A VM that lost its twin, or got none, gets the next try after this, ms: doubles up to the longest. */
export const againMs = (tries: number): number => Math.min(300_000, 5_000 * 2 ** Math.min(tries, 6));

/** A machine of such a VM as it is on this node. */
export interface MachineHere {
  /** Generation of the ownership that it is marked with. */
  readonly gen: number;
  /** `alone`: it has no twin, none that counts yet, or none any more. */
  readonly role: 'alone' | 'primary' | 'twin';
  /** False: it stands still. A twin that waits for its primary does, too. */
  readonly running: boolean;
  /** Counted since this pair began. */
  readonly checkpoints: number;
  /** When the last one was seen, monotonic ms; null: none yet. */
  readonly lastCheckpointMs: number | null;
  /** Why the pair is no more, in words: QEMU gave up by itself, or a channel broke. Null: nothing is known of that. */
  readonly broken: string | null;
  /** Its guest has panicked since this pair began. Of a twin: it is not whole, whatever the next checkpoint makes of it. */
  readonly panicked: boolean;
  /** False: its guest began so lately that a twin made now might not stay whole. */
  readonly settled: boolean;
}

/** The other node of the pair, as this one hears it. Ages are of now, and of this node's own stalls nothing counts. */
export interface PeerHeard {
  /** Since the last beat on any network; Infinity: none yet. */
  readonly silentMs: number;
  /** Since the last one on the network that carries the pair. */
  readonly channelSilentMs: number;
  /** Since anything of its node answered: a beat, or its kernel to a connection. Only where that was tried in vain several times. */
  readonly goneMs: number;
  /** What it said last; null: nothing yet. */
  readonly word: LockstepWord | null;
}

export interface LockstepView {
  readonly me: string;
  readonly spec: Pick<VmSpec, 'power' | 'ha'>;
  readonly own: VmOwn;
  /** This node may write. */
  readonly live: boolean;
  /** Somebody wants the machine to end, or to stand still: it is to have no twin. */
  readonly ends: boolean;
  /** Its keeper has frozen the VM. */
  readonly frozen: boolean;
  /** The node is to run no VMs any more, and another one may. */
  readonly leaves: boolean;
  /** Its twin's node is to run no VMs any more. */
  readonly twinLeaves: boolean;
  readonly here: MachineHere | null;
  /** How it ended here, where it is not here: in order, or not. */
  readonly ended: 'in-order' | 'lost' | null;
  /** This agent is at it to give it a twin. */
  readonly joining: boolean;
  readonly peer: PeerHeard;
  /** Before this no silence of others counts: this node stood still itself, or has just begun to listen, monotonic ms. */
  readonly deafUntilMs: number;
  /** Before this no twin is tried, monotonic ms. */
  readonly restUntilMs: number;
}

export type LockstepStep =
  | { readonly do: 'none' }
  /** Choose a node, name it in the ledger, have it bear a twin, join it. */
  | { readonly do: 'pair' }
  /** It has made its first further checkpoint: from now on the twin may take it over. */
  | { readonly do: 'protect' }
  /** The ledger first: no twin. Then it goes on alone. */
  | { readonly do: 'part'; readonly why: string }
  /** The ledger has said so already: it goes on alone. */
  | { readonly do: 'go-alone' }
  /**
   * The channels are shut, then the ledger is to name this node as owner, then the twin goes on here. `handed`: the owner
   * wants it so, and nothing has failed.
   */
  | { readonly do: 'take'; readonly why: string; readonly handed: boolean }
  /** The ledger names this node already. */
  | { readonly do: 'take-over' }
  /** A twin that is nobody's. */
  | { readonly do: 'end'; readonly why: string };

export interface LockstepDecision {
  readonly step: LockstepStep;
  /** What this node's beats say of its side. */
  readonly word: LockstepWord;
}

/** A VM that is to have a twin now. */
export const wantsTwin = (v: Pick<LockstepView, 'spec' | 'ends'>): boolean =>
  protectionLevel(v.spec.ha) === 'lockstep' && v.spec.power === 'running' && !v.ends;

/**
 * What to do next for one machine in lockstep on this node: as its owner, or as who has its twin.
 *
 * Nothing here makes sure that only one of the two goes on: that is the compare of `own` in whose swap `take` and `part`
 * begin. So a wrong guess about who is lost costs a twin and nothing else. Who acts keeps the order: channels, ledger,
 * machine for the twin; ledger, machine for the owner. @see docs/lockstep.md, safety 11, test/models/lockstep.pml
 */
export function decideLockstep(v: LockstepView, nowMs: number): LockstepDecision {
  return v.here?.role === 'twin' ? decideTwin(v, v.here, nowMs) : decideOwner(v, nowMs);
}

const none: LockstepStep = { do: 'none' };

function decideOwner(v: LockstepView, nowMs: number): LockstepDecision {
  const { own, here } = v;
  const pair = own.lockstep ?? null;
  if (own.owner !== v.me) {
    // Named as twin, and has none: the owner must know.
    return { step: none, word: 'lost' };
  }
  const word = wordOfOwner(v, nowMs);
  const say = (step: LockstepStep): LockstepDecision => ({ step, word });
  if (pair === null || here === null || !v.live) return say(none);
  if (pair.state === 'alone') {
    if (here.role === 'primary' || here.broken !== null) return say({ do: 'go-alone' });
    if (!wantsTwin(v) || !here.running || !here.settled || v.frozen || v.joining) return say(none);
    if (nowMs < v.restUntilMs) return say(none);
    return say({ do: 'pair' });
  }
  if (!wantsTwin(v)) return say({ do: 'part', why: 'it is to have none' });
  if (v.frozen) return say(none);
  if (v.twinLeaves) return say({ do: 'part', why: `${pair.twin ?? 'its node'} is to run no VMs` });
  const lost = lostTwin(v, here, nowMs);
  if (pair.state === 'preparing') {
    if (v.joining) return say(none);
    const joined = here.role === 'primary' && here.checkpoints > 0 && lost === null;
    if (!joined) return say({ do: 'part', why: lost ?? 'its making was broken off' });
    return say(v.peer.word === null ? none : { do: 'protect' });
  }
  return say(lost === null ? none : { do: 'part', why: lost });
}

function wordOfOwner(v: LockstepView, nowMs: number): LockstepWord {
  const { here, own } = v;
  if (here === null) return v.ended === 'in-order' ? 'over' : 'lost';
  if (v.frozen) return 'lost';
  if (own.lockstep?.state !== 'protected') return 'well';
  // It stands still for nobody: what is to be paused has let its twin go before.
  if (!here.running) return 'lost';
  if (v.leaves) return 'yours';
  // What it sends is held until the ledger has one of the two go on, and it may be this node that does not reach it.
  if (nowMs - (here.lastCheckpointMs ?? -Infinity) >= cannotPartMs && lostTwin(v, here, nowMs) !== null)
    return 'lost';
  return here.broken === null ? 'well' : 'broken';
}

/** Why the owner has to go on without its twin; null: it need not. */
function lostTwin(v: LockstepView, here: MachineHere, nowMs: number): string | null {
  const { peer } = v;
  if (here.broken !== null) return `QEMU lost it: ${here.broken}`;
  if (here.role === 'alone') return 'the machine here is in no pair';
  const quietMs = nowMs - (here.lastCheckpointMs ?? -Infinity);
  if (nowMs < v.deafUntilMs) return null;
  if (Math.min(peer.goneMs, quietMs) >= twinGoneMs) return 'its node is gone';
  const heard = peer.silentMs < twinSilentMs;
  if (heard && peer.word !== null && peer.word !== 'well') return `its node says that it is ${peer.word}`;
  if (quietMs < twinQuietMs) return null;
  if (peer.channelSilentMs >= twinSilentMs) return 'its node is silent';
  return quietMs >= stuckMs ? 'it makes no checkpoints' : null;
}

function decideTwin(v: LockstepView, here: MachineHere, nowMs: number): LockstepDecision {
  const { own } = v;
  const pair = own.lockstep ?? null;
  const word: LockstepWord = here.panicked ? 'lost' : here.broken === null ? 'well' : 'broken';
  const say = (step: LockstepStep): LockstepDecision => ({ step, word });
  // What was read is older than the twin.
  if (own.gen < here.gen) return say(none);
  if (own.owner === v.me) {
    const mine = isOwnersTwin(pair, here) && own.state === 'running';
    if (mine && here.panicked) return say({ do: 'end', why: panickedText });
    return say(mine ? { do: 'take-over' } : { do: 'end', why: 'its VM goes on without it' });
  }
  if (pair?.twin !== v.me || pair.pair !== here.gen || own.state !== 'running')
    return say({ do: 'end', why: `${own.owner} goes on without it` });
  if (pair.state !== 'protected')
    return say(here.broken === null ? none : { do: 'end', why: `it lost ${own.owner} before it was whole` });
  const lost = lostOwner(v, here, nowMs);
  return say(lost === null || !v.live ? none : { do: 'take', ...lost });
}

/** Its disk has all that was acknowledged; what its twin's guest did after the last checkpoint goes with the twin. */
export const panickedText = 'its guest has panicked: the VM is started from its disk';

/** The ledger gave the VM to this node for this very machine. */
const isOwnersTwin = (pair: OwnLockstep | null, here: MachineHere): boolean =>
  pair?.state === 'alone' && pair.twin === null && pair.pair === here.gen;

/** Why the twin has to go on in the owner's place; null: it need not. */
function lostOwner(
  v: LockstepView,
  here: MachineHere,
  nowMs: number,
): { readonly why: string; readonly handed: boolean } | null {
  const { owner } = v.own;
  const { peer } = v;
  const lost = (why: string) => ({ why, handed: false });
  if (nowMs < v.deafUntilMs) return null;
  const heard = peer.silentMs < ownerSilentMs;
  if (heard && peer.word === 'yours') return { why: `${owner} hands it over`, handed: true };
  if (heard && peer.word === 'lost') return lost(`${owner} says that its machine is gone or stands still`);
  if (heard && peer.word === 'over') return null;
  const quietMs = nowMs - (here.lastCheckpointMs ?? -Infinity);
  if (Math.min(peer.goneMs, quietMs) >= ownerGoneMs) return lost(`${owner} is gone`);
  const silent = peer.silentMs >= (here.broken === null ? ownerSilentMs : brokenSilentMs);
  if (silent && (here.broken !== null || quietMs >= ownerQuietMs)) return lost(`${owner} is silent`);
  return quietMs >= stuckForTwinMs ? lost(`${owner} makes no checkpoints`) : null;
}

/* ---- what waits ---------------------------------------------------------------------------------------- */

/** @throws FlotillaError `wrong-state`: a machine in lockstep runs, whose disk can be neither moved nor grown */
export function checkDiskStands(who: string, own: VmOwn): void {
  if (own.lockstep && own.state !== 'stopped')
    throw new FlotillaError(
      'wrong-state',
      `${who} is in lockstep: its disk is moved or grown while it is off`,
      {
        hint: 'Stop it first. Taken out of lockstep it is that from its next start on.',
      },
    );
}

/**
 * What twins have left on other nodes is wiped by the records of its disks: they stay until then.
 *
 * @param nodes - of the cluster: of one that was removed nothing is waited for
 * @throws FlotillaError `wrong-state`
 */
export function checkNothingLeft(who: string, own: VmOwn, nodes: { has(node: string): boolean }): void {
  const left = (own.left ?? []).filter((n) => nodes.has(n));
  if (left.length > 0)
    throw new FlotillaError('wrong-state', `${who} has left files of its disk on ${left.join(', ')}`, {
      hint: 'They are wiped as soon as that node is back: ask again then. Without it, remove that node.',
    });
}

/* ---- what is written ---------------------------------------------------------------------------------- */

const withLeft = (own: VmOwn, add: readonly string[], but: readonly string[]): string[] =>
  [...new Set([...(own.left ?? []), ...add])].filter((n) => !but.includes(n)).sort();

/** A twin is to be made there. `gen` of what is written is the pair. */
export const ownPairing = (own: VmOwn, twin: string): VmOwn => {
  const gen = own.gen + 1;
  const left = withLeft(own, [], [twin]);
  return { ...own, gen, left, lockstep: { ...own.lockstep, twin, state: 'preparing', pair: gen } };
};

export const ownProtected = (own: VmOwn): VmOwn => ({
  ...own,
  gen: own.gen + 1,
  lockstep: { twin: null, ...own.lockstep, state: 'protected' },
});

const alone: OwnLockstep = { twin: null, state: 'alone', pair: null };

/** It goes on without its twin. */
export const ownAlone = (own: VmOwn): VmOwn => ({
  ...own,
  gen: own.gen + 1,
  ...lockstepAfter(own, true),
});

/**
 * What is said of it when its machine ends or begins anew: whatever twin there is, is nobody's.
 *
 * @param level - it goes on or begins as one in lockstep; false: it ends, or begins as another one
 */
export function lockstepAfter(own: VmOwn, level: boolean): Pick<VmOwn, 'lockstep' | 'left'> {
  const twin = own.lockstep?.twin ?? null;
  return {
    lockstep: level ? { ...own.lockstep, ...alone } : null,
    ...(twin === null ? {} : { left: withLeft(own, [twin], []) }),
  };
}

/** Its twin's node becomes its owner; what the other one has from then on is not its data. */
export const ownTaken = (own: VmOwn, me: string): VmOwn => ({
  ...own,
  owner: me,
  standby: null,
  sync: 'none',
  gen: own.gen + 1,
  state: 'running',
  migration: null,
  lockstep: { ...own.lockstep, twin: null, state: 'alone' },
  left: withLeft(own, [own.owner], [me]),
});
