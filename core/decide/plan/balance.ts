import { descend, type Descent } from './descent.js';
import { Guard, namedOp, swap } from './guard.js';
import type { BalancePlan, PlanCluster } from './model.js';
import { Order, type Step } from './order.js';
import { contentSeed, Random } from './random.js';
import { assignmentOf, restore, Search, type Assignment, type Prices } from './search.js';
import { State } from './state.js';

/** Places tried per VM, over all runs, and at least in each: enough that twice as many gain a few percent. */
const triesPerVm = 3500;
const triesMin = 200_000;
/** Clusters of up to so many VMs are searched twice, the better plan is taken. */
const twiceMax = 300;
/** More runs, while none is as good as the yardstick. */
const runsMax = 8;
/** Times a plan is continued from where the order got stuck. */
const roundsMax = 5;
/**
 * Temperatures of a search: imbalance times nodes, since one move in more nodes changes their spread by less. At a hotter
 * start large clusters spend most of it on forgetting where they were.
 */
const hot = 0.64;
const warm = 0.04;
const cold = 0.0016;
/** Places the yardstick may try: about two seconds. */
const yardstickTries = 12e6;
/** What is copied at most where the yardstick ends too late: this share of all disks. */
const diskShareMax = 0.1;
/** Of what the yardstick would copy: where gains tie it may go another way than hbal does, which was seen to copy 0.3 % less. */
const budgetShare = 0.99;
/** The same above so many VMs by nodes, where the yardstick keeps gains and strays more. */
const closeMax = 4000;
const budgetShareLarge = 0.97;

/** Tried in turn: which of them finds the way out of a tight cluster differs. */
const pricings: readonly Prices[] = [
  { stranded: 20, short: 10, broken: 0.5, lack: 0 },
  { stranded: 20, short: 10, broken: 0.5, lack: 0.05 },
  { stranded: 100, short: 30, broken: 0.5, lack: 0 },
  { stranded: 100, short: 30, broken: 2, lack: 0.1 },
];

interface Walk {
  readonly steps: readonly Step[];
  readonly score: number;
  readonly stranded: number;
  readonly short: number;
  readonly diskMiB: number;
}

const copies = (steps: readonly Step[], disk: Float64Array): number =>
  steps.reduce((sum, x) => sum + disk[x.vm]! * x.ops.filter((op) => op !== swap).length, 0);

const walked = (s: State, steps: readonly Step[]): Walk => ({
  steps,
  diskMiB: copies(steps, s.disk),
  score: s.score(),
  stranded: s.stranded(),
  short: s.shortNodes,
});

/** Finds a balance from the start and an order of steps to it. */
class Balancer {
  private readonly s: State;
  private readonly guard: Guard;
  private readonly start: Assignment;
  private readonly yardstick: Descent;
  private readonly yardstickEnd: Walk;
  private readonly budgetMiB: number;

  constructor(s: State) {
    this.s = s;
    this.guard = new Guard(s);
    this.start = assignmentOf(s);
    this.yardstick = descend(s, yardstickTries);
    for (const [vm, o, sb] of this.yardstick.steps) s.put(vm, o, sb);
    this.yardstickEnd = walked(s, []);
    this.reset();
    this.budgetMiB = this.budget();
  }

  run(seed: number): Walk {
    const { s } = this;
    let best = this.followYardstick();
    // Where no single step helps, all is as even as it needs to be.
    if (this.yardstick.steps.length === 0 && best.stranded === 0 && best.short === 0) return best;
    const runs = s.vmCount <= twiceMax ? 2 : 1;
    const tries = Math.max(triesMin, Math.ceil((triesPerVm * s.vmCount) / runs));
    for (let run = 0; run < runs || (run < runsMax && this.falls(best)); run++) {
      const budgetMiB = run < runs ? this.aimMiB() : this.budgetMiB;
      const w = this.walk(new Random(seed + run), tries, pricings[run % pricings.length]!, budgetMiB);
      if (this.better(w, best)) best = w;
    }
    return best;
  }

  private reset(): void {
    restore(this.s, this.start);
    this.s.settle();
  }

