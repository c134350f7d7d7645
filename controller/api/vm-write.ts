import { bundleMemoryMiB, reservedMiB, reservedSpec, type Made } from '../../core/decide/bundle.js';
import { checkDiskStands, checkNothingLeft } from '../../core/decide/lockstep.js';
import { lockstepText } from '../../core/decide/lockstep-check.js';
import { macFrom } from '../../core/decide/mac.js';
import { refusals, type PlacementRequest } from '../../core/decide/plan/fit.js';
import { protectionOf } from '../../core/decide/plan/placement.js';
import { brokenBy, planRules } from '../../core/decide/rules.js';
import {
  createVm,
  editVm,
  fromSnapshot,
  placed,
  withPower,
  type EditContext,
  type FromSnapshot,
  type VmEdit,
} from '../../core/decide/vm-edit.js';
import {
  firstOwn,
  noFailoverRoom,
  placementRequest,
  placeNew,
  refusal,
  type MakeLookup,
  type Placed,
} from '../../core/decide/vm-make.js';
import { isReplicated, type Disk } from '../../core/domain/disk.js';
import { FlotillaError } from '../../core/domain/error.js';
import { protectionLevel } from '../../core/domain/ha.js';
import type { NodeRecord } from '../../core/domain/node.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { vmActions, type VmAction, type VmOwn, type VmPhase, type VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import { parse } from '../../core/domain/schema.js';
import type { Network } from '../../core/domain/network.js';
import type { Vapp, VappMember } from '../../core/domain/vapp.js';
import type { VmSnapshot } from '../../core/domain/vm-snapshot.js';
import { vmCreateSchema, type VmCreate, type VmPatch } from '../../core/wire/rest.js';
import type { Kept } from '../tables.js';
import { outlookOf } from '../plan-view.js';
import { Change, checkIfMatch, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Ask } from './context.js';
import { idOf, notFound, poolOf, readyImage } from './lookup.js';
import { nameFree } from './names.js';
import { newOp, repeated, until } from './ops.js';
import { Pairs, putPair } from './pairs.js';
import { needLockstep } from './vm-protection.js';

/** VMs in a cluster, at most: what the ledger's quota and the pages are made for. */
const vmsMax = 5_000;
/** How long a request waits for an owner to say how its VM is after an operation has just ended, ms. */
const settleMs = 3_000;

/** Result of a change: the op to follow, and whose it is. */
export interface VmChanged {
  readonly op: Op;
  readonly vmId: string;
  /** Promises that are not kept so, in words. */
  readonly warnings?: readonly string[];
}

/** Every change of VMs, each one transaction of the ledger. */
export class VmWrites {
  private readonly deps: ApiDeps;
  private readonly pairs: Pairs;
  /** Creates go one after the other, so that each sees what the one before was promised. */
  private turn: Promise<unknown> = Promise.resolve();

  constructor(deps: ApiDeps) {
    this.deps = deps;
    this.pairs = new Pairs(deps);
  }

  /** @param from - disks by name that begin as they were in a snapshot, which its author may read */
  async create(
    ask: Ask<'vmCreate'>,
    from: ReadonlyMap<string, FromSnapshot> = new Map(),
  ): Promise<VmChanged> {
    const mine = this.turn.then(() => this.createNow(ask, from));
    this.turn = mine.catch(() => undefined);
    return mine;
  }

