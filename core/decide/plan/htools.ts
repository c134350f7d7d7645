import { FlotillaError } from '../../domain/error.js';
import type { BalancePlan, LoadVector, PlanCluster, PlanNode, PlanVm } from './model.js';

/** Where the loads of the VMs come from: 1 for each, 0 for each, or measured. */
export type LoadMode = 'default' | 'ignore-dynu' | 'util';

const bad = (line: number, what: string, hint: string): FlotillaError =>
  new FlotillaError('bad-input', `line ${line}: ${what}`, { hint });

const format = 'The format is the text format of htools(1).';

interface Line {
  readonly number: number;
  readonly text: string;
}

/** One line's columns, read with the line's number in every error. */
class Columns {
  private readonly fields: readonly string[];
  private readonly line: Line;

  constructor(line: Line, min: number) {
    this.line = line;
    this.fields = line.text.split('|');
    if (this.fields.length < min)
      throw bad(line.number, `has ${this.fields.length} columns, needs ${min}`, format);
  }

  text(column: number): string {
    const t = this.fields[column] ?? '';
    if (t === '') throw bad(this.line.number, `column ${column + 1} is empty`, format);
    return t;
  }

  list(column: number): string[] {
    return (this.fields[column] ?? '').split(',').filter((x) => x !== '');
  }

  /** A number that is not negative; `otherwise` where the column is missing or empty. */
  number(column: number, otherwise?: number): number {
    const x = this.signed(column, otherwise);
    if (x < 0) throw bad(this.line.number, `column ${column + 1} is negative`, format);
    return x;
  }

  signed(column: number, otherwise?: number): number {
    const t = this.fields[column] ?? '';
    if (t === '' && otherwise !== undefined) return otherwise;
    const x = Number(t);
    if (!/^-?\d+(\.\d+)?$/.test(t) || !Number.isFinite(x) || Math.abs(x) > 1e15)
      throw bad(this.line.number, `column ${column + 1} is no number that fits: "${t}"`, format);
    return x;
  }

  positive(column: number, otherwise?: number): number {
    const x = this.number(column, otherwise);
    if (x <= 0) throw bad(this.line.number, `column ${column + 1} must be above 0`, format);
    return x;
  }

  fail(what: string, hint: string): FlotillaError {
    return bad(this.line.number, what, hint);
  }
}

/** Parts between empty lines: groups, nodes, VMs, cluster tags, policies. */
function sections(text: string): Line[][] {
  const out: Line[][] = [[]];
  text.split('\n').forEach((l, i) => {
    const line = { number: i + 1, text: l.replace(/\r$/, '') };
    if (line.text === '') out.push([]);
    else out.at(-1)!.push(line);
  });
  if (out.length < 5) throw bad(out.length, `found ${out.length} of 5 sections`, format);
  return out;
}

interface Limits {
  readonly cpuRatio: number;
  readonly spindleRatio: number;
}

/** hbal's own, where the file has no policy. */
const limitsOtherwise: Limits = { cpuRatio: 4, spindleRatio: 32 };

function readLimits(lines: readonly Line[]): (group: string) => Limits {
  const byGroup = new Map<string, Limits>();
  for (const l of lines) {
    const c = new Columns(l, 6);
    byGroup.set(l.text.split('|')[0]!, { cpuRatio: c.positive(4), spindleRatio: c.positive(5) });
  }
  return (group) => byGroup.get(group) ?? byGroup.get('') ?? limitsOtherwise;
}

function readTags(lines: readonly Line[]): { domains: string[]; apart: string[] } {
  const out = { domains: [] as string[], apart: [] as string[] };
  for (const l of lines) {
    const [, kind, prefix] = /^htools:(\w+):?(.*)$/.exec(l.text) ?? [];
    if (kind === 'nlocation') out.domains.push(`${prefix}:`);
    else if (kind === 'iextags') out.apart.push(`${prefix}`);
    else if (kind === 'desiredlocation' || kind === 'migration' || kind === 'bandwidth')
      throw bad(l.number, `the tag "${l.text}" is not supported`, 'Take it out of the file.');
  }
  return out;
}

