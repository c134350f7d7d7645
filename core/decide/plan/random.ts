import type { PlanCluster } from './model.js';

/** Even numbers from a seed, the same on every machine (sfc32). */
export class Random {
  private a: number;
  private b: number;
  private c: number;
  private n = 1;

  constructor(seed: number) {
    this.a = seed | 0;
    this.b = 0x9e3779b9 | 0;
    this.c = 0x243f6a88 | 0;
    for (let i = 0; i < 12; i++) this.next();
  }

  private next(): number {
    const t = (((this.a + this.b) | 0) + this.n) | 0;
    this.n = (this.n + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = (this.c << 21) | (this.c >>> 11);
    this.c = (this.c + t) | 0;
    return t >>> 0;
  }

  /** In [0, 1). */
  unit(): number {
    return this.next() / 4294967296;
  }

  /** A whole number in [0, n). */
  below(n: number): number {
    return Math.floor((this.next() / 4294967296) * n);
  }
}

/** A number made of what a cluster is (FNV-1a), so that the same cluster gets the same plan everywhere. */
export function contentSeed(cluster: PlanCluster): number {
  const parts = [
    ...cluster.nodes.map((x) => JSON.stringify(x)),
    ...cluster.vms.map((x) => JSON.stringify(x)),
  ].sort();
  let h = 0x811c9dc5;
  for (const p of parts) for (let i = 0; i < p.length; i++) h = Math.imul(h ^ p.charCodeAt(i), 0x01000193);
  return h >>> 0;
}
