import type { State } from './state.js';

/** What may fail at one time, with every protected VM still having its memory on its standby. */
export type FailureUnit = 'node' | 'domain';

/** A promise that could not be kept. */
export interface Shortfall {
  /** The node or domain that fails. */
  readonly fails: string;
  /** The node that would have to take over, what it would need and what it has, MiB. */
  readonly node: string;
  readonly needsMiB: number;
  readonly freeMiB: number;
  /** VMs it could not start, the smallest left out first as long as the others fit. */
  readonly vms: readonly string[];
  readonly text: string;
  readonly help: string;
}

export type Admission =
  { readonly ok: true } | { readonly ok: false; readonly shortfalls: readonly Shortfall[] };

/** So many shortfalls are listed: the reader mends the first before the last matters. */
const shortfallsMax = 50;

/**
 * Whether a cluster, as it is or as it would be after a change, keeps every promise whichever single node (or domain,
 * e.g. rack) fails: what fails together is summed on each standby and held against its free memory.
 *
 * @param s - the cluster after the change
 * @param known - the cluster before it: what was short by as much already is not the change's fault and not listed
 */
export function admit(s: State, unit: FailureUnit = 'node', known?: State): Admission {
  const now = lacks(s, unit);
  const before = known === undefined ? null : lacks(known, unit);
  const shortfalls: Shortfall[] = [];
  for (const [key, lack] of now) {
    if (lack.lackMiB <= (before?.get(key)?.lackMiB ?? 0)) continue;
    shortfalls.push(describe(s, unit, lack));
    if (shortfalls.length >= shortfallsMax) break;
  }
  return shortfalls.length === 0 ? { ok: true } : { ok: false, shortfalls };
}

interface Lack {
  readonly fails: string;
  readonly failing: readonly number[];
  readonly node: number;
  readonly needsMiB: number;
  readonly lackMiB: number;
}

/** What each standby lacks for each failure, by name of both. */
function lacks(s: State, unit: FailureUnit): Map<string, Lack> {
  const out = new Map<string, Lack>();
  const units = [...failures(s, unit)];
  for (let node = 0; node < s.nodeCount; node++) {
    // What is enough for the worst single node is enough for each.
    if (s.online[node] === 0 || (unit === 'node' && s.lack[node] === 0)) continue;
    for (const [fails, failing] of units) {
      if (failing.includes(node)) continue;
      let needsMiB = 0;
      for (const f of failing) needsMiB += s.peer(node, f);
      const lackMiB = needsMiB - s.freeMem[node]!;
      if (needsMiB > 0 && lackMiB > 0)
        out.set(`${fails}\0${s.nodes[node]!.name}`, { fails, failing, node, needsMiB, lackMiB });
    }
  }
  return new Map([...out].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** What may fail: each node by itself, or all nodes of a domain; a node without a domain fails by itself. */
function failures(s: State, unit: FailureUnit): Map<string, number[]> {
  const out = new Map<string, number[]>();
  s.nodes.forEach((n, i) => {
    const names = unit === 'domain' && n.domains.length > 0 ? n.domains : [n.name];
    for (const name of names) {
      const nodes = out.get(name);
      if (nodes === undefined) out.set(name, [i]);
      else nodes.push(i);
    }
  });
  return out;
}

function describe(s: State, unit: FailureUnit, lack: Lack): Shortfall {
  const node = s.nodes[lack.node]!.name;
  const promised: number[] = [];
  for (let vm = 0; vm < s.vmCount; vm++)
    if (s.standby[vm] === lack.node && lack.failing.includes(s.owner[vm]!)) promised.push(vm);
  promised.sort((a, b) => s.memory[b]! - s.memory[a]! || a - b);
  let free = s.freeMem[lack.node]!;
  const left: string[] = [];
  for (const vm of promised) {
    if (s.memory[vm]! <= free) free -= s.memory[vm]!;
    else left.push(s.vms[vm]!.name);
  }
  const freeMiB = s.freeMem[lack.node]!;
  return {
    fails: lack.fails,
    node,
    needsMiB: lack.needsMiB,
    freeMiB,
    vms: left,
    text:
      `if ${unit === 'node' ? lack.fails : `all of ${lack.fails}`} fails, ${node} has ${Math.max(0, freeMiB)} MiB ` +
      `for the ${lack.needsMiB} MiB it promised; ${left.join(', ')} would stay off`,
    help: helpFor(s, lack, left),
  };
}

/** The smallest thing that would do. */
function helpFor(s: State, lack: Lack, left: readonly string[]): string {
  let roomiest = -1;
  for (let n = 0; n < s.nodeCount; n++) {
    if (n === lack.node || s.online[n] === 0 || lack.failing.includes(n)) continue;
    if (roomiest < 0 || spare(s, n) > spare(s, roomiest)) roomiest = n;
  }
  if (roomiest >= 0 && spare(s, roomiest) >= lack.lackMiB)
    return `${s.nodes[roomiest]!.name} could stand by for ${left[0]} instead: it has ${spare(s, roomiest)} MiB to spare.`;
  return `Free ${lack.lackMiB} MiB on ${s.nodes[lack.node]!.name}, or add a node with as much.`;
}

/** Memory of a node beyond its largest promise, MiB. */
const spare = (s: State, n: number): number => s.freeMem[n]! - s.need[n]!;