  private async createNow(ask: Ask<'vmCreate'>, from: ReadonlyMap<string, FromSnapshot>): Promise<VmChanged> {
    const { deps } = this;
    const { view } = deps;
    view.freshness();
    const input = ask.body;
    const mark = requestMark({ ...ask, query: [...from.values()].map((x) => x.snapshot.id) });
    const ids = this.ids(ask.who, 'vmCreate', ask.idempotencyKey);
    await this.know({ ...input, after: input.ha.after ?? [] });
    await this.knowClass(input.class);
    return commit<VmChanged>(deps, `VM "${input.name}"`, async () => {
      // Looked at each time: the same request may have come to another controller at this moment.
      const before = ids.again ? await repeated(deps, ids.op, mark) : null;
      if (before !== null) return { change: null, answer: () => ({ op: before, vmId: before.subject.id }) };
      if (view.ledger.tables.vmSpec.size >= vmsMax) {
        throw new FlotillaError('ledger-full', `The cluster has ${vmsMax} VMs; no more are taken`, {
          hint: 'Delete VMs that are no longer needed.',
        });
      }
      await nameFree(deps, 'vm', input.name);
      await this.macsFree(input.nics, ids.vm);
      const edit = createVm(ids.vm, input, await this.editContext(input.nics), from);
      const nodes = await this.reckonable();
      const { node, copy, ...place } = this.placeVm(input, edit);
      const warnings = [...place.warnings];
      const made = edit.made.map((m) => placed(m, node));
      const replica =
        copy === null
          ? null
          : await this.pairs.of(
              ids.vm,
              edit.made.map((m) => m.disk),
              [node, copy],
            );
      const own = firstOwn(node, copy);
      if (edit.spec.ha.lockstep === true) {
        const disks = made.map((m) => m.disk);
        const check = outlookOf(view, { joining: [edit.spec] }).lockstep(edit.spec, own, { disks });
        warnings.push(...needLockstep(`VM "${input.name}" is not made`, check));
      }
      const op = newOp(deps, {
        id: ids.op,
        kind: 'vm.create',
        subject: { kind: 'vm', id: ids.vm, name: input.name },
        node: null,
        who: ask.who,
        args: { request: mark },
      });
      const change = new Change()
        .at(kinds.vmSpec.key(ids.vm), null)
        .at(kinds.vmOwn.key(ids.vm), null)
        .at(kinds.op.key(ids.op), null)
        .put(kinds.vmSpec, ids.vm, edit.spec)
        .put(kinds.vmOwn, ids.vm, own)
        .put(kinds.op, ids.op, op);
      const record = nodes.get(node);
      if (record !== undefined) change.promises(kinds.node.key(node), record);
      const second = copy === null ? undefined : nodes.get(copy);
      if (copy !== null && second !== undefined) change.promises(kinds.node.key(copy), second);
      if (replica !== null) {
        change.at(kinds.replica.key(ids.vm), null);
        putPair(change, replica);
      }
      for (const m of made) change.put(kinds.disk, m.disk.id, m.disk);
      for (const { snapshot: x } of made) {
        if (x === undefined) continue;
        const kept = await fresh(deps, kinds.vmSnapshot, x.id);
        if (kept?.value.state !== 'ready') throw goneSnapshot(x);
        change.refersTo(kinds.vmSnapshot.key(x.id), kept);
      }
      this.addKeys(change, edit, ids.vm);
      return { change, answer: () => ({ op, vmId: ids.vm, warnings }) };
    });
  }

