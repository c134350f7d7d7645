import { reservedSpec } from '../../core/decide/bundle.js';
import { macFrom } from '../../core/decide/mac.js';
import { newReplica } from '../../core/decide/replica-edit.js';
import { membersBefore } from '../../core/decide/vapp.js';
import {
  createVm,
  fromSnapshot,
  placed,
  type EditContext,
  type FromSnapshot,
  type VmEdit,
} from '../../core/decide/vm-edit.js';
import { firstOwn, placeNew, type MakeLookup } from '../../core/decide/vm-make.js';
import { FlotillaError } from '../../core/domain/error.js';
import { presence } from '../../core/domain/node.js';
import { queuedOp, type Op } from '../../core/domain/op.js';
import type { Vapp, VappFrom, VappMember } from '../../core/domain/vapp.js';
import { ledger as kinds, unique, writeRecord } from '../../core/wire/ledger-keys.js';
import { vmCreateSchema, type VmCreate } from '../../core/wire/rest.js';
import { parse } from '../../core/domain/schema.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import { outlookOf } from '../plan/outlook.js';
import type { Kept, Snapshot } from '../snapshot.js';

/** What one transaction makes of a VM. */
export interface VmBirth {
  readonly compare: Compare[];
  readonly writes: Write[];
  /** Keys that must be free. */
  readonly taken: readonly string[];
}

/** Makes the records of a vApp's VMs, as the API makes those of others. */
export class VmBirths {
  private readonly env: AgentEnv;

  constructor(env: AgentEnv) {
    this.env = env;
  }

  /** @throws FlotillaError as the API refuses a VM */
  async plan(m: VappMember, vapp: Vapp, op: Op, s: Snapshot): Promise<VmBirth> {
    const { env } = this;
    const input = parse(vmCreateSchema, m.make, `Member "${m.name}" of vApp "${vapp.name}"`);
    const after = membersBefore(vapp, m.name)
      .filter((b) => s.specs.has(b.vm))
      .map((b) => b.vm)
      .slice(0, 16);
    const begins = m.from === undefined ? null : beginsAs(m, m.from, s);
    const edit = createVm(
      m.vm,
      { ...input, ha: { ...input.ha, after } },
      await this.context(input.nics, s),
      begins?.disks,
    );
    const spec = { ...edit.spec, vapp: { id: vapp.id, member: m.name } };
    const outlook = outlookOf(s, env.radio.heard(), { joining: [spec] });
    const counted = { ...edit, spec: reservedSpec(spec, vapp, s.specs) };
    const place = placeNew([{ edit: counted, node: begins?.node ?? input.node ?? null }], {
      nodes: outlook.nodes,
      cluster: outlook.cluster,
      admission: s.policy.plan.admission,
      at: this.lookup(s),
    }).get(m.vm);
    if (place === undefined) throw new Error('a VM was not placed');
    const made = queuedOp(
      {
        id: env.random.uuid(),
        kind: 'vm.create',
        subject: { kind: 'vm', id: m.vm, name: spec.name },
        node: null,
        askedBy: `${op.kind} of ${op.subject.name}`,
        args: { for: op.id },
      },
      env.clock.wallMs(),
    );
    const compare: Compare[] = [];
    const writes: Write[] = [];
    const fresh = (key: string, value: string): void => {
      compare.push({ key, modRevision: 0n });
      writes.push({ put: key, value });
    };
    fresh(kinds.vmSpec.key(m.vm), writeRecord(kinds.vmSpec, spec));
    fresh(kinds.vmOwn.key(m.vm), writeRecord(kinds.vmOwn, firstOwn(place.node, place.copy)));
    fresh(kinds.op.key(made.id), writeRecord(kinds.op, made));
    for (const d of edit.made)
      fresh(kinds.disk.key(d.disk.id), writeRecord(kinds.disk, placed(d, place.node).disk));
    const taken = [...edit.take];
    if (place.copy !== null) {
      const replica = await this.replica(m.vm, edit, [place.node, place.copy], s);
      if (replica !== null) {
        fresh(kinds.replica.key(m.vm), writeRecord(kinds.replica, replica));
        taken.push(unique.replicaPort(replica.port), ...replica.volumes.map((v) => unique.minor(v.minor)));
      }
    }
    for (const key of taken) fresh(key, m.vm);
    if (m.from !== undefined && begins !== null)
      compare.push({ key: kinds.vmSnapshot.key(m.from.snapshot), modRevision: begins.modRevision });
    this.lean(edit, [place.node, place.copy], s, compare, writes);
    return { compare, writes, taken };
  }

