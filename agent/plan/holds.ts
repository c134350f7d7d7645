import { presence } from '../../core/domain/node.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { rollingArgs } from '../../core/domain/rolling.js';
import type { AgentEnv } from '../env.js';
import type { Snapshot } from '../snapshot.js';

/** Work during which nothing else is moved. */
const waitsFor: ReadonlySet<string> = new Set([
  'vm.failover',
  'vm.migrate',
  'vm.relocate',
  'node.drain',
  'node.return',
  'node.update',
  'node.reboot',
  'cluster.rolling',
  'cluster.rotate-ca',
  'node.sleep',
]);

/**
 * What keeps work on the whole cluster from being begun now, in words: other such work, and nodes that are not there.
 *
 * @param mine - operations of the one who asks
 */
export function holdsOf(s: Snapshot, env: AgentEnv, mine: (o: Op) => boolean = () => false): string[] {
  const out: string[] = [];
  if (s.unreadable.length > 0) out.push(`${s.unreadable.length} records of the ledger cannot be read`);
  const open = new Map<string, string>();
  for (const { value: o } of s.ops.values()) {
    if (opFinished(o) || !waitsFor.has(o.kind) || mine(o)) continue;
    if (o.kind === 'cluster.rolling' && rollingArgs(o)?.paused === true) continue;
    open.set(o.kind, `${o.kind} of ${o.subject.name} is under way`);
  }
  out.push(...open.values());
  const heard = new Map(env.radio.heard().map((h) => [h.node, presence(h.beatAgeMs)]));
  for (const { value: n } of s.nodes.values()) {
    if (n.witness || n.desired !== 'active' || n.id === env.node) continue;
    const is = heard.get(n.id) ?? 'never-heard';
    if (!s.lives.has(n.id)) out.push(`${n.id} is not alive`);
    else if (is !== 'here') out.push(`${n.id} is ${is === 'never-heard' ? 'not heard' : is}`);
  }
  return out;
}

/** What keeps all from being done by itself, in words. */
export function brakesOf(s: Snapshot, env: AgentEnv): string[] {
  const out: string[] = [];
  if (s.policy.ha.paused) out.push('HA is paused');
  if (s.policy.ha.hold) out.push('failovers are held');
  return [...out, ...holdsOf(s, env)].slice(0, 5);
}

/** What is wrong with the ledger's other voters: while one is, no further one may go. @returns null: nothing */
export async function votersFault(env: AgentEnv, without: string): Promise<string | null> {
  const faults = (await env.voters?.faults()) ?? [];
  const [fault] = faults.filter((f) => f.node !== without);
  return fault === undefined ? null : `it votes, and voter ${fault.node} ${fault.text}`;
}
