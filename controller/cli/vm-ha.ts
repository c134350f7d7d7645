import { Option, type Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { formatSpan } from '../../core/domain/units.js';
import type { VmRow, VmView } from '../../core/wire/rest.js';
import { collect, wholeNumber } from './input.js';

export interface HaOptions {
  ha?: 'on' | 'off';
  haPriority?: number;
  haAfter?: string[];
  onHang?: string;
  restartsPerHour?: number;
}

/** What create and edit take of high availability. @param ofOne - of one VM, which may come after others */
export function haOptions(c: Command, ofOne = true): Command {
  c.addOption(new Option('--ha <on|off>', 'comes back by itself when its node fails').choices(['on', 'off']))
    .option('--ha-priority <n>', 'who comes back first: 100 first, 0 last', wholeNumber)
    .addOption(new Option('--on-hang <what>', 'when the guest hangs').choices(['nothing', 'reset']))
    .option('--restarts-per-hour <n>', 'with more restarts by itself it stays off', wholeNumber);
  if (ofOne)
    c.option('--ha-after <vm,...>', 'VMs that must run before it; "" for none; may be given again', collect);
  return c;
}

/** The body's `ha`; undefined: nothing of it was given. */
export function haBody(o: HaOptions): Record<string, unknown> | undefined {
  const after = o.haAfter?.flatMap((t) => t.split(',')).map((t) => t.trim());
  if (after !== undefined && after.length > 1 && after.includes('')) {
    throw new FlotillaError('bad-input', '--ha-after names a VM without a name', {
      hint: 'e.g. --ha-after db,cache; --ha-after "" alone takes all out.',
    });
  }
  const all = {
    enabled: o.ha === undefined ? undefined : o.ha === 'on',
    priority: o.haPriority,
    after: after?.filter((t) => t !== ''),
    onHang: o.onHang,
    restartsPerHourMax: o.restartsPerHour,
  };
  const given = Object.entries(all).filter(([, v]) => v !== undefined);
  return given.length === 0 ? undefined : Object.fromEntries(given);
}

/** For a column. */
export function haWord(v: Pick<VmRow, 'ha' | 'pair'>): string {
  if (v.pair !== null)
    return v.pair.state === 'protected' ? `twin ${v.pair.twin}` : `lockstep, ${v.pair.state}`;
  switch (v.ha.state) {
    case 'off':
      return '–';
    case 'protected':
      return v.ha.standby === null ? 'protected' : `standby ${v.ha.standby}`;
    case 'unprotected':
      return 'not protected';
    case 'paused':
      return 'paused';
  }
}

/** A sentence. */
export function haText({ ha, pair }: Pick<VmRow, 'ha' | 'pair'>): string {
  if (pair !== null) return `${pair.state}: ${pair.text}`;
  const why = ha.text.replace(/^not protected: /, '');
  switch (ha.state) {
    case 'off':
      return 'off: it does not come back by itself when its node fails';
    case 'protected':
      return `protected${why === '' ? '' : `: ${why}`}`;
    case 'unprotected':
      return `not protected${why === '' ? '' : `: ${why}`}`;
    case 'paused':
      return `paused${why === '' ? '' : `: ${why}`}`;
  }
}

/** Of the two machines of one VM. */
const lockstepFacts = ({ pair }: VmView): (readonly [string, string | null])[] =>
  pair === null
    ? []
    : [
        ['Twin', pair.twin ?? 'none'],
        ['Protected for', pair.sinceMs === null ? null : formatSpan(Date.now() - pair.sinceMs)],
      ];

/** What `vm show` tells. */
export function haFacts(v: VmView): (readonly [string, string | null])[] {
  const { ha } = v.spec;
  if (!ha.enabled) return [['HA', haText(v)]];
  const rules = [
    `priority ${ha.priority}`,
    `when it hangs: ${ha.onHang}`,
    `at most ${ha.restartsPerHourMax} restarts an hour`,
  ];
  return [
    ['Protection', v.level === 'lockstep' ? 'lockstep (experimental)' : v.level],
    ['HA', haText(v)],
    ...lockstepFacts(v),
    ['To be wiped', (v.own?.left ?? []).join(', ')],
    ['Owner', v.node],
    ['Standby', v.ha.standby ?? 'none'],
    ['HA rules', rules.join(', ')],
    ['Comes after', v.afterNames.join(', ')],
  ];
}
