import type { World } from './cluster/world.js';

/** A line that must be in the log, and when. */
export interface Expected {
  readonly fromS: number;
  readonly toS: number;
  /** As written: lines of one time may come in any order. */
  readonly when: string;
  readonly text: string;
}

/** Nothing: the only line of a log that stays empty. */
const nothing = 'nothing';

/** `12 s` is within half a second of it, `2.5 s` within a tenth, `11-12.5 s` what it says; `nothing` stands alone. */
export function parseExpected(line: string): Expected {
  if (line === nothing) return { fromS: 0, toS: 0, when: '', text: nothing };
  const m = /^([\d.]+)(?:-([\d.]+))? s +(\S.*)$/.exec(line);
  if (m === null) throw new Error(`not understood as a line of the log: ${line}`);
  const [, from = '', to, text = ''] = m;
  const slackS = to !== undefined ? 0 : from.includes('.') ? 0.1 : 0.5;
  const when = `${from}-${to ?? ''}`;
  return { fromS: Number(from) - slackS, toS: Number(to ?? from) + slackS, when, text };
}

interface Line {
  readonly atS: number;
  readonly text: string;
}

/** Kinds of lines, by what they match, and how they are shortened. */
const kinds: Readonly<Record<string, readonly [RegExp, string][]>> = {
  machines: [[/^(\w+ (?:runs on|stands still on|goes on on) n\d|\w+ is off)$/, '$1']],
  owners: [
    [/^(\w+: (?:fail-over|fail-over-any|move-stopped|yield) → n\d)\b.*$/, '$1'],
    [/^(\w+): (stop|arm|disarm) → (n\d)\b.*$/, '$1: $2 → $3'],
  ],
  standbys: [[/^(n\d) agent: (\w+: (?:its standby is n\d|has no standby now.*))$/, '$1: $2']],
  failovers: [
    [/^(n\d) agent: (\w+: (?:failover\b.*|taken over from .*|given over to .*|removed here.*))$/, '$1: $2'],
    [/^(n\d) agent: (.*\bstarted unprotected.*|.*\blocked\b.*)$/, '$1: $2'],
  ],
  arming: [[/^(n\d) agent: (\w+: (?:armed|disarmed).*)$/, '$1: $2']],
  keepers: [[/^(n\d keeper: (?:run|ice|thaw) → .*)$/, '$1']],
  copies: [
    [
      /^(n\d) agent: (\w+: the copy on n\d is in sync|\w+: its second copy is on .*|\w+: its replaced copy here was taken away|\w+: somebody throws away .*|the other copy of the disks of VM \w+ is stale.*)$/,
      '$1: $2',
    ],
    [/^(the copies of \w+ refuse each other: .*)$/, '$1'],
  ],
  kills: [[/^(n\d keeper: VM .*)$/, '$1']],
  faults: [[/^(n\d keeper: (?!(?:run|ice|thaw) → |VM |keeper ).*)$/, '$1']],
};
/** What is never left out. */
const always =
  /^(n\d watchdog resets the node|n\d (?:agent|keeper) dies in the middle of an act|VIOLATION.*)$/;

export function shownLines(all: readonly Line[], show: readonly string[]): Line[] {
  const rules = show.flatMap((kind) => {
    const rule = kinds[kind];
    if (rule === undefined) throw new Error(`there is no kind of lines "${kind}"`);
    return rule;
  });
  return all.flatMap((l) => {
    if (always.test(l.text)) return [l];
    const rule = rules.find(([re]) => re.test(l.text));
    return rule === undefined ? [] : [{ atS: l.atS, text: l.text.replace(rule[0], rule[1]) }];
  });
}

/** `…` stands for anything, `n1 or n3` for either. */
export function textFits(expected: string, is: string): boolean {
  const parts = expected.split('…').map((p) => p.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  const re = parts.join('.*').replace(/n\d(?: or n\d)+/g, (some) => `(?:${some.replaceAll(' or ', '|')})`);
  return new RegExp(`^${re}$`).test(is);
}

const fits = (e: Expected, l: Line): boolean =>
  l.atS >= e.fromS && l.atS <= e.toS && textFits(e.text, l.text);

/** In order; lines with the same time may come in any. @returns what is missing and what should not be there */
export function compareLog(expected: readonly Expected[], lines: readonly Line[]): string[] {
  const faults: string[] = [];
  const wanted = expected.filter((e) => e.text !== nothing);
  const rest = [...lines];
  while (wanted.length > 0) {
    const first = wanted[0];
    const until = wanted.findIndex((e) => e.when !== first?.when);
    const group = wanted.splice(0, until === -1 ? wanted.length : until);
    for (let n = group.length; n > 0; n--) {
      const next = rest[0];
      const at = next === undefined ? -1 : group.findIndex((e) => fits(e, next));
      if (at === -1) break;
      group.splice(at, 1);
      rest.shift();
    }
    const [miss] = group;
    if (miss === undefined) continue;
    const instead =
      rest[0] === undefined ? 'the log is at its end' : `${rest[0].atS.toFixed(2)} s ${rest[0].text}`;
    faults.push(`expected ${miss.fromS}-${miss.toS} s ${miss.text}; instead: ${instead}`);
    return faults;
  }
  for (const l of rest) faults.push(`not expected: ${l.atS.toFixed(2)} s ${l.text}`);
  return faults;
}

/** Where each VM is now, in words. */
export function endOf(w: World): string[] {
  return [...w.vms].map(([name, vm]) => {
    const on = w.runsOn(vm).join(' and ');
    const owner = w.own(vm)?.owner ?? 'nobody';
    const still = [...w.nodes.values()].find((n) => n.host.exists(vm) && n.host.standsStill(vm))?.id;
    if (on === '')
      return `${name} ${still === undefined ? 'is off' : `stands still on ${still}`}, ${owner} owns it`;
    return owner === on ? `${name} runs on ${on}` : `${name} runs on ${on}, ${owner} owns it`;
  });
}
