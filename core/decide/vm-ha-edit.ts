import type { Blocker } from './blocker.js';
import { isReplicated, type Disk } from '../domain/disk.js';
import { FlotillaError } from '../domain/error.js';
import type { VmHa } from '../domain/ha.js';
import type { Pool } from '../domain/pool.js';
import type { VmHaInput } from '../wire/rest.js';

/**
 * VMs that may have to run before one, over all steps. Each is compared in the transaction of the edit, which has room
 * for 128 compares, those of disks and addresses among them.
 */
export const afterReachMax = 32;

/** What an edit of HA may look up of other VMs. */
export interface HaContext {
  /** The id of a VM named. @throws FlotillaError `not-found` */
  find(ref: string): string;
  name(id: string): string;
  /** The VMs that must run before that one; none where it does not exist (any more). */
  after(id: string): readonly string[];
}

export interface HaEdit {
  readonly ha: VmHa;
  /** VMs whose own `after` was looked at: they must still stand so when it is written, or two edits make a ring. */
  readonly looked: readonly string[];
}

/**
 * What is given replaces, what is not stays.
 *
 * @throws FlotillaError `not-found`; `bad-input`: a VM would have to run before itself, or be in lockstep without HA
 */
export function editHa(
  who: string,
  id: string,
  before: VmHa,
  given: VmHaInput,
  vms: () => HaContext,
): HaEdit {
  const ha: VmHa = {
    enabled: given.enabled ?? before.enabled,
    priority: given.priority ?? before.priority,
    after: before.after,
    onHang: given.onHang ?? before.onHang,
    restartsPerHourMax: given.restartsPerHourMax ?? before.restartsPerHourMax,
  };
  if (given.lockstep === true && !ha.enabled)
    throw new FlotillaError('bad-input', `${who} cannot be in lockstep without HA`, {
      hint: 'Turn both on: "enabled": true, "lockstep": true (flotilla vm protect VM lockstep).',
    });
  // Who turns HA off has neither.
  if (ha.enabled && (given.lockstep ?? before.lockstep) === true) ha.lockstep = true;
  if (given.after === undefined) return { ha, looked: [] };
  const ctx = vms();
  const after = [...new Set(given.after.map((ref) => ctx.find(ref)))];
  if (after.includes(id)) {
    throw new FlotillaError('bad-input', `${who} cannot come after itself`, {
      hint: 'Leave it out of its own list "after".',
    });
  }
  return { ha: { ...ha, after }, looked: reached(who, id, after, ctx) };
}

/** All VMs that come before this one, over any number of steps, nearest first. */
function reached(who: string, id: string, after: readonly string[], ctx: HaContext): string[] {
  /** Each VM with the one that names it. */
  const from = new Map<string, string>(after.map((a) => [a, id]));
  for (const at of from.keys()) {
    for (const next of ctx.after(at)) {
      if (next === id) throw ring(who, id, at, from, ctx);
      if (!from.has(next)) from.set(next, at);
    }
    if (from.size > afterReachMax) {
      throw new FlotillaError('bad-input', `More than ${afterReachMax} VMs would have to run before ${who}`, {
        hint: 'Name fewer in "after": only those without which it cannot work.',
      });
    }
  }
  return [...from.keys()];
}

function ring(
  who: string,
  id: string,
  last: string,
  from: ReadonlyMap<string, string>,
  ctx: HaContext,
): FlotillaError {
  const way: string[] = [];
  for (let at = last; at !== id; at = from.get(at) ?? id) way.unshift(`"${ctx.name(at)}"`);
  const text = [who, ...way, who].join(' comes after ');
  return new FlotillaError('bad-input', `The order has no beginning: ${text}`, {
    hint: 'Take one of them out of the list "after" of the other.',
  });
}

/**
 * Refuses a VM in lockstep that is made so that it cannot be.
 *
 * @param before - what spoke against it as it was, where it was to be in lockstep already: that stays
 * @throws FlotillaError `unsupported`, with all blockers
 */
export function checkShape(who: string, now: readonly Blocker[], before: readonly Blocker[] = []): void {
  const blockers = now.filter((b) => !before.some((x) => x.text === b.text));
  if (blockers.length === 0) return;
  throw new FlotillaError(
    'unsupported',
    `${who} cannot be in lockstep: ${blockers.map((b) => b.text).join('; ')}`,
    {
      hint: [...new Set(blockers.map((b) => b.hint))].slice(0, 3).join(' '),
      details: { blockers },
    },
  );
}

/**
 * Refuses HA for disks that only one node reaches: nobody else could start the VM.
 *
 * @param disks - those it shall have
 * @throws FlotillaError `unsupported`
 */
export function checkReach(
  who: string,
  disks: readonly Pick<Disk, 'name' | 'pool' | 'replicas'>[],
  pool: (id: string) => Pick<Pool, 'name' | 'kind'>,
): void {
  const stuck = disks
    .map((d) => ({ d, p: pool(d.pool) }))
    .filter(({ d, p }) => p.kind !== 'shared' && !isReplicated(d));
  if (stuck.length === 0) return;
  const names = stuck.map(({ d, p }) => `"${d.name}" (pool "${p.name}")`).join(', ');
  const one = stuck.length === 1;
  throw new FlotillaError(
    'unsupported',
    `HA of ${who} is not possible: no other node reaches its ${one ? 'disk' : 'disks'} ${names}`,
    {
      hint: `Put ${one ? 'it' : 'them'} on a shared pool, or on a thin one with two copies (flotilla vm move-disk), or leave HA off.`,
      details: { disks: stuck.map(({ d, p }) => ({ disk: d.name, pool: p.name })) },
    },
  );
}