  async patch(ask: Ask<'vmPatch'>): Promise<VmChanged> {
    const { deps } = this;
    const { view } = deps;
    const patch = ask.body;
    const id = await idOf(view, 'vm', ask.params.vm);
    const mark = requestMark(ask);
    const ids = this.ids(ask.who, `vmPatch ${id}`, ask.idempotencyKey);
    await this.know({
      disks: patch.addDisks ?? [],
      cdroms: patch.cdroms ?? [],
      nics: patch.addNics ?? [],
      after: patch.ha?.after ?? [],
    });
    await this.knowClass(patch.class);
    return commit<VmChanged>(deps, `VM "${ask.params.vm}"`, async () => {
      const before = ids.again ? await repeated(deps, ids.op, mark) : null;
      if (before !== null) return { change: null, answer: () => ({ op: before, vmId: id }) };
      const { spec, own, phase } = await this.read(id, ask.params.vm, false);
      checkIfMatch(ask.ifMatch, spec.value.generation, `VM "${spec.value.name}"`);
      this.allow('edit', phase, spec.value);
      if (diskFields.some((f) => patch[f] !== undefined)) noDiskMove(this.openOps(id), spec.value);
      const diskKept = view.vmDisks(id);
      const edit = editVm(
        spec.value,
        diskKept.map((k) => k.value),
        patch,
        phase,
        own.value.owner,
        await this.editContext(patch.addNics ?? []),
      );
      if (unique.name('vm', edit.spec.name) !== unique.name('vm', spec.value.name))
        await nameFree(deps, 'vm', edit.spec.name);
      await this.macsFree(patch.addNics ?? [], id);
      const grows =
        edit.spec.memoryMiB > spec.value.memoryMiB || edit.spec.cpus > spec.value.cpus
          ? (await this.reckonable()).get(own.value.owner)
          : undefined;
      this.checkBundle(spec.value, edit.spec);
      const who = `VM "${spec.value.name}"`;
      if (patch.growDisks !== undefined) checkDiskStands(who, own.value);
      if (patch.removeDisks !== undefined) checkNothingLeft(who, own.value, view.ledger.tables.node);
      this.checkOwnerHasRoom(own.value.owner, spec.value, edit, patch, diskKept);
      const warnings = this.admitLevel(spec.value, own.value, edit, patch, diskKept);
      const op = newOp(deps, {
        id: ids.op,
        kind: 'vm.update',
        subject: { kind: 'vm', id, name: edit.spec.name },
        node: null,
        who: ask.who,
        args: { request: mark, generation: edit.spec.generation, fields: Object.keys(patch) },
      });
      const change = new Change()
        .at(kinds.vmSpec.key(id), spec)
        .put(kinds.vmSpec, id, edit.spec)
        .at(kinds.op.key(ids.op), null)
        .put(kinds.op, ids.op, op);
      if (grows !== undefined) change.promises(kinds.node.key(own.value.owner), grows);
      // New disks on a local pool belong on the owner: it must still be the owner.
      if (edit.made.length > 0) change.at(kinds.vmOwn.key(id), own);
      const paired = edit.made.filter((m) => isReplicated(m.disk));
      if (paired.length > 0)
        await this.pairs.add(
          change,
          own,
          edit.spec,
          paired.map((m) => m.disk),
        );
      for (const d of edit.disks) {
        change.at(kinds.disk.key(d.id), diskKept.find((k) => k.value.id === d.id) ?? null);
        change.put(kinds.disk, d.id, d);
      }
      this.addKeys(change, edit, id);
      return { change, answer: () => ({ op, vmId: id, warnings }) };
    });
  }

  async act(ask: Ask<'vmAction'>): Promise<VmChanged> {
    const { deps } = this;
    const { action } = ask.params;
    const id = await idOf(deps.view, 'vm', ask.params.vm);
    const mark = requestMark(ask);
    const ids = this.ids(ask.who, `vmAction ${id} ${action}`, ask.idempotencyKey);
    const before = ids.again ? await repeated(deps, ids.op, mark) : null;
    if (before !== null) return { op: before, vmId: id };
    return commit<VmChanged>(deps, `VM "${ask.params.vm}"`, async () => {
      const { spec, own, phase } = await this.read(id, ask.params.vm, true);
      const kind = `vm.${action}` as const;
      // Two people who press the same button follow the same operation.
      const same = this.openOps(id).find((o) => o.kind === kind);
      if (same !== undefined) return { change: null, answer: () => ({ op: same, vmId: id }) };
      this.allow(action, phase, spec.value);
      const op = newOp(deps, {
        id: ids.op,
        kind,
        subject: { kind: 'vm', id, name: spec.value.name },
        node: null,
        who: ask.who,
        args: { request: mark },
      });
      const change = new Change()
        .at(kinds.vmSpec.key(id), spec)
        .at(kinds.op.key(ids.op), null)
        .put(kinds.op, ids.op, op);
      const warnings = action === 'start' ? this.admitStart(spec.value, own.value) : [];
      const next = withPower(spec.value, action);
      if (next !== null) change.put(kinds.vmSpec, id, next);
      return { change, answer: () => ({ op, vmId: id, warnings }) };
    });
  }

