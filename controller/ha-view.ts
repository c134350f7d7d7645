import { admit } from '../core/decide/plan/admission.js';
import { State } from '../core/decide/plan/state.js';
import { failoverTotalMs } from '../core/domain/failover-words.js';
import { failoverTimelineSchema, type Policy } from '../core/domain/ha.js';
import type { NodeKeeper } from '../core/domain/node.js';
import type { HaFailover, HaNode, HaView, OpView, PolicyView, VmRow } from '../core/wire/rest.js';
import { outlookOf } from './plan-view.js';
import { contentMark } from './tables.js';
import type { View } from './view.js';

/** Failovers shown at a glance; all that the ledger still has are among the operations. */
const failoversShown = 10;

/** The revision of a policy that nobody has set yet. */
export const policyUnset = 'unset';

export function policyView(view: View, kept: { value: Policy; raw: string } | null): PolicyView {
  let wanted = 0;
  let armed = 0;
  const { vmSpec, vmOwn } = view.ledger.tables;
  for (const [id, { value }] of vmSpec) {
    if (!value.ha.enabled) continue;
    wanted += 1;
    if (vmOwn.get(id)?.value.fence.armed === true) armed += 1;
  }
  return {
    ...(kept?.value ?? view.ledger.policy),
    wanted,
    armed,
    revision: kept === null ? policyUnset : contentMark(kept),
  };
}

/** A VM whose owner's lease has ended while it should run. */
export function waitsForFailover(view: View, v: Pick<VmRow, 'id' | 'ha'>): boolean {
  const own = view.ledger.tables.vmOwn.get(v.id)?.value;
  return v.ha.state !== 'off' && own !== undefined && own.state !== 'stopped' && !view.isLive(own.owner);
}

export function haFailover(op: OpView): HaFailover {
  const timeline = failoverTimelineSchema.safeParse(op.args).data ?? null;
  return {
    op: op.id,
    vm: op.subject.id,
    name: op.subject.name,
    state: op.state,
    step: op.step,
    createdMs: op.createdMs,
    timeline,
    totalMs: timeline === null ? null : failoverTotalMs(timeline),
  };
}

/** High availability at a glance. @throws FlotillaError `ledger-unavailable` before the first reading */
export function haView(view: View): HaView {
  const freshness = view.freshness();
  const policy = policyView(view, view.ledger.policyKept);
  const rows = view.list('vm').map((c) => c.view);
  const brief = (v: VmRow) => ({ vm: v.id, name: v.name, node: v.node });
  const parts = {
    policy,
    protected: rows.filter((v) => v.ha.state === 'protected').length,
    unprotected: rows
      .filter((v) => v.ha.state === 'unprotected')
      .map((v) => ({ ...brief(v), text: v.ha.text.replace(/^not protected: /, '') })),
    waiting: rows
      .filter((v) => waitsForFailover(view, v))
      .map((v) => ({ ...brief(v), standby: v.ha.standby, text: v.ha.text })),
  };
  return {
    ...freshness,
    ...parts,
    sentence: haSentence(parts),
    nodes: view
      .list('node')
      .map((c) => c.view)
      .filter((n) => !n.record.witness)
      .map((n) => {
        const heard = n.presence === 'here' || n.presence === 'suspect';
        const said = n.state?.health.find((h) => h.part === 'failover' && !h.ok);
        return {
          node: n.id,
          live: n.live,
          presence: n.presence,
          keeper: heard ? keeperOf(view, n.state?.keeper ?? null) : null,
          failover: heard ? (said?.text ?? '') : '',
        };
      }),
    shortfalls: shortfalls(view),
    failovers: view
      .list('op')
      .map((c) => c.view)
      .filter((o) => o.kind === 'vm.failover')
      .slice(0, failoversShown)
      .map(haFailover),
  };
}

/** Standbys that could not take over what they promised, whichever one node fails. */
function shortfalls(view: View): HaView['shortfalls'] {
  const admission = admit(new State(outlookOf(view).cluster));
  return admission.ok ? [] : admission.shortfalls.map((x) => ({ ...x, vms: [...x.vms] }));
}

/** The same as of a moment ago: it costs a look at all VMs, and the first screen asks each second. */
export function recentShortfalls(view: View): HaView['shortfalls'] {
  const kept = recent.get(view);
  if (kept !== undefined && performance.now() - kept.atMs < recentMs) return kept.value;
  const value = shortfalls(view);
  recent.set(view, { atMs: performance.now(), value });
  return value;
}
const recentMs = 5_000;
const recent = new WeakMap<View, { readonly atMs: number; readonly value: HaView['shortfalls'] }>();

function keeperOf(view: View, k: NodeKeeper | null): HaNode['keeper'] {
  if (k === null) return null;
  const { vmSpec } = view.ledger.tables;
  return { ...k, held: k.held.map((h) => ({ ...h, name: vmSpec.get(h.vm)?.value.name ?? null })) };
}

const some = (n: number, one: string): string => `${n} ${n === 1 ? one : `${one}s`}`;

/** Protection of the cluster in a sentence. */
export function haSentence(h: Pick<HaView, 'policy' | 'protected' | 'unprotected' | 'waiting'>): string {
  const { wanted, ha } = h.policy;
  if (ha.paused)
    return `HA is paused: nothing freezes and nothing fails over; ${some(wanted, 'VM')} would have it.`;
  if (wanted === 0) return 'No VM has HA: none comes back by itself when its node fails.';
  const waits = h.waiting.length === 0 ? '' : ` ${some(h.waiting.length, 'failover')} not done yet.`;
  const held = ha.hold ? ' Failovers are held until somebody lets go.' : '';
  const [first] = h.unprotected;
  if (first === undefined) {
    const all =
      wanted === 1 ? 'The only VM with HA is protected.' : `All ${wanted} VMs with HA are protected.`;
    return `${all}${waits}${held}`;
  }
  const more = h.unprotected.length > 1 ? `, and ${h.unprotected.length - 1} more` : '';
  const are = h.protected === 1 ? 'is' : 'are';
  return `${h.protected} of ${some(wanted, 'VM')} with HA ${are} protected; not "${first.name}"${more}.${waits}${held}`;
}
