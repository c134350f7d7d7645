import { timingFaults, type TimingProfile } from '../domain/timing.js';

/**
 * Decisions of a node's keeper. Imports no package: what it is bundled into has none.
 *
 * @see docs/ha.md, gossip-consensus 3.3 and its appendix B: the checked model of these modes
 */
export type KeeperMode = 'run' | 'ice' | 'thaw';

/** What the modes follow from. Times are monotonic ms; a reading is dated at its *sending*. */
export interface Pulse {
  readonly mode: KeeperMode;
  readonly enteredMs: number;
  /** The live key was ours when last read. */
  readonly mine: boolean;
  readonly goodMs: number | null;
  /** When the owners of all machines here were last read and dealt with. */
  readonly ownersMs: number | null;
  /** Everything that must stand still was just seen to. */
  readonly frozen: boolean;
  /** How many VMs are armed. */
  readonly armed: number;
}

/** The mode to go to now, and why; null: it stays. */
export function nextMode(
  p: Pulse,
  nowMs: number,
  t: TimingProfile,
): { readonly mode: KeeperMode; readonly why: string } | null {
  const goodAgeMs = p.goodMs === null ? Infinity : nowMs - p.goodMs;
  const good = p.mine && goodAgeMs < t.renewalGoodMs;
  const sinceEntered = (ms: number | null): boolean => ms !== null && ms >= p.enteredMs;
  if (p.mode === 'ice') {
    return good && sinceEntered(p.goodMs)
      ? { mode: 'thaw', why: 'the ledger answers; it is asked who owns the VMs' }
      : null;
  }
  if (!good) {
    return {
      mode: 'ice',
      why: p.mine
        ? `the ledger has not renewed the lease for ${t.renewalGoodMs / 1000} s, so HA VMs stand still`
        : 'the ledger has no lease of this node any more, so HA VMs stand still',
    };
  }
  if (p.mode === 'run') return null;
  return sinceEntered(p.goodMs) && sinceEntered(p.ownersMs)
    ? { mode: 'run', why: 'the lease is good and the owners are known, so VMs go on' }
    : null;
}

/**
 * Whether the watchdog may be petted now. `renewal`: asked right after a good renewal; `free`: asked at any time.
 * Never freely in THAW: what is about to run must have proof.
 */
export function mayPet(p: Pulse, nowMs: number, t: TimingProfile, asked: 'renewal' | 'free'): boolean {
  if (p.armed === 0) return true;
  if (p.mode === 'ice') return p.frozen;
  return asked === 'renewal' && p.mine && p.goodMs !== null && nowMs - p.goodMs < t.petAgeMs;
}

/**
 * How old a renewal may be at its answer to count, ms. With VMs armed one that may not pet is none: VMs would run on it
 * until the watchdog resets a node whose ledger is merely slow.
 */
export const renewalYoungMs = (armed: number, t: TimingProfile): number =>
  armed > 0 ? t.petAgeMs : Infinity;

/**
 * How often a node that froze again so soon must find the ledger prompt before it prolongs its lease: one whose answers
 * come now in time and now too late shall not run and freeze in turns.
 *
 * @param ranMs - how long they ran since they froze last
 */
export const trialsAfter = (ranMs: number, t: TimingProfile): number => (ranMs < t.renewEveryMs * 80 ? 3 : 0);

/** What a fresh start of the keeper begins with. Only a restart within a boot, in time, goes on as it was. */
export function startMode(
  r: {
    readonly mode: KeeperMode;
    readonly lease: string | null;
    readonly createRevision: bigint | null;
    readonly goodMs: number | null;
  } | null,
  nowMs: number,
  t: TimingProfile,
): 'run' | 'ice' {
  if (r === null || r.mode !== 'run' || r.goodMs === null) return 'ice';
  if (r.lease === null || r.createRevision === null) return 'ice';
  return nowMs - r.goodMs < t.renewalGoodMs && r.goodMs <= nowMs ? 'run' : 'ice';
}

/** What to do with a machine here. `kill` only on proof; a doubt holds it frozen. @see safety 10 */
export type Verdict =
  | { readonly do: 'go-on' }
  | { readonly do: 'kill'; readonly why: string }
  | { readonly do: 'hold'; readonly why: string };

/**
 * By the ledger's ownership record, read afresh.
 *
 * @param text - null: there is none
 * @param journalGen - the generation that this node's journal has; null: none
 * @param armedGen - the one on which the VM was armed here; null: it was not
 */
export function ownerVerdict(
  text: string | null,
  node: string,
  journalGen: number | null,
  armedGen: number | null,
): Verdict {
  if (text === null) return { do: 'hold', why: 'the ledger has no owner of it' };
  const own = ownership(text);
  if (own === null) return { do: 'hold', why: 'its ownership record cannot be read' };
  if (own.owner === node) {
    if (!own.fresh || (journalGen !== null && own.gen <= journalGen)) return { do: 'go-on' };
    if (journalGen === null)
      return { do: 'hold', why: "another node owned it since, and this node's journal does not know the VM" };
    return { do: 'kill', why: 'another node owned it since, before the ledger was recovered' };
  }
  if (comesTo(node, own, armedGen)) return { do: 'go-on' };
  return anothers(own, journalGen);
}

/**
 * A migration brings it here: what is here is the copy, which runs no guest before the hand-over, and that may be done
 * in the moment after this was read. A machine of before it cannot be: none was here when the VM was armed for the
 * migration, which was on the generation before the one that began it, and this node did not own it then.
 */
