import type { NodeDesired } from '../domain/node.js';

/** A node, as far as voting goes. */
export interface VoterNode {
  readonly id: string;
  /** What its record says now. */
  readonly voter: boolean;
  readonly desired: NodeDesired;
  /** Its live key exists. */
  readonly alive: boolean;
  readonly joinedMs: number;
  /** Votes and runs no VMs. */
  readonly witness: boolean;
  /** Null: nobody has said. */
  readonly rack: string | null;
  /** Where its etcd speaks to the others: how a member is known to be this node's. */
  readonly peerUrl: string;
  /** Machines in lockstep there: its death makes the ledger write at once. */
  readonly lockstep: { readonly owns: number; readonly twins: number };
}

/** A member of etcd's cluster. */
export interface VoterMember {
  readonly id: string;
  readonly peerUrl: string;
  readonly learner: boolean;
}

export interface VoterView {
  readonly nodes: readonly VoterNode[];
  readonly members: readonly VoterMember[];
  /** Members, by id, that this leader has seen without a living node for longer than it waits. */
  readonly lost: ReadonlySet<string>;
  /** Id of the member that leads the others; null: not known, or not asked. */
  readonly leader: string | null;
}

export type VoterStep =
  | { readonly do: 'add-learner'; readonly node: string; readonly peerUrl: string; readonly why: string }
  | { readonly do: 'promote'; readonly node: string; readonly member: string; readonly why: string }
  | { readonly do: 'remove'; readonly member: string; readonly node: string | null; readonly why: string }
  /** By the member that leads now, of `leader`: to `member`, of `node`. */
  | {
      readonly do: 'hand-over';
      readonly node: string;
      readonly member: string;
      readonly leader: string;
      readonly why: string;
    }
  | { readonly do: 'record'; readonly node: string; readonly voter: boolean; readonly why: string }
  | { readonly do: 'nothing'; readonly why: string };

/**
 * Voters wanted. Two nodes have one: a second would only add a way to lose the majority; with a witness as the third
 * they have three. Otherwise witnesses do not count: how much is worth protecting depends on the nodes that run VMs.
 *
 * @param nodes - that run VMs
 * @param witnesses - that only vote
 */
export function votersWanted(nodes: number, witnesses: number): number {
  if (nodes >= 7) return 5;
  return nodes >= 3 || (nodes === 2 && witnesses >= 1) ? 3 : 1;
}

/**
 * The next step towards the voters the cluster should have; one at a time, each safe to repeat. The members
 * themselves say how far it is, so whoever leads next goes on from there.
 *
 * Who becomes one: first the rack that has the fewest voters, then who joined first, then by name. Who goes: the
 * dead before the living, then from the fullest rack, then who joined last.
 * @see DESIGN 3: 1 voter for 1-2 nodes, 3 for 3-6 or two and a witness, 5 from 7 on, in different racks if labelled
 */
export function decideVoters(v: VoterView): VoterStep {
  const nodeOf = new Map(v.nodes.map((n) => [n.peerUrl, n]));
  const memberOf = new Map(v.members.map((m) => [m.peerUrl, m]));
  const voters = v.members.filter((m) => !m.learner);
  const staying = v.nodes.filter((n) => n.desired !== 'leaving');
  const witnesses = staying.filter((n) => n.witness).length;
  const wanted = votersWanted(staying.length - witnesses, witnesses);

  // What is shown first: records that say other than etcd.
  for (const n of byName(v.nodes)) {
    const votes = memberOf.get(n.peerUrl)?.learner === false;
    if (n.voter !== votes) {
      return { do: 'record', node: n.id, voter: votes, why: `the ledger's members say so` };
    }
  }

  const learner = v.members.find((m) => m.learner);
  if (learner !== undefined) {
    const node = nodeOf.get(learner.peerUrl);
    if (node === undefined) return remove(learner, null, 'no node of the cluster has its address');
    if (node.desired === 'leaving') return remove(learner, node, 'its node leaves');
    if (v.lost.has(learner.id)) return remove(learner, node, 'its node was gone before it had caught up');
    if (!node.alive) return { do: 'nothing', why: `waiting for ${node.id}, which is to become a voter` };
    return { do: 'promote', node: node.id, member: learner.id, why: `${wanted} voters are wanted` };
  }

  const aliveVoters = voters.filter((m) => nodeOf.get(m.peerUrl)?.alive);
  /** True where the rest has a majority that lives, so that the removal itself can be decided. */
  const canSpare = (m: VoterMember) => {
    const rest = voters.length - 1;
    const restAlive = aliveVoters.filter((a) => a.id !== m.id).length;
    return rest >= 1 && restAlive > rest / 2;
  };
  const stranger = voters.find((m) => !nodeOf.has(m.peerUrl) && canSpare(m));
  if (stranger !== undefined) return remove(stranger, null, 'no node of the cluster has its address');

  const keeping = voters.filter((m) => {
    const node = nodeOf.get(m.peerUrl);
    return node !== undefined && node.desired !== 'leaving';
  });
  const seated = keeping.flatMap((m) => nodeOf.get(m.peerUrl) ?? []);
  const candidates = byRack(
    staying.filter((n) => n.desired === 'active' && n.alive && !memberOf.has(n.peerUrl)),
    seated,
  );
  // A lost one goes first: etcd adds nobody while a voter is away. Without anybody to take its seat it keeps it,
  // since removing it would save nothing.
  const lost = voters.find((m) => v.lost.has(m.id) && canSpare(m));
  if (lost !== undefined && candidates.length > 0) {
    return remove(lost, nodeOf.get(lost.peerUrl) ?? null, 'its node has been gone for long');
  }
  const missing = wanted - keeping.length;
  const next = candidates[0];
  if (missing > 0 && next !== undefined) {
    // From one voter it goes to three: two need both, so the way is begun only where it can be finished.
    const stuck = voters.length === 1 && wanted > 2 && candidates.length < 2;
    if (!stuck)
      return { do: 'add-learner', node: next.id, peerUrl: next.peerUrl, why: `${wanted} voters are wanted` };
  }
  const going = voters.find((m) => !keeping.includes(m) && canSpare(m));
  // One that leaves goes as soon as it is replaced, or when nobody can replace it and an odd number remains.
  if (going !== undefined && (missing <= 0 || candidates.length === 0)) {
    return remove(going, nodeOf.get(going.peerUrl) ?? null, 'its node leaves');
  }
  if (missing < 0) {
    const last = firstToGo(seated, wanted);
    const m = last && memberOf.get(last.peerUrl);
    if (last && m && canSpare(m)) return remove(m, last, `${wanted} voters are wanted`);
  }
  if (missing === 0 && wanted > 1 && seated.every((n) => n.alive)) {
    // One more for a moment: what goes then is of the fullest rack, so this ends.
    const better = candidates.find((c) => {
      const gone = firstToGo([...seated, c], wanted);
      return crowding(seated.filter((n) => n !== gone).concat(gone === c ? [] : c)) < crowding(seated);
    });
    if (better !== undefined) {
      const why = `rack ${better.rack ?? 'unnamed'} has no voter yet, others have several`;
      return { do: 'add-learner', node: better.id, peerUrl: better.peerUrl, why };
    }
  }
  const led = handOver(v);
  if (led !== null) return led;
  if (missing > 0)
    return { do: 'nothing', why: `${missing} more voters are wanted; no node can become one now` };
  return { do: 'nothing', why: '' };
}