  async remove(ask: Ask<'vmDelete'>): Promise<Op> {
    const { deps } = this;
    const { force } = ask.query;
    const mark = requestMark(ask);
    const asked = ask.idempotencyKey;
    // The VM may be gone already when the request comes again: the op answers for it.
    const ids = this.ids(ask.who, `vmDelete ${ask.params.vm}`, asked);
    const before = ids.again ? await repeated(deps, ids.op, mark) : null;
    if (before !== null) return before;
    const id = await idOf(deps.view, 'vm', ask.params.vm);
    return commit(deps, `VM "${ask.params.vm}"`, async () => {
      const { spec, phase } = await this.read(id, ask.params.vm, true);
      const same = this.openOps(id).find((o) => o.kind === 'vm.delete');
      if (same !== undefined) return { change: null, answer: () => same };
      checkIfMatch(ask.ifMatch, spec.value.generation, `VM "${spec.value.name}"`);
      if (!force) this.allow('delete', phase, spec.value);
      const op = newOp(deps, {
        id: ids.op,
        kind: 'vm.delete',
        subject: { kind: 'vm', id, name: spec.value.name },
        node: null,
        who: ask.who,
        args: { request: mark, force },
      });
      const change = new Change()
        .at(kinds.vmSpec.key(id), spec)
        .at(kinds.op.key(ids.op), null)
        .put(kinds.op, ids.op, op);
      return { change, answer: () => op };
    });
  }

  /**
   * The VM as it is: spec and owner from the ledger, phase from the radio.
   *
   * @param settle - wait a little where an operation ended after the owner last spoke
   */
  private async read(
    id: string,
    ref: string,
    settle: boolean,
  ): Promise<{ spec: Kept<VmSpec>; own: Kept<VmOwn>; phase: VmPhase }> {
    const { view } = this.deps;
    const [spec, own] = await Promise.all([
      fresh(this.deps, kinds.vmSpec, id),
      fresh(this.deps, kinds.vmOwn, id),
    ]);
    if (spec === null) throw notFound('vm', ref);
    if (own === null) {
      throw new FlotillaError('unreadable-record', `VM "${spec.value.name}" has no owner record`, {
        hint: 'Its ledger records are broken; nothing is done with it until they are mended.',
      });
    }
    if (settle) await until(view, settleMs, null, () => this.settled(id));
    return { spec, own, phase: view.vm(id)?.phase ?? 'unknown' };
  }

  /**
   * What the owner says fits to how the last operation ended, or was said later. The ledger tells the end of an
   * operation a moment before the radio tells the phase; both times are the owner's clock.
   */
  private settled(id: string): boolean {
    const { view } = this.deps;
    const vm = view.vm(id);
    if (vm === null || vm.presence !== 'here') return true;
    const last = view
      .vmOps(id)
      .filter((o) => o.state === 'done')
      .reduce<Op | null>((a, b) => (a === null || b.updatedMs > a.updatedMs ? b : a), null);
    const phase = last === null ? null : endsIn(last.kind, vm.power);
    return last === null || phase === null || vm.phase === phase || (vm.observed?.atMs ?? 0) > last.updatedMs;
  }

  private openOps(id: string): Op[] {
    return this.deps.view.vmOps(id).filter((o) => o.state === 'queued' || o.state === 'running');
  }

  /** @throws FlotillaError `wrong-state` */
  private allow(action: VmAction, phase: VmPhase, spec: VmSpec): void {
    const allowed = vmActions[phase];
    if (allowed.includes(action)) return;
    const verb = action === 'edit' ? 'edited' : action === 'delete' ? 'deleted' : `asked to ${action}`;
    const now = phase === 'unknown' ? 'nobody knows what it does: its owner is silent' : `it is ${phase}`;
    const hints: string[] = [];
    if (action === 'delete' && phase !== 'deleting') hints.push('Stop it first, or delete with force.');
    else if (allowed.length === 0) hints.push('Wait until it is gone.');
    else hints.push(`Now it can: ${allowed.join(', ')}.`);
    throw new FlotillaError('wrong-state', `VM "${spec.name}" cannot be ${verb}: ${now}`, {
      hint: hints.join(' '),
      details: { phase, action, allowed },
    });
  }

