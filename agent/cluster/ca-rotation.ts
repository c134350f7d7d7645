import { decideRotation, type RotationStep } from '../../core/decide/ca-rotation.js';
import { rotationArgs, type RotationArgs } from '../../core/domain/ca-rotation.js';
import type { ClusterMeta } from '../../core/domain/cluster.js';
import { opAfter, type Op } from '../../core/domain/op.js';
import { metaKey, metaSchema, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import { certificateSha256 } from '../pki/bundle.js';
import { makeCa, randomHex, vouch, type Ca } from '../pki/certificates.js';
import { ensurePrivateKey } from '../pki/keys.js';
import { caKeyFile, pkiPaths } from '../pki/store.js';
import { OpRota, sameOp } from '../plan/op-rota.js';
import type { Kept, Snapshot } from '../snapshot.js';

/**
 * Replaces the CA, step by step: each is one transaction with what the operation says of it, and what is to be done follows
 * from the cluster's record and from what nodes say. So any voter goes on where another one ended.
 */
export class CaRotation {
  private readonly env: AgentEnv;
  private readonly stateDir: string;
  private readonly rota: OpRota;
  /** Since when nothing is waited for, monotonic ms, and in which phase. */
  private settled: { readonly what: string; readonly ms: number } | null = null;

  constructor(env: AgentEnv, stateDir: string, wake: () => void) {
    this.env = env;
    this.stateDir = stateDir;
    this.rota = new OpRota(env, wake, {
      wants: (o) => o.kind === 'cluster.rotate-ca',
      first: (_, s) => firstVoter(s),
      act: (k, s) => this.act(k, s),
    });
  }

  /** Does what is due. Never waits. */
  look(s: Snapshot): void {
    this.rota.look(s);
  }

  private async act(k: Kept<Op>, s: Snapshot): Promise<void> {
    const { value: op } = k;
    const args = rotationArgs(op);
    const meta = s.meta;
    if (meta === null) return;
    if (args === null) {
      await this.rota.write(k, s, { ...op, state: 'failed', step: 'it cannot be read' });
      return;
    }
    const { ca, otherCa } = meta.value;
    const nowMs = this.env.clock.nowMs();
    const look = (settledMs: number): RotationStep =>
      decideRotation({
        args,
        cancelAsked: op.cancelAsked,
        ca: certificateSha256(ca),
        otherCa: otherCa === undefined ? null : certificateSha256(otherCa),
        nodes: [...s.nodes.values()].map(({ value: n }) => ({
          id: n.id,
          voter: n.voter,
          live: s.lives.has(n.id),
          says: s.trusts.get(n.id)?.value ?? null,
        })),
        settledMs,
      });
    const first = look(0);
    const what = `${op.id} ${first.phase}`;
    if (first.waits.length > 0) this.settled = null;
    else if (this.settled?.what !== what) this.settled = { what, ms: nowMs };
    const step = look(this.settled === null ? 0 : nowMs - this.settled.ms);
    await this.commit(k, step, s, meta);
  }

  private async commit(k: Kept<Op>, step: RotationStep, s: Snapshot, meta: Kept<ClusterMeta>): Promise<void> {
    const changed = step.act === null ? null : await this.changed(step.act, meta.value);
    // Another one has the keys for it.
    if (step.act !== null && changed === null) return;
    const next = opAfter(k.value, changed?.args ?? {}, step);
    if (changed === null && sameOp(k.value, next)) return;
    const done = await this.rota.write(
      k,
      s,
      next,
      changed === null ? [] : [{ key: metaKey, modRevision: meta.modRevision }],
      changed === null ? [] : [{ put: metaKey, value: writeRecord({ schema: metaSchema }, changed.meta) }],
    );
    if (!done) return;
    if (changed !== null || step.end !== null)
      announce(
        this.env,
        step.end?.state === 'failed' ? 'warning' : 'info',
        k.value.subject.name,
        `replacing the CA: ${next.error?.message ?? next.step}`,
      );
  }

  /** @returns null: this node cannot */
  private async changed(
    act: NonNullable<RotationStep['act']>,
    meta: ClusterMeta,
  ): Promise<{ meta: ClusterMeta; args: Partial<RotationArgs> } | null> {
    const { otherCa, handover, ...rest } = meta;
    switch (act) {
      case 'make': {
        const made = await this.make(meta);
        if (made === null) return null;
        return {
          meta: { ...rest, otherCa: made.cert, handover: made.handover },
          args: { to: certificateSha256(made.cert) },
        };
      }
      case 'sign':
        if (otherCa === undefined || handover === undefined) return null;
        return { meta: { ...rest, ca: otherCa, otherCa: meta.ca, handover }, args: {} };
      case 'drop':
        return { meta: { ...rest, ...(handover === undefined ? {} : { handover }) }, args: {} };
      case 'undo':
        return { meta: rest, args: {} };
    }
  }

  /** A new CA, and the word of the old one for it. Its key is in a file of this node, and other voters fetch it. */
  private async make(meta: ClusterMeta): Promise<{ cert: string; handover: string } | null> {
    const { stateDir } = this;
    const keyFile = await caKeyFile(stateDir, meta.ca);
    if (keyFile === null) return null;
    const p = pkiPaths(stateDir);
    const wallMs = this.env.clock.wallMs();
    await ensurePrivateKey(p.caMadeKey);
    const made = { clusterId: meta.id, keyFile: p.caMadeKey, wallMs, mark: randomHex(4) };
    const next: Ca = { keyFile: p.caMadeKey, cert: await makeCa(made) };
    const word = await vouch({ cert: meta.ca, keyFile }, next, wallMs);
    return { cert: next.cert, handover: `${word}${meta.ca}` };
  }
}

/** A voter that is there and has the keys, by name. */
function firstVoter(s: Snapshot): string | null {
  const voters = [...s.nodes.values()].flatMap(({ value: n }) =>
    n.voter && s.lives.has(n.id) && (s.trusts.get(n.id)?.value.keys.length ?? 0) > 0 ? n.id : [],
  );
  return voters.sort()[0] ?? null;
}
