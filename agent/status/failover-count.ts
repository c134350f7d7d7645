import type { Op } from '../../core/domain/op.js';

/**
 * Counts failovers to this node since the agent started, from the operations in the ledger. Those that were there at
 * the first look are of before.
 */
export class FailoverCount {
  private readonly node: string;
  private known: ReadonlySet<string> | null = null;
  private count = 0;

  constructor(node: string) {
    this.node = node;
  }

  get total(): number {
    return this.count;
  }

  look(ops: Iterable<Op>): void {
    const mine = new Set<string>();
    for (const op of ops) {
      if (op.kind !== 'vm.failover' || op.args['to'] !== this.node) continue;
      mine.add(op.id);
      if (this.known !== null && !this.known.has(op.id)) this.count += 1;
    }
    this.known = mine;
  }
}