interface NodeLine {
  readonly node: PlanNode;
  readonly freeMiB: number;
  readonly freeDiskMiB: number;
}

function readNode(l: Line, groups: ReadonlyMap<string, string>, o: NodeOptions): NodeLine {
  const c = new Columns(l, 9);
  const name = c.text(0);
  const role = c.text(7);
  if (!/^[YMN]$/.test(role)) throw c.fail(`the role is "${role}"`, 'It is Y (offline), M or N.');
  const group = groups.get(c.text(8));
  if (group === undefined) throw c.fail(`the group "${c.text(8)}" is not in the file`, format);
  const limits = o.limits(group);
  const memoryMiB = c.positive(1);
  const diskMiB = c.positive(4);
  const state = role !== 'Y' ? 'online' : o.dead.has(name) ? 'dead' : 'drained';
  if (o.dead.has(name) && state !== 'dead')
    throw c.fail(`${name} is said to be dead, and the file says it is online`, 'Set its role to Y.');
  const node: PlanNode = {
    name,
    state,
    group,
    memoryMiB,
    vmMemoryMiB: memoryMiB - c.number(2),
    diskMiB,
    vmDiskMiB: diskMiB,
    cpus: c.positive(6),
    cpuSpeed: c.positive(14, 1),
    ownCpus: c.number(13, 0),
    cpuRatioMax: limits.cpuRatio,
    spindles: limits.spindleRatio * c.positive(9, 1),
    domains: c.list(10).filter((t) => o.domains.some((p) => t.startsWith(p))),
  };
  return { node, freeMiB: c.signed(3), freeDiskMiB: c.number(5) };
}

interface NodeOptions {
  readonly limits: (group: string) => Limits;
  readonly domains: readonly string[];
  readonly dead: ReadonlySet<string>;
}

const running = new Set(['running', 'ERROR_up', 'ERROR_wrongnode', 'up']);

function readVm(l: Line, apart: readonly string[], load: (vm: string) => LoadVector): PlanVm {
  const c = new Columns(l, 11);
  const name = c.text(0);
  if (c.text(8) !== 'drbd') throw c.fail(`${name} has disks of kind "${c.text(8)}"`, 'Only drbd is planned.');
  if (c.text(6) === c.text(7))
    throw c.fail(`${name} has both replicas on ${c.text(6)}`, 'Its primary and its secondary are two nodes.');
  if (!running.has(c.text(4))) throw c.fail(`${name} is "${c.text(4)}"`, 'Only running VMs are planned.');
  return {
    name,
    memoryMiB: c.number(1),
    diskMiB: c.number(2),
    cpus: c.number(3),
    owner: c.text(6),
    standby: c.text(7),
    apart: c.list(9).filter((t) => apart.some((p) => t.startsWith(p))),
    spindles: c.number(10),
    load: load(name),
  };
}

/** Loads of VMs, as of `hbal -U`: name, then CPU, memory, disk and network. */
export function readUtil(text: string): Map<string, LoadVector> {
  const out = new Map<string, LoadVector>();
  text.split('\n').forEach((l, i) => {
    if (l.trim() === '') return;
    const [name, ...values] = l.trim().split(/\s+/);
    const [cpu, memory, disk, net] = values.map(Number);
    const all = [cpu, memory, disk, net];
    if (values.length !== 4 || !all.every((x) => x !== undefined && Number.isFinite(x) && x >= 0))
      throw bad(i + 1, `no name with four loads: "${l}"`, 'A line is: VM CPU memory disk network.');
    out.set(name!, [cpu!, memory!, disk!, net!]);
  });
  return out;
}

/**
 * Reads a cluster in the text format of Ganeti's htools, so that plans can be compared with those of hbal.
 *
 * @param util - the loads of `util` mode, as {@link readUtil} reads them
 * @param dead - nodes marked offline that are down; other offline nodes count as drained
 * @throws FlotillaError `bad-input`: the line, and what is wrong with it
 * @see htools(1), ganeti-htools 3.0.2, "TEXT-BASED"
 */