  private budget(): number {
    const { s } = this;
    if (!this.yardstick.cut) return this.yardstick.diskMiB;
    const all = s.disk.reduce((a, b) => a + b, 0);
    let stranded = 0;
    for (let vm = 0; vm < s.vmCount; vm++)
      if (s.online[s.owner[vm]!] === 0 || s.online[s.standby[vm]!] === 0) stranded += s.disk[vm]!;
    return Math.max(this.yardstick.diskMiB, all * diskShareMax + stranded);
  }

  /** What is to be copied at most, unless no plan is found with that. */
  private aimMiB(): number {
    const { s, yardstick, budgetMiB } = this;
    if (yardstick.cut) return budgetMiB;
    return budgetMiB * (s.vmCount * s.nodeCount > closeMax ? budgetShareLarge : budgetShare);
  }

  /** What is worse than with the yardstick: replicas left on lost nodes, nodes that fall short, disk copied. */
  private excess(w: Walk): number {
    const y = this.yardstickEnd;
    const left = Math.max(0, w.stranded - y.stranded) + Math.max(0, w.short - y.short);
    return left + (w.diskMiB > this.budgetMiB ? 0.5 : 0);
  }

  private falls(w: Walk): boolean {
    return this.excess(w) > 0 || w.score > this.yardstick.score;
  }

  private better(a: Walk, b: Walk): boolean {
    const excess = this.excess(a) - this.excess(b);
    if (excess !== 0) return excess < 0;
    const weigh = (w: Walk): number => w.score + 20 * w.stranded + 10 * w.short;
    return weigh(a) < weigh(b) - 1e-9;
  }

  /** The yardstick's own steps, as far as they are legal. */
  private followYardstick(): Walk {
    const { s, guard } = this;
    const steps: Step[] = [];
    for (const [vm, owner, standby] of this.yardstick.steps) {
      const ops = guard.move(vm, owner, standby);
      if (ops !== null && ops.length > 0) steps.push({ vm, owner, standby, ops });
    }
    s.settle();
    return walked(s, steps);
  }

  /** Best assignment, then an order to it; where the order gets stuck, again from there. */
  private walk(random: Random, tries: number, prices: Prices, budgetMiB: number): Walk {
    const { s, guard } = this;
    this.reset();
    const steps: Step[] = [];
    let leftMiB = budgetMiB;
    for (let round = 0; round < roundsMax; round++) {
      const from = assignmentOf(s);
      const target = new Search(s, guard, from, random).run({
        tries: round === 0 ? tries : tries / 4,
        diskMaxMiB: leftMiB,
        hot: (round === 0 ? hot : warm) / s.nodeCount,
        cold: cold / s.nodeCount,
        prices,
      });
      restore(s, from);
      const order = new Order(s, guard, target, leftMiB);
      const left = order.run();
      s.settle();
      steps.push(...order.steps);
      leftMiB -= order.diskMiB;
      if (left === 0) break;
    }
    return walked(s, steps);
  }
}

/**
 * Plans steps that even a cluster out, each legal when it is taken: room for it, copies from living nodes only, and
 * no node that could take over what it promised unable to afterwards.
 *
 * A plain steepest descent is the yardstick: the plan copies no more disk than it would, and is taken only where it
 * ends no worse. The same cluster gets the same plan, whatever the order of its nodes and VMs.
 *
 * @throws FlotillaError `bad-input`: a VM on an unknown node, both replicas on one, or two of one name
 */
export function balance(cluster: PlanCluster): BalancePlan {
  const s = new State(cluster);
  if (s.vmCount === 0)
    return { steps: [], before: s.score(), after: s.score(), cost: { diskMiB: 0, memoryMiB: 0 } };
  const before = s.score();
  const { steps, score } = new Balancer(s).run(contentSeed(cluster));
  const swaps = steps.reduce((sum, x) => sum + s.memory[x.vm]! * x.ops.filter((op) => op === swap).length, 0);
  return {
    steps: steps.map((x) => ({
      vm: s.vms[x.vm]!.name,
      owner: s.nodes[x.owner]!.name,
      standby: s.nodes[x.standby]!.name,
      ops: x.ops.map((op) => namedOp(s, op)),
    })),
    before,
    after: score,
    cost: {
      diskMiB: copies(steps, s.disk),
      memoryMiB: swaps,
    },
  };
}