  /** Says early and plainly that a MAC is taken; the transaction makes sure of it. */
  private async macsFree(nics: VmCreate['nics'], vmId: string): Promise<void> {
    for (const { mac } of nics) {
      if (mac === undefined) continue;
      const holder = await this.deps.ledger.get(unique.mac(mac));
      if (holder === null || holder.value === vmId) continue;
      const name = this.deps.view.ledger.tables.vmSpec.get(holder.value)?.value.name ?? holder.value;
      throw new FlotillaError('address-taken', `The MAC ${mac} belongs to VM "${name}"`, {
        hint: 'Choose another MAC, or leave it out to get a free one.',
      });
    }
  }

  private ids(who: string, route: string, key: string | null): { op: string; vm: string; again: boolean } {
    const { chance } = this.deps;
    return {
      op: idFromKey(chance, who, route, key),
      vm: idFromKey(chance, who, `${route} vm`, key),
      again: key !== null,
    };
  }

  /** Makes sure that everything the request names is known, reading the ledger once for what is new. */
  private async know(
    o: Pick<VmCreate, 'disks' | 'cdroms' | 'nics'> & { readonly after: readonly string[] },
  ): Promise<void> {
    const { view } = this.deps;
    for (const vm of o.after) await idOf(view, 'vm', vm);
    const images: string[] = [];
    for (const d of o.disks) {
      if (d.pool !== undefined) await idOf(view, 'pool', d.pool);
      if (d.image !== undefined) images.push(await idOf(view, 'image', d.image));
    }
    for (const c of o.cdroms) if (c.image !== null) images.push(await idOf(view, 'image', c.image));
    // The end of an import may have been heard of before its image was read.
    if (images.some((i) => view.ledger.tables.image.get(i)?.value.state !== 'ready'))
      await view.ledger.refresh('image');
    for (const n of o.nics) await idOf(view, 'network', n.network);
  }

  private async knowClass(ref: string | null | undefined): Promise<void> {
    if (ref !== undefined && ref !== null) await idOf(this.deps.view, 'class', ref);
  }

  private async editContext(nics: VmCreate['nics']): Promise<EditContext> {
    const { deps } = this;
    const { view } = deps;
    const specs = view.ledger.tables.vmSpec;
    const addresses = new Map<string, ReadonlySet<string>>();
    for (const n of nics) {
      const id = view.find('network', n.network);
      if (id === null || n.address === null || addresses.has(id)) continue;
      const prefix = unique.addressPrefix(id);
      const { entries } = await deps.ledger.list(prefix);
      addresses.set(id, new Set(entries.map((e) => e.key.slice(prefix.length))));
    }
    return {
      newId: () => deps.chance.uuid(),
      newMac: () => macFrom(deps.chance.hex(4)),
      pool: (ref) => poolOf(view, ref),
      image: (ref) => readyImage(view, ref),
      network: (ref) => {
        const id = view.find('network', ref);
        const network = id === null ? undefined : view.ledger.tables.network.get(id)?.value;
        if (network === undefined) throw notFound('network', ref);
        return network;
      },
      serviceClass: (ref) => {
        const id = view.find('class', ref);
        const cls = id === null ? undefined : view.ledger.tables.class.get(id)?.value;
        if (cls === undefined) throw notFound('class', ref);
        return cls;
      },
      addresses: (id) => addresses.get(id) ?? new Set(),
      vms: {
        find: (ref) => {
          const id = view.find('vm', ref);
          if (id === null) throw notFound('vm', ref);
          return id;
        },
        name: (id) => specs.get(id)?.value.name ?? id,
        after: (id) => specs.get(id)?.value.ha.after ?? [],
      },
    };
  }

  /**
   * Node records, once all that was promised of these nodes before is in the view: each promise writes the record of
   * its node, so what is older than the newest of them is known.
   */
  private async reckonable(): Promise<ReadonlyMap<string, Kept<NodeRecord>>> {
    const { ledger } = this.deps.view;
    const nodes = new Map(ledger.tables.node);
    const newest = [...nodes.values()].reduce((a, k) => (k.modRevision > a ? k.modRevision : a), 0n);
    if (ledger.asOf('vmSpec') < newest) await ledger.refresh('vmSpec');
    return nodes;
  }

  /** What placement must know of a VM with these new disks. */
  private request(
    spec: VmSpec,
    edit: Pick<VmEdit, 'made' | 'images' | 'networks'>,
    node: string | null,
  ): PlacementRequest {
    return placementRequest(spec, edit, node, this.lookup());
  }