export function readHtools(
  text: string,
  mode: LoadMode,
  util: ReadonlyMap<string, LoadVector>,
  dead: ReadonlySet<string>,
): PlanCluster {
  const [groupLines, nodeLines, vmLines, tagLines, policyLines] = sections(text) as [
    Line[],
    Line[],
    Line[],
    Line[],
    Line[],
  ];
  const tags = readTags(tagLines);
  const groups = new Map(groupLines.map((l) => [new Columns(l, 2).text(1), new Columns(l, 2).text(0)]));
  const options = { limits: readLimits(policyLines), domains: tags.domains, dead };
  const lines = nodeLines.map((l) => readNode(l, groups, options));
  const even: LoadVector = mode === 'ignore-dynu' ? [0, 0, 0, 0] : [1, 1, 1, 1];
  const load = (vm: string): LoadVector => (mode === 'util' ? (util.get(vm) ?? even) : even);
  const names = new Set(lines.map((x) => x.node.name));
  if (names.size !== lines.length)
    throw new FlotillaError('bad-input', 'two nodes have one name', { hint: 'Give each its own name.' });
  const vms = vmLines.map((l) => readVm(l, tags.apart, load));
  for (const name of dead)
    if (!names.has(name))
      throw new FlotillaError('bad-input', `there is no node ${name}`, { hint: 'Name one of the file.' });
  return { nodes: withOwnUse(lines, vms), vms };
}

/** Takes off what is used by nobody: memory of the machine's own, disk beside the replicas. */
function withOwnUse(lines: readonly NodeLine[], vms: readonly PlanVm[]): PlanNode[] {
  const memory = new Map<string, number>();
  const disk = new Map<string, number>();
  const count = (m: Map<string, number>, k: string, x: number): unknown => m.set(k, (m.get(k) ?? 0) + x);
  for (const v of vms) {
    count(memory, v.owner, v.memoryMiB);
    count(disk, v.owner, v.diskMiB);
    count(disk, v.standby, v.diskMiB);
  }
  return lines.map(({ node, freeMiB, freeDiskMiB }) => {
    const unaccounted = node.vmMemoryMiB - freeMiB - (memory.get(node.name) ?? 0);
    const used = disk.get(node.name) ?? 0;
    if (freeDiskMiB > node.diskMiB - used)
      throw new FlotillaError('bad-input', `${node.name} has more disk free than its VMs leave`, {
        hint: format,
      });
    return {
      ...node,
      vmMemoryMiB: node.vmMemoryMiB - Math.max(0, unaccounted),
      vmDiskMiB: freeDiskMiB + used,
    };
  });
}

/** A plan as the scorer of such plans reads it: f swaps the roles of a VM's nodes, r:NODE copies it to a new secondary. */
export interface HtoolsPlan {
  readonly mode: LoadMode;
  readonly moves: readonly {
    readonly vm: string;
    readonly primary: string;
    readonly secondary: string;
    readonly ops: readonly string[];
  }[];
  readonly final: readonly { readonly vm: string; readonly primary: string; readonly secondary: string }[];
}

/** Writes a plan in htools' words: every move in order, and where every VM ends. */
export function planJson(mode: LoadMode, cluster: PlanCluster, plan: BalancePlan): HtoolsPlan {
  const last = new Map(plan.steps.map((x) => [x.vm, x]));
  return {
    mode,
    moves: plan.steps.map((x) => ({
      vm: x.vm,
      primary: x.owner,
      secondary: x.standby,
      ops: x.ops.map((o) => (o.op === 'swap' ? 'f' : `r:${o.node}`)),
    })),
    final: cluster.vms.map((v) => {
      const { owner, standby } = last.get(v.name) ?? v;
      return { vm: v.name, primary: owner, secondary: standby };
    }),
  };
}
