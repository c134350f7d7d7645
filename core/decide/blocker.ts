/** What keeps something from being done to a VM, or to it on one node: in words, and what would help. */
export interface Blocker {
  readonly code: string;
  readonly text: string;
  readonly hint: string;
}

/** What speaks against single nodes. */
export interface NodeBlockers {
  readonly node: string;
  readonly blockers: readonly Blocker[];
}