  /**
   * Where the VMs of a vApp would go, all of them; nothing is written.
   *
   * @param networks - that are to be made, too
   * @param from - of a member whose disks begin as they were in a snapshot, which may not be taken yet
   * @throws FlotillaError as for a VM that is made
   */
  async placeMany(
    births: readonly VappMember[],
    networks: readonly Network[],
    vapp: Vapp,
    from: (m: VappMember) => { readonly snapshot: VmSnapshot; readonly linked: boolean } | null = () => null,
  ): Promise<Map<string, Placed>> {
    if (births.length === 0) return new Map();
    const { view } = this.deps;
    await this.reckonable();
    const vms: { edit: VmEdit; node: string | null }[] = [];
    const given = new Map<string, Set<string>>();
    for (const m of births) {
      const input = parse(vmCreateSchema, m.make, `Member "${m.name}"`);
      if (input.node !== undefined && view.find('node', input.node) === null)
        throw notFound('node', input.node);
      await nameFree(this.deps, 'vm', input.name);
      await this.macsFree(input.nics, m.vm);
      const begins = from(m);
      const ctx = await this.editContext(input.nics);
      const edit = createVm(
        m.vm,
        input,
        {
          ...ctx,
          network: (ref) => networks.find((n) => n.id === ref) ?? ctx.network(ref),
          addresses: (id) => new Set([...ctx.addresses(id), ...(given.get(id) ?? [])]),
        },
        begins === null ? undefined : fromSnapshot(begins.snapshot, begins.linked),
      );
      for (const n of edit.spec.nics)
        if (n.address !== null) given.set(n.network, (given.get(n.network) ?? new Set()).add(n.address));
      vms.push({ edit, node: begins?.snapshot.node ?? input.node ?? null });
    }
    const joining = births.flatMap((m, i): VmSpec[] => {
      const spec = vms[i]?.edit.spec;
      return spec === undefined ? [] : [{ ...spec, vapp: { id: vapp.id, member: m.name } }];
    });
    const { cluster } = outlookOf(view, { joining });
    // Its rules as they will be, the record has those of before.
    const there = [...view.ledger.tables.vmSpec.values()].map((k) => k.value);
    const rules = planRules({ rules: [], vapps: [vapp], vms: [...there, ...joining], nodes: [] });
    const counted = vms.map(({ edit, node }) => ({
      edit: { ...edit, spec: reservedSpec(edit.spec, vapp, view.ledger.tables.vmSpec) },
      node,
    }));
    return placeNew(counted, {
      nodes: view.clusterNodes(),
      cluster: { ...cluster, rules: [...(cluster.rules ?? []), ...rules] },
      admission: view.ledger.policy.plan.admission,
      at: this.lookup(),
    });
  }

  private lookup(): MakeLookup {
    const { view } = this.deps;
    return {
      sourceHere: (i) => i.node === null || view.presenceOf(i.node) === 'here',
      pool: (id) => {
        const pool = view.ledger.tables.pool.get(id)?.value;
        if (pool === undefined) throw notFound('pool', id);
        return pool;
      },
    };
  }

  /** @throws FlotillaError `no-node-fits`, `no-failover-room`, `no-space`, `not-found` */
  private placeVm(
    input: VmCreate,
    edit: VmEdit,
  ): { readonly node: string; readonly copy: string | null; readonly warnings: readonly string[] } {
    const { view } = this.deps;
    if (input.node !== undefined && view.find('node', input.node) === null)
      throw notFound('node', input.node);
    const placed = placeNew([{ edit, node: input.node ?? null }], {
      nodes: view.clusterNodes(),
      cluster: outlookOf(view, { joining: [edit.spec] }).cluster,
      admission: view.ledger.policy.plan.admission,
      at: this.lookup(),
    }).get(edit.spec.id);
    if (placed === undefined) throw new Error('a VM was not placed');
    return placed;
  }