function comesTo(node: string, own: Own, armedGen: number | null): boolean {
  const { state, migration: m } = own;
  if (state !== 'migrating' || typeof m !== 'object' || m === null) return false;
  return 'to' in m && m.to === node && 'gen' in m && m.gen === own.gen && armedGen === own.gen - 1;
}

/**
 * By a takeover record in a pool. Null: it proves nothing.
 *
 * @param of.above - generation on which the VM was armed here: the machine may be of a migration, which brings it while
 *   the journal knows no more than that another node had it
 */
export function takeoverVerdict(
  text: string,
  of: { readonly vm: string; readonly node: string; readonly epoch: number | null; readonly above: number },
  journalGen: number | null,
): Verdict | null {
  const r = ownership(text);
  if (r === null || r.vm !== of.vm || r.owner === of.node || r.epoch !== of.epoch) return null;
  if (r.gen <= of.above) return null;
  const v = anothers(r, journalGen);
  return v.do === 'kill' ? v : null;
}

function anothers(own: { owner: string; gen: number }, journalGen: number | null): Verdict {
  const is = `${own.owner} owns it since generation ${own.gen}`;
  if (journalGen === null) return { do: 'hold', why: `${is}, and this node's journal does not know the VM` };
  if (own.gen <= journalGen) {
    return { do: 'hold', why: `${is}, but this node's journal has generation ${journalGen}` };
  }
  return { do: 'kill', why: is };
}

interface Own {
  readonly owner: string;
  readonly gen: number;
  readonly fresh: boolean;
  readonly state?: unknown;
  readonly migration?: unknown;
  readonly vm?: unknown;
  readonly epoch?: unknown;
}

/** The few fields that every keeper ever shipped can read; null: not well-formed. */
function ownership(text: string): Own | null {
  const o = object(text);
  if (o === null || typeof o['owner'] !== 'string' || o['owner'] === '') return null;
  const gen = o['gen'];
  if (typeof gen !== 'number' || !Number.isSafeInteger(gen) || gen < 1) return null;
  const { owner, state, migration, vm, epoch } = o;
  return { owner, gen, fresh: o['fresh'] === true, state, migration, vm, epoch };
}

function object(text: string): Record<string, unknown> | null {
  try {
    const v: unknown = JSON.parse(text);
    return typeof v === 'object' && v !== null && !Array.isArray(v) ? (v as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

/** `policy.ha.unsafeWithoutWatchdog`; anything that is not plainly "true" is "no". */
export function unsafeAllowed(policyText: string | null): boolean {
  const ha = policyText === null ? null : object(policyText)?.['ha'];
  return typeof ha === 'object' && ha !== null && 'unsafeWithoutWatchdog' in ha
    ? ha.unsafeWithoutWatchdog === true
    : false;
}

export interface ArmingView {
  readonly mode: KeeperMode;
  /** Since renewals were too old to pet at their answers. */
  readonly slowAgoMs: number;
  readonly watchdog: {
    readonly kind: 'hardware' | 'software' | 'pipe' | 'none';
    readonly timeoutMs: number | null;
    readonly fault: string | null;
  };
  readonly unsafeAllowed: boolean;
}

/** Why no VM can be armed now, in words; null: it can. */
export function armRefusal(v: ArmingView, t: TimingProfile): string | null {
  const faults = timingFaults(t);
  if (faults.length > 0) return `the times are not safe: ${faults.join('; ')}`;
  const w = v.watchdog;
  if (w.kind === 'none') {
    if (!v.unsafeAllowed) return `this node has no watchdog${w.fault === null ? '' : ` (${w.fault})`}`;
  } else if (w.fault !== null) {
    return `the watchdog cannot be used: ${w.fault}`;
  } else if (w.timeoutMs !== t.watchdogMs) {
    const has = w.timeoutMs === null ? 'does not tell its timeout' : `fires after ${w.timeoutMs / 1000} s`;
    return `the watchdog ${has}, and ${t.watchdogMs / 1000} s are needed: set it in modprobe.d`;
  }
  if (v.mode !== 'run') return 'the node has no good renewal of its lease';
  // Not at the first quick answer: the ledger may be slow to all, and owners shall be back before standbys take over.
  if (v.slowAgoMs < t.renewEveryMs * 3)
    return `the ledger takes longer than ${t.petAgeMs / 1000} s to renew the lease`;
  return null;
}

/**
 * What `own.fence.waitMs` must be at least: the node is off so long after its last renewal was sent. A keeper that dies
 * and closes the device pets it once more.
 *
 * @see docs/models.md, `freeze`: DEATH_PETS
 */
export const fenceWaitMs = (
  t: TimingProfile,
  watchdog: { readonly kind: string; readonly kept: 'yes' | 'soon' | 'no' },
): number =>
  t.watchdogMs + t.petAgeMs + 1_000 + (watchdog.kept === 'no' && watchdog.kind !== 'none' ? t.watchdogMs : 0);

/** An agent whose loop has not finished for this long is dead to the keeper, ms. @see safety 9 */
export const zombieMs = 120_000;

/** Free petting ends so long after another owner is known while the machine still lives, ms. @see safety 9 */
export const killOverdueMs = 60_000;

/** True: the node holds a healthy lease for a VM that nobody tends, so it shall let go. */
export function isZombie(v: {
  readonly beatAgeMs: number;
  readonly armed: readonly string[];
  readonly machines: ReadonlySet<string>;
}): boolean {
  return v.beatAgeMs >= zombieMs && v.armed.some((vm) => !v.machines.has(vm));
}
