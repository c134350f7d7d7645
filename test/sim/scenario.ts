import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { vmHaDefault } from '../../core/domain/ha.js';
import type { VmSpec } from '../../core/domain/vm.js';
import { World } from './cluster/world.js';
import { compareLog, endOf, parseExpected, shownLines, textFits, type Expected } from './scenario-log.js';
import { commandOf, type Command } from './scenario-commands.js';

/** From power on until all VMs run and are protected, ms: then a scenario's clock shows 0. */
const settleMs = 15_000;
/** Lines of a file, at most: what cannot be said in so many is two scenarios. */
const linesMax = 40;

interface VmLine {
  readonly name: string;
  readonly node: string;
  readonly o: Partial<Omit<VmSpec, 'ha'>>;
  readonly ha: Partial<VmSpec['ha']>;
  /** Names of VMs that come first. */
  readonly after: readonly string[];
  /** The node of the second copy of its disk; null: it is on a shared pool. */
  readonly copy: string | null;
}

/** A scenario file, read. The format: test/sim/scenarios/README.md */
export interface Scenario {
  readonly why: string;
  readonly nodes: number;
  readonly voters: number;
  readonly seed: number;
  readonly before: readonly Command[];
  readonly vms: readonly VmLine[];
  readonly show: readonly string[];
  readonly commands: readonly { readonly atMs: number; readonly text: string; readonly does: Command }[];
  readonly untilMs: number;
  readonly log: readonly Expected[];
  readonly end: readonly string[];
  /** Why its VMs may be down for longer than one failure explains; null: they may not. */
  readonly late: string | null;
}