  /**
   * Whether what is promised if a node fails is kept with this VM on; it is counted since it was made, but nodes
   * may have gone since, and its HA may be new.
   *
   * @param outlook - the cluster, where it is at hand
   * @returns promises that are not kept, in words
   * @throws FlotillaError `no-failover-room`, `no-node-fits`, `unsupported`, `rule-conflict`
   */
  admitStart(spec: VmSpec, own: VmOwn, outlook = outlookOf(this.deps.view)): string[] {
    const { view } = this.deps;
    const { admission, balance } = view.ledger.policy.plan;
    if (admission === 'off') return [];
    const { cluster } = outlook;
    const broken = brokenBy(cluster, spec.name);
    // Where balancing mends it by itself, a start that breaks a rule does so for minutes.
    const mended = balance === 'rules-only' || balance === 'automatic';
    if (broken.length > 0 && admission === 'enforce' && !mended)
      throw new FlotillaError('rule-conflict', `VM "${spec.name}" is not started: ${broken.join('; ')}`, {
        hint: 'Change the rule (flotilla rule list), have what breaks rules moved by itself (flotilla balance mode rules-only), or say that it may be broken: flotilla ha admission warn.',
      });
    if (protectionLevel(spec.ha) === 'lockstep') {
      const check = outlook.lockstep(spec, own);
      if (admission === 'enforce')
        return [...broken, ...needLockstep(`VM "${spec.name}" is not started`, check)];
      const without = check.to === null ? [`it runs without a twin: ${lockstepText(check)}`] : [];
      return [...broken, ...without, ...check.warnings];
    }
    const shortfalls = spec.ha.enabled ? protectionOf(cluster, spec.name) : [];
    if (shortfalls.length === 0) return broken;
    if (admission === 'warn') return [...broken, ...shortfalls.map((x) => `${x.text}. ${x.help}`)];
    throw noFailoverRoom(`VM "${spec.name}" is not started`, shortfalls, []);
  }

  /**
   * Whether it could be in lockstep, where an edit asks for that.
   *
   * @returns promises that are not kept so, in words
   * @throws FlotillaError `unsupported`, `no-node-fits`, `no-failover-room`
   */
  private admitLevel(
    before: VmSpec,
    own: VmOwn,
    edit: VmEdit,
    patch: VmPatch,
    disks: readonly Kept<Disk>[],
  ): string[] {
    if (patch.ha?.lockstep !== true) return [];
    const changed = new Set(edit.disks.map((d) => d.id));
    const kept = disks.map((k) => k.value).filter((d) => !changed.has(d.id));
    return needLockstep(
      `VM "${before.name}" cannot be in lockstep`,
      outlookOf(this.deps.view).lockstep(edit.spec, own, { disks: [...kept, ...edit.disks] }),
    );
  }

  private bundleOf(spec: VmSpec): Vapp | undefined {
    return spec.vapp === undefined ? undefined : this.deps.view.ledger.tables.vapp.get(spec.vapp.id)?.value;
  }

  /** Specs as they will be after an edit. */
  private madeWith(spec: VmSpec): Made {
    const { vmSpec } = this.deps.view.ledger.tables;
    return { get: (id) => (id === spec.id ? { value: spec } : vmSpec.get(id)) };
  }

  /** @throws FlotillaError `bad-input`: all of its vApp would have more memory than that is allowed */
  private checkBundle(before: VmSpec, next: VmSpec): void {
    const bundle = this.bundleOf(before);
    const limitMiB = bundle?.memoryAllocation?.limit ?? null;
    if (bundle === undefined || limitMiB === null || next.memoryMiB <= before.memoryMiB) return;
    const allMiB = bundleMemoryMiB(bundle, this.madeWith(next));
    if (allMiB <= limitMiB) return;
    throw new FlotillaError(
      'bad-input',
      `VM "${before.name}" cannot have ${next.memoryMiB} MiB: vApp "${bundle.name}" would have ${allMiB} MiB, and its limit is ${limitMiB} MiB`,
      { hint: 'Raise memoryAllocation.limit in its document, or give other members less.' },
    );
  }

