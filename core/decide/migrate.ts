import { FlotillaError } from '../domain/error.js';
import { migrateArgs, type MigrateArgs, type MigrateReady } from '../domain/migration.js';
import type { Op } from '../domain/op.js';
import type { VmOwn, VmSpec } from '../domain/vm.js';
import type { DomainMark, DomainView } from './vm-view.js';

/** A target that is not alive is waited for so long before anything has begun, ms: longer than a restart of its keeper. */
export const targetAwayMsMax = 15_000;
/** Copies that are not the same are waited for so long before anything has begun, ms: what differed for a moment is copied. */
export const copiesMsMax = 30_000;
/** For a live target so long, ms: it may have to fetch the ISO in the CD drive. */
export const prepareMsMax = 40 * 60_000;

/**
 * What a copy that a live migration brought is to this node: `awaited` while the source is at it, `mine` once the
 * source has handed over this very migration, else `unwanted`: its memory may be older than the disk.
 *
 * @see docs/models.md, migration: resumed by what own says of this migration, never because own names this node
 */
export function copyOf(own: VmOwn, mark: DomainMark, me: string): 'awaited' | 'mine' | 'unwanted' {
  const m = own.migration;
  if (m === null || m === undefined || m.to !== me || mark.gen !== m.gen) return 'unwanted';
  if (own.owner === me) return own.state === 'running' && arrived(own) ? 'mine' : 'unwanted';
  return own.state === 'migrating' && own.gen === m.gen && !m.handedOver ? 'awaited' : 'unwanted';
}

/** The record was last written by the hand-over of its migration. */
const arrived = ({ gen, migration: m }: VmOwn): boolean => m?.handedOver === true && gen === m.gen + 1;

/** One unfinished migration as a node sees it. */
export interface MigrationView {
  readonly me: string;
  readonly op: Op;
  readonly spec: VmSpec;
  readonly own: VmOwn;
  /** Of this VM on this node. */
  readonly domain: DomainView | null;
  /** Create revision of a node's live key; undefined: it is not alive. */
  live(node: string): bigint | undefined;
  /** For how long this node has known of it, ms. */
  readonly knownMs: number;
}

export type MigrationStep =
  | { readonly do: 'none' }
  /** The target: make ready what the copy needs. */
  | { readonly do: 'prepare'; readonly args: MigrateArgs }
  /** The source: swap own, and let it go. */
  | { readonly do: 'begin'; readonly args: MigrateArgs; readonly ready: MigrateReady }
  /** The source: it is under way, or was when the agent died. */
  | { readonly do: 'follow'; readonly args: MigrateArgs }
  | { readonly do: 'done'; readonly args: MigrateArgs; readonly step: string }
  | { readonly do: 'cancelled'; readonly step: string }
  | { readonly do: 'fail'; readonly error: FlotillaError };

/** What this node does now about a migration. Pure; the transactions compare again all that safety rests on. */
export function decideMigration(v: MigrationView): MigrationStep {
  const { op, own, me } = v;
  const args = migrateArgs(op);
  const what = `VM "${v.spec.name}"`;
  const fail = (code: 'bad-input' | 'wrong-state' | 'node-unreachable', text: string, hint: string) =>
    ({ do: 'fail', error: new FlotillaError(code, `${what} ${text}`, { hint }) }) as const;
  if (args === null)
    return own.owner === me
      ? fail('bad-input', 'is not migrated: the operation cannot be read', 'Ask for it again.')
      : { do: 'none' };
  const { from, to } = args;
  const mine = own.owner === me;
  if (!mine) {
    const wanted = me === to && own.owner === from && own.state === 'running' && !op.cancelAsked;
    const live = v.live(me);
    const ready = live !== undefined && args.ready?.live === String(live);
    return wanted && live !== undefined && !ready ? { do: 'prepare', args } : { do: 'none' };
  }
  const came = own.migration?.op === op.id && own.migration.handedOver;
  if (me === to && came) {
    if (v.domain?.active === true && v.domain.mark?.incoming !== true)
      return { do: 'done', args, step: `runs on ${to}` };
    // Its copy died before it could go on: it is started afresh, and that is the end of it.
    const isOff = v.spec.power === 'stopped' || own.state === 'stopped';
    if (v.domain === null || (!v.domain.active && isOff)) return { do: 'done', args, step: `is on ${to}` };
    return { do: 'none' };
  }
  if (me !== from)
    return fail(
      'wrong-state',
      `was taken over by ${me} while it was to migrate`,
      'Look at it, and ask again.',
    );
  if (own.state === 'migrating') return own.migration?.op === op.id ? { do: 'follow', args } : { do: 'none' };
  if (op.cancelAsked) return { do: 'cancelled', step: `stays on ${from}` };
  // It came here by another one, and is not quite there: the machine is not yet known as this node's own.
  if (v.domain?.active === true && v.domain.mark?.incoming === true) return { do: 'none' };
  if (op.state === 'running')
    return fail('wrong-state', 'stays where it is: its migration was broken off', 'Ask for it again.');
  if (v.spec.power === 'stopped' || v.domain?.active !== true || own.state !== 'running')
    return fail(
      'wrong-state',
      'does not run, so it cannot migrate while it runs',
      'Relocate it, or start it first.',
    );
  if (own.copies.length > 0 && (own.sync !== 'ok' || !own.copies.some((c) => c.node === to)))
    return own.sync !== 'ok' && v.knownMs < copiesMsMax
      ? { do: 'none' }
      : fail(
          'wrong-state',
          `does not migrate: ${to} does not have all that is on its disks`,
          'See how its copies stand: flotilla vm show. Ask again when they are in sync.',
        );
  const live = v.live(to);
  if (live === undefined)
    return v.knownMs < targetAwayMsMax
      ? { do: 'none' }
      : fail('node-unreachable', `does not migrate: ${to} is not alive`, 'Choose another node.');
  if (args.ready?.live === String(live)) return { do: 'begin', args, ready: args.ready };
  return v.knownMs < prepareMsMax
    ? { do: 'none' }
    : fail('node-unreachable', `does not migrate: ${to} did not get ready`, 'Look at the page of that node.');
}

/** Rounds over the memory after which the guest has been slowed down as far as it goes. @see QEMU: auto-converge */
const slowRounds = 24;
/** Below this no migration is called slow, ms. */
const slowMs = 60_000;

/** It does not come to an end by itself: the guest was slowed down to the utmost, and dirties more than is sent. */
export function tooSlow(p: { readonly memoryIteration?: number; readonly elapsedMs?: number }): boolean {
  return (p.memoryIteration ?? 0) >= slowRounds && (p.elapsedMs ?? 0) >= slowMs;
}
