import type { PlanCluster, PlanStep } from '../../../../../core/decide/plan/model.js';

/**
 * A second, slow reading of what a legal step is: maps and sums over all VMs, nothing of the planner's own code, so
 * that an error there cannot hide here.
 */
export class Replay {
  readonly at = new Map<string, { owner: string; standby: string }>();
  private readonly c: PlanCluster;
  private readonly fineAtStart: ReadonlySet<string>;
  private readonly exposedAtStart: number;
  copiedMiB = 0;
  sentMiB = 0;

  constructor(c: PlanCluster) {
    this.c = c;
    for (const v of c.vms) this.at.set(v.name, { owner: v.owner, standby: v.standby });
    this.fineAtStart = new Set(c.nodes.filter((n) => this.lack(n.name) === 0).map((n) => n.name));
    this.exposedAtStart = this.exposed();
  }

  private place = (vm: string): { owner: string; standby: string } => this.at.get(vm) as never;
  private online = (node: string): boolean => this.c.nodes.find((n) => n.name === node)?.state === 'online';

  freeMemory(node: string): number {
    const own = this.c.vms.filter((v) => this.place(v.name).owner === node);
    const n = this.c.nodes.find((x) => x.name === node);
    return (n?.vmMemoryMiB ?? 0) - own.reduce((a, v) => a + v.memoryMiB, 0);
  }

  freeDisk(node: string): number {
    const on = this.c.vms.filter((v) => Object.values(this.place(v.name)).includes(node));
    const n = this.c.nodes.find((x) => x.name === node);
    return (n?.vmDiskMiB ?? 0) - on.reduce((a, v) => a + v.diskMiB, 0);
  }

  /** What an online node could not give if the worst of the others failed. */
  lack(node: string): number {
    if (!this.online(node)) return 0;
    const needs = this.c.nodes.map((other) =>
      this.c.vms
        .filter((v) => this.place(v.name).owner === other.name && this.place(v.name).standby === node)
        .reduce((a, v) => a + v.memoryMiB, 0),
    );
    return Math.max(0, Math.max(0, ...needs) - this.freeMemory(node));
  }

  private exposed(): number {
    const lacks = this.c.nodes.reduce((a, n) => a + this.lack(n.name), 0);
    const away = this.c.vms.filter((v) => !Object.values(this.place(v.name)).every(this.online));
    return lacks + away.reduce((a, v) => a + v.memoryMiB, 0);
  }

  /** Takes one step. @returns what is wrong with it */
  step(step: PlanStep): string[] {
    const wrong: string[] = [];
    const v = this.c.vms.find((x) => x.name === step.vm);
    if (v === undefined) return [`there is no VM ${step.vm}`];
    const where = this.place(step.vm);
    for (const op of step.ops) {
      if (op.op === 'swap') {
        [where.owner, where.standby] = [where.standby, where.owner];
        this.sentMiB += v.memoryMiB;
        if (!this.online(where.owner))
          wrong.push(`${v.name} is to run on ${where.owner}, which is not online`);
        if (this.freeMemory(where.owner) <= 0) wrong.push(`${where.owner} has no memory for ${v.name}`);
      } else {
        if (op.node === where.owner || op.node === where.standby)
          wrong.push(`${op.node} has ${v.name} already`);
        if (!this.online(op.node)) wrong.push(`${v.name} is to be copied to ${op.node}, which is not online`);
        if (this.freeDisk(op.node) - v.diskMiB <= 0) wrong.push(`${op.node} has no disk for ${v.name}`);
        if (this.c.nodes.find((n) => n.name === where.owner)?.state === 'dead')
          wrong.push(`${v.name} is to be copied from ${where.owner}, which is dead`);
        where.standby = op.node;
        this.copiedMiB += v.diskMiB;
      }
    }
    if (where.owner !== step.owner || where.standby !== step.standby)
      wrong.push(`${v.name} ends on ${where.owner} and ${where.standby}, not where the step says`);
    for (const n of this.fineAtStart)
      if (this.lack(n) > 0) wrong.push(`after ${v.name} ${n} lacks ${this.lack(n)} MiB`);
    if (this.exposed() > this.exposedAtStart)
      wrong.push(`after ${v.name} more memory is exposed than at the start`);
    return wrong;
  }
}