  /** @throws FlotillaError `no-node-fits`, `no-space`: an edit asks for more than the owner has */
  private checkOwnerHasRoom(
    owner: string,
    before: VmSpec,
    edit: VmEdit,
    patch: VmPatch,
    disks: readonly Kept<{ readonly id: string; readonly pool: string; readonly sizeBytes: number }>[],
  ): void {
    const { view } = this.deps;
    const node = view.clusterNodes().find((n) => n.id === owner);
    // Of a silent owner nothing is known; it will say by itself what it cannot do.
    if (node === undefined || node.presence !== 'here') return;
    const grown = (patch.growDisks ?? []).length === 0 ? [] : edit.disks;
    const grownAsked = grown.flatMap((d) => {
      const pool = view.ledger.tables.pool.get(d.pool)?.value;
      const was = disks.find((k) => k.value.id === d.id)?.value.sizeBytes;
      if (pool === undefined || was === undefined || d.sizeBytes <= was || d.state === 'deleting') return [];
      return [{ name: d.name, pool, sizeBytes: d.sizeBytes, image: null }];
    });
    const bundle = this.bundleOf(before);
    const counted = reservedSpec(edit.spec, bundle, this.madeWith(edit.spec));
    const request = this.request(counted, edit, null);
    const reasons = refusals(
      { ...request, disks: [...request.disks, ...grownAsked] },
      {
        ...node,
        desired: 'active',
        committedCpus: node.committedCpus - before.cpus,
        committedMemoryMiB: node.committedMemoryMiB - reservedMiB(before, bundle, view.ledger.tables.vmSpec),
        vms: node.vms - 1,
      },
    ).filter((r) => {
      if (r.reason === 'no-memory') return edit.spec.memoryMiB > before.memoryMiB;
      if (r.reason === 'no-cpus') return edit.spec.cpus > before.cpus;
      return r.reason !== 'unwell' || edit.networks.length > 0;
    });
    if (reasons.length > 0)
      throw refusal(`VM "${before.name}" does not fit on its owner so`, [{ node: owner, reasons }]);
  }

  private addKeys(change: Change, edit: VmEdit, vmId: string): void {
    const t = this.deps.view.ledger.tables;
    // What is given back and taken again in one edit just stays ours.
    for (const key of edit.free) if (!edit.take.includes(key)) change.del(key);
    for (const key of edit.take) if (!edit.free.includes(key)) change.take(key, vmId);
    const refer = (kind: 'image' | 'network' | 'pool' | 'class', id: string): void => {
      const kept = t[kind].get(id);
      if (kept === undefined) throw notFound(kind, id);
      change.refersTo(kinds[kind].key(id), kept);
    };
    for (const i of edit.images) refer('image', i.id);
    for (const n of edit.networks) refer('network', n.id);
    for (const p of edit.pools) refer('pool', p.id);
    for (const c of edit.classes) refer('class', c.id);
    for (const id of edit.orderedAfter) change.at(kinds.vmSpec.key(id), t.vmSpec.get(id) ?? null);
  }
}

const goneSnapshot = (x: { readonly name: string }): FlotillaError =>
  new FlotillaError('not-found', `The snapshot "${x.name}" is gone`, { hint: 'Choose another.' });

const diskFields = ['addDisks', 'removeDisks', 'growDisks', 'attachDisks', 'detachDisks'] as const;

/** @throws FlotillaError `wrong-state` */
export function noDiskMove(ops: readonly Op[], spec: Pick<VmSpec, 'name'>): void {
  const op = ops.find((o) => o.kind === 'vm.move-disk' && !opFinished(o));
  if (op === undefined) return;
  throw new FlotillaError('wrong-state', `A disk of VM "${spec.name}" is being moved`, {
    hint: `Wait for it, or end it: flotilla op cancel ${op.id}.`,
  });
}

/** The phase in which an operation that was done leaves its VM; null: any. */
function endsIn(kind: Op['kind'], power: VmSpec['power']): VmPhase | null {
  switch (kind) {
    case 'vm.create':
      return power;
    case 'vm.start':
    case 'vm.resume':
      return 'running';
    case 'vm.stop':
    case 'vm.force-stop':
    case 'vm.revert':
    case 'vm.relocate':
      return 'stopped';
    case 'vm.pause':
      return 'paused';
    default:
      return null;
  }
}