/** The files, read. @param only - their names; empty: all */
export function scenarios(only: readonly string[]): {
  readonly name: string;
  readonly variants: readonly { readonly name: string; readonly scenario: Scenario }[];
}[] {
  const dir = 'test/sim/scenarios';
  const names = readdirSync(dir).flatMap((f) => (f.endsWith('.txt') ? [path.basename(f, '.txt')] : []));
  return names
    .filter((n) => only.length === 0 || only.includes(n))
    .sort()
    .map((name) => {
      const file = path.join(dir, `${name}.txt`);
      try {
        const variants = variantsOf(readFileSync(file, 'utf8'));
        return { name, variants: variants.map((v) => ({ name: v.name, scenario: parseScenario(v.text) })) };
      } catch (cause) {
        throw new Error(`${file}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
      }
    });
}

/** The texts of a file's variants: a line `each K: 0 1 2` makes one of each value, put where `{K}` stands. */
export function variantsOf(text: string): { readonly name: string; readonly text: string }[] {
  const each = /^each ([A-Z]+): (.+)\n/m.exec(text);
  if (each === null) return [{ name: '', text }];
  const [line, letter = '', values = ''] = each;
  return values
    .split(/ +\| +/)
    .map((v) => ({ name: ` ${v}`, text: text.replace(line, '').replaceAll(`{${letter}}`, v) }));
}

/** @throws Error where a line says nothing that is known, or the file expects nothing */
export function parseScenario(text: string): Scenario {
  const lines = text.trimEnd().split('\n');
  if (lines.length > linesMax) throw new Error(`${lines.length} lines; ${linesMax} are the most`);
  const blank = lines.indexOf('');
  const why = lines.slice(0, Math.max(0, blank)).join(' ');
  const s = {
    nodes: 0,
    voters: 3,
    seed: 1,
    before: [] as Command[],
    vms: [] as VmLine[],
    show: ['machines', 'failovers'],
    commands: [] as { atMs: number; text: string; does: Command }[],
    untilMs: 0,
    log: null as Expected[] | null,
    end: null as string[] | null,
    late: null as string | null,
  };
  let part: 'head' | 'log' | 'end' = 'head';
  for (const line of lines.slice(blank + 1)) {
    if (line === '') continue;
    const m = (re: RegExp): readonly string[] | null => re.exec(line)?.slice(1) ?? null;
    let f: readonly string[] | null;
    if ((f = m(/^log until (\d+) s:$/)) !== null) {
      part = 'log';
      s.untilMs = Number(f[0]) * 1000;
      s.log = [];
    } else if (line === 'end:') {
      part = 'end';
      s.end = [];
    } else if (part === 'log') s.log?.push(parseExpected(line));
    else if (part === 'end') s.end?.push(line);
    else if ((f = m(/^cluster: (\d) nodes(?:, (\d) vote)?$/)) !== null) {
      s.nodes = Number(f[0]);
      s.voters = Number(f[1] ?? Math.min(3, s.nodes));
    } else if ((f = m(/^seed: (\d+)$/)) !== null) s.seed = Number(f[0]);
    else if ((f = m(/^before: (.+)$/)) !== null) s.before.push(commandOf(f[0] ?? ''));
    else if ((f = m(/^VM (\w+) on (n\d)(?:, (.+))?$/)) !== null)
      s.vms.push(vmLine(f[0] ?? '', f[1] ?? '', f[2]));
    else if ((f = m(/^show: (.+)$/)) !== null) s.show = (f[0] ?? '').split(', ');
    else if ((f = m(/^late: (.+)$/)) !== null) s.late = f[0] ?? '';
    else if ((f = m(/^at ([\d.]+) s: (.+)$/)) !== null)
      s.commands.push({ atMs: Number(f[0]) * 1000, text: f[1] ?? '', does: commandOf(f[1] ?? '') });
    else throw new Error(`not understood: ${line}`);
  }
  const { log, end } = s;
  if (why === '' || s.nodes === 0 || s.vms.length === 0)
    throw new Error('it needs a why, a cluster and a VM');
  if (log === null || log.length === 0 || end === null || end.length === 0)
    throw new Error('it expects nothing: that is a failure, not a scenario');
  if (s.commands.length === 0) throw new Error('nothing happens in it');
  return { ...s, why, log, end };
}

function vmLine(name: string, node: string, options = ''): VmLine {
  const vm = {
    name,
    node,
    o: {} as VmLine['o'],
    ha: {} as VmLine['ha'],
    after: [] as string[],
    copy: null as string | null,
  };
  for (const option of options.split(', ').filter((x) => x !== '')) {
    const [, word = '', value = ''] = /^(.*?)(?: (\S+))?$/.exec(option) ?? [];
    const n = Number(value);
    if (word === 'priority') vm.ha = { ...vm.ha, priority: n };
    else if (word === 'after') vm.after.push(value);
    else if (word === 'copy on') vm.copy = value;
    else if (option === 'without HA') vm.ha = { ...vm.ha, enabled: false };
    else if (option === 'off') vm.o = { ...vm.o, power: 'stopped' };
    else if (word === 'restarts per hour') vm.ha = { ...vm.ha, restartsPerHourMax: n };
    else if (word === 'MiB') vm.o = { ...vm.o, memoryMiB: n };
    else throw new Error(`VM ${name}: "${option}" is not understood`);
  }
  return vm;
}

/** What came of a run. */
export interface Outcome {
  /** What is not as it should be, in words; empty: all is well. */
  readonly faults: readonly string[];
  /** The lines of the chosen kinds, as a file would have them. */
  readonly shown: readonly string[];
  readonly all: readonly string[];
}

/**
 * Runs it.
 *
 * @param seed - another than the file's: then times and order of lines are not looked at, only the promises and the end
 */
export async function runScenario(s: Scenario, seed: number | null = null): Promise<Outcome> {
  const w = new World({
    seed: seed ?? s.seed,
    nodes: s.nodes,
    voters: s.voters,
    log: seed === null,
    copies: s.vms.some((v) => v.copy !== null),
  });
  for (const does of s.before) does(w);
  w.boot();
  await w.pass(5_000);
  for (const v of s.vms) {
    const after = v.after.map((name) => w.vms.get(name) ?? '');
    w.createVm(v.name, v.node, { ...v.o, ha: { ...vmHaDefault, enabled: true, ...v.ha, after } }, v.copy);
  }
  await w.pass(settleMs - 5_000);
  const begun = w.lines.length;
  for (const c of s.commands) {
    await w.time.run(settleMs + c.atMs);
    w.checks.troubled();
    w.say(`* ${c.text}`);
    c.does(w);
    w.checks.dirty = true;
    w.checks.afterStep();
  }
  await w.time.run(settleMs + s.untilMs);
  const end = endOf(w);
  w.checks.atRest();

  const faults: string[] = [];
  for (const v of w.checks.violations)
    if (s.late === null || !v.text.includes('is down for'))
      faults.push(`${((v.atMs - settleMs) / 1000).toFixed(1)} s: ${v.promise}: ${v.text}`);
  for (const e of s.end) if (!end.some((is) => textFits(e, is))) faults.push(`the end is not: ${e}`);
  for (const is of end)
    if (!s.end.some((e) => textFits(e, is))) faults.push(`the end is unexpectedly: ${is}`);
  const since = w.lines.slice(begun).map((l) => {
    const space = l.indexOf(' ');
    return { atS: Number(l.slice(0, space)) - settleMs / 1000, text: l.slice(space + 1) };
  });
  const shown = shownLines(since, s.show).filter((l) => s.late === null || !l.text.includes('is down for'));
  if (seed === null) faults.push(...compareLog(s.log, shown));
  const print = (l: { atS: number; text: string }): string => `${l.atS.toFixed(2)} s`.padEnd(10) + l.text;
  return { faults, shown: shown.map(print), all: since.map(print) };
}