  /** What it refers to must still stand; of two that are promised something of a node at once, one is planned anew. */
  private lean(
    edit: VmEdit,
    nodes: readonly (string | null)[],
    s: Snapshot,
    compare: Compare[],
    writes: Write[],
  ): void {
    const again = new Map<string, { value: string; modRevision: bigint }>();
    for (const n of nodes) {
      const kept = n === null ? undefined : s.nodes.get(n);
      if (kept !== undefined)
        again.set(kinds.node.key(kept.value.id), {
          value: writeRecord(kinds.node, kept.value),
          modRevision: kept.modRevision,
        });
    }
    const refer = (kind: 'image' | 'network' | 'pool' | 'class', id: string): void => {
      const kept = { image: s.images, network: s.networks, pool: s.pools, class: s.classes }[kind].get(id) as
        Kept<never> | undefined;
      if (kept === undefined) throw notFound(kind, id);
      again.set(kinds[kind].key(id), {
        value: writeRecord(kinds[kind] as never, kept.value),
        modRevision: kept.modRevision,
      });
    };
    for (const i of edit.images) refer('image', i.id);
    for (const n of edit.networks) refer('network', n.id);
    for (const p of edit.pools) refer('pool', p.id);
    for (const c of edit.classes) refer('class', c.id);
    for (const [key, { value, modRevision }] of again) {
      compare.push({ key, modRevision });
      writes.push({ put: key, value });
    }
    for (const id of edit.orderedAfter)
      compare.push({ key: kinds.vmSpec.key(id), modRevision: s.specs.get(id)?.modRevision ?? 0n });
  }

  private lookup(s: Snapshot): MakeLookup {
    const heard = new Map(this.env.radio.heard().map((h) => [h.node, h]));
    return {
      pool: (id) => {
        const pool = s.pools.get(id)?.value;
        if (pool === undefined) throw notFound('pool', id);
        return pool;
      },
      sourceHere: (i) => i.node === null || presence(heard.get(i.node)?.beatAgeMs ?? null) === 'here',
    };
  }

  private async context(nics: VmCreate['nics'], s: Snapshot): Promise<EditContext> {
    const { env } = this;
    const addresses = new Map<string, ReadonlySet<string>>();
    for (const n of nics) {
      if (n.address === null || addresses.has(n.network)) continue;
      const prefix = unique.addressPrefix(n.network);
      const { entries } = await env.ledger.list(prefix);
      addresses.set(n.network, new Set(entries.map((e) => e.key.slice(prefix.length))));
    }
    const hex = (bytes: number): string =>
      Array.from({ length: bytes }, () => env.random.below(256).toString(16).padStart(2, '0')).join('');
    return {
      newId: () => env.random.uuid(),
      newMac: () => macFrom(hex(4)),
      pool: (id) => this.lookup(s).pool(id ?? ''),
      image: (id) => {
        const image = s.images.get(id)?.value;
        if (image?.state !== 'ready') throw notFound('image', id);
        return image;
      },
      network: (id) => {
        const network = s.networks.get(id)?.value;
        if (network === undefined) throw notFound('network', id);
        return network;
      },
      serviceClass: (id) => {
        const cls = s.classes.get(id)?.value;
        if (cls === undefined) throw notFound('class', id);
        return cls;
      },
      addresses: (id) => addresses.get(id) ?? new Set(),
      vms: {
        find: (id) => id,
        name: (id) => s.specs.get(id)?.value.name ?? id,
        after: (id) => s.specs.get(id)?.value.ha.after ?? [],
      },
    };
  }

  private async replica(
    vm: string,
    edit: VmEdit,
    [a, b]: readonly [string, string],
    s: Snapshot,
  ): Promise<ReturnType<typeof newReplica>> {
    const { env } = this;
    const taken = async (prefix: string): Promise<Set<number>> =>
      new Set((await env.ledger.list(prefix)).entries.map((e) => Number(e.key.slice(prefix.length))));
    const node = (id: string) => ({ id, addresses: s.nodes.get(id)?.value.addresses ?? [] });
    return newReplica({
      vm,
      disks: edit.made.map((m) => m.disk),
      nodes: [node(a), node(b)],
      secret: `${env.random.uuid()}`.replaceAll('-', ''),
      taken: { minors: await taken(unique.minorPrefix), ports: await taken(unique.replicaPortPrefix) },
    });
  }
}

/** @throws FlotillaError `not-found`: the snapshot is gone, or on its way out */
function beginsAs(
  m: VappMember,
  from: VappFrom,
  s: Snapshot,
): { readonly disks: Map<string, FromSnapshot>; readonly node: string | null; readonly modRevision: bigint } {
  const kept = s.vmSnapshots.get(from.snapshot);
  if (kept?.value.state !== 'ready')
    throw new FlotillaError('not-found', `The snapshot that "${m.name}" begins as is gone`, {
      hint: 'Ask again.',
    });
  return {
    disks: fromSnapshot(kept.value, from.linked),
    node: kept.value.node,
    modRevision: kept.modRevision,
  };
}

const notFound = (kind: string, id: string): FlotillaError =>
  new FlotillaError('not-found', `There is no ${kind} ${id} any more`, {
    hint: 'It was deleted meanwhile: apply the vApp again.',
  });
