import type { Health, NodeFacts } from '../../core/domain/node.js';
import type { Policy } from '../../core/domain/ha.js';
import type { HeardNode, KeeperState, LockstepSeen } from '../env.js';

/** Everything the node's page and metrics show, as plain data: whoever fills it in owns no socket here. */
export interface StatusView {
  readonly node: string;
  /** Null before a cluster was founded or joined. */
  readonly clusterName: string | null;
  readonly version: string;
  /** Now, by the node's wall clock. */
  readonly wallMs: number;
  /** Now, by the monotonic clock that `keeper.goodMs` is of. */
  readonly nowMs: number;
  /** Parts of this agent, well or not. */
  readonly health: readonly Health[];
  /** Null: not tried yet. */
  readonly ledger: { readonly reachable: boolean | null; readonly text: string };
  /** From `Radio.heard()`, this node among them. */
  readonly heard: readonly HeardNode[];
  /** From `Machine.facts()`. */
  readonly facts: NodeFacts | null;
  /** Refused since start, radio's and HTTP's together. */
  readonly refused: Readonly<Record<string, number>>;
  readonly certificate: { readonly fingerprint: string; readonly expiresMs: number } | null;
  readonly agent: AgentUse;
  /** Null: it does not answer. */
  readonly keeper: KeeperState | null;
  /** As last read from the ledger; null: not since the agent started. */
  readonly policy: Pick<Policy, 'ha'> | null;
  /** Nodes that were powered off on purpose, as last read from the ledger. */
  readonly asleep: readonly string[];
  /** Failovers to this node since the agent started. */
  readonly failovers: number;
  /** Machines of VMs in lockstep, twins too. */
  readonly lockstep: readonly LockstepSeen[];
}

/** What this process costs. */
export interface AgentUse {
  readonly startedMs: number;
  readonly rssBytes: number;
  readonly cpuSeconds: number;
  /** 99 of 100 turns of the event loop were late by less, seconds, over the last minute or so. */
  readonly lagSeconds: number;
}

/** This node's own lines. */
export const ownLines = (v: StatusView): HeardNode | undefined => v.heard.find((h) => h.node === v.node);