/**
 * The ledger elects for more than a second when its leader's node dies, and a machine in lockstep on that node waits for it
 * with all its clients. So the leader is to be where no such machine is; else where only twins are.
 */
function handOver(v: VoterView): VoterStep | null {
  const memberOf = new Map(v.members.filter((m) => !m.learner).map((m) => [m.peerUrl, m]));
  const { leader } = v;
  const from = v.nodes.find((n) => memberOf.get(n.peerUrl)?.id === leader);
  if (from === undefined || leader === null) return null;
  const rank = (n: VoterNode): number => (n.lockstep.owns > 0 ? 2 : n.lockstep.twins > 0 ? 1 : 0);
  const [to] = byName(v.nodes)
    .filter((n) => n.alive && n.desired === 'active' && memberOf.has(n.peerUrl))
    .sort((a, b) => rank(a) - rank(b));
  const member = to && memberOf.get(to.peerUrl);
  if (!to || !member || rank(to) >= rank(from)) return null;
  const why = `${from.id} has machines in lockstep`;
  return { do: 'hand-over', node: to.id, member: member.id, leader, why };
}

function remove(m: VoterMember, node: VoterNode | null, why: string): VoterStep {
  return { do: 'remove', member: m.id, node: node?.id ?? null, why };
}

/** Pairs of voters that one rack takes down together; a node without a label shares with nobody. */
function crowding(nodes: readonly VoterNode[]): number {
  return nodes.reduce((sum, n, i) => sum + sharing(n, nodes.slice(0, i)), 0);
}

const sharing = (n: VoterNode, others: readonly VoterNode[]): number =>
  n.rack === null ? 0 : others.filter((o) => o !== n && o.rack === n.rack).length;

/** The voter that is missed least. A witness is never the last one: it has no VMs to be there for. */
function firstToGo(seated: readonly VoterNode[], wanted: number): VoterNode | undefined {
  const rank = (n: VoterNode): number[] => [
    Number(!n.alive),
    wanted === 1 ? Number(n.witness) : 0,
    sharing(n, seated),
  ];
  return byAge(seated)
    .reverse()
    .sort((a, b) => {
      const [x, y] = [rank(a), rank(b)];
      return x.map((n, i) => (y[i] ?? 0) - n).find((d) => d !== 0) ?? 0;
    })[0];
}

const byName = (nodes: readonly VoterNode[]): VoterNode[] =>
  [...nodes].sort((a, b) => (a.id < b.id ? -1 : 1));
const byAge = (nodes: readonly VoterNode[]): VoterNode[] =>
  [...nodes].sort((a, b) => a.joinedMs - b.joinedMs || (a.id < b.id ? -1 : 1));
const byRack = (nodes: readonly VoterNode[], seated: readonly VoterNode[]): VoterNode[] =>
  byAge(nodes).sort((a, b) => sharing(a, seated) - sharing(b, seated));
