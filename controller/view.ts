import { isOthers } from '../core/domain/fencing.js';
import type { Clock, HeardNode, Log, Radio } from '../agent/env.js';
import type { Ledger, Write } from '../agent/ledger/ledger.js';
import type { Disk } from '../core/domain/disk.js';
import { FlotillaError } from '../core/domain/error.js';
import { presence, type NodePresence, type NodeState } from '../core/domain/node.js';
import { opFinished, type Op } from '../core/domain/op.js';
import { poolHasNode } from '../core/domain/pool.js';
import { poolUse } from '../core/decide/plan/fit.js';
import { clusterNode, promisedBy, type ClusterNode, type Promised } from '../core/decide/plan/gather.js';
import {
  objectKinds,
  type DiskView,
  type EventKind,
  type Freshness,
  type ImageView,
  type NetworkView,
  type NodeView,
  type OpView,
  type PoolView,
  type VappView,
  type VmRow,
  type VmView,
} from '../core/wire/rest.js';
import type { EventLog } from './event-log.js';
import { reservedSpec } from '../core/decide/bundle.js';
import { contentMark, LedgerTables, type Kept, type RecordOf, type TableName } from './tables.js';
import { vappView } from './vapp-view.js';
import { vmRow, vmView, type HeardVm } from './vm-view.js';

/** News is folded this long after the first of it, ms: together it costs one pass. */
const foldMs = 50;
/** Silence is judged at this pace, ms. */
const tickMs = 1_000;

/** A view of one object with its text, made once per change. */
export interface Cell<T> {
  readonly view: T;
  readonly json: string;
}

interface Said {
  readonly state: HeardVm['state'];
  readonly heardMs: number;
}

interface HeardFrom {
  presence: NodePresence;
  heardMs: number | null;
  stateHeardMs: number | null;
  state: HeardNode['state'];
  agentGone: boolean;
  vms: Map<string, Said>;
  ops: Map<string, Op>;
}

interface CellsOf {
  node: NodeView;
  vm: VmRow;
  image: ImageView;
  pool: PoolView;
  network: NetworkView;
  op: OpView;
  vapp: VappView;
}
export type CellKind = keyof CellsOf;
const cellKinds = objectKinds satisfies readonly CellKind[];

const byText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/**
 * Ledger and radio folded to one view. It holds nothing that is not in one of them: another controller, started
 * anywhere, comes to the same. Each object is rebuilt only when something it is made of changed, and its text is
 * kept, so that a list of thousands is put together by copying.
 */
export class View {
  readonly ledger: LedgerTables;
  readonly events: EventLog;
  private readonly radio: Radio;
  private readonly clock: Clock;
  private readonly heard = new Map<string, HeardFrom>();
  private readonly cells: { [K in CellKind]: Map<string, Cell<CellsOf[K]>> } = {
    node: new Map(),
    vm: new Map(),
    image: new Map(),
    pool: new Map(),
    network: new Map(),
    op: new Map(),
    vapp: new Map(),
  };
  private readonly dirty: Record<CellKind, Set<string>> = {
    node: new Set(),
    vm: new Set(),
    image: new Set(),
    pool: new Set(),
    network: new Set(),
    op: new Set(),
    vapp: new Set(),
  };
  private readonly order = new Map<CellKind, readonly string[]>();
  private readonly names = new Map<string, Map<string, string>>();
  private disksOf: Map<string, Set<string>> | null = null;
  private opsOf: Map<string, Set<string>> | null = null;
  private committed: Map<string, Promised> | null = null;
  private uses: { pool: Map<string, { disks: number; images: number }>; nics: Map<string, number> } | null =
    null;
  private radioDirty = true;
  private peers = '';
  private timer: NodeJS.Timeout | null = null;
  private folding: NodeJS.Timeout | null = null;
  private unlisten: (() => void) | null = null;
  private readonly wakes = new Set<() => void>();
  private readonly ticks: (() => void)[] = [];

  constructor(o: { ledger: Ledger; radio: Radio; clock: Clock; log: Log; events: EventLog }) {
    this.radio = o.radio;
    this.clock = o.clock;
    this.events = o.events;
    this.ledger = new LedgerTables({
      ledger: o.ledger,
      clock: o.clock,
      log: o.log,
      onChange: (table, id) => this.changed(table, id),
    });
  }

  start(): void {
    this.unlisten = this.radio.onChange(() => {
      this.radioDirty = true;
      this.foldSoon();
    });
    this.ledger.start();
    this.timer = setInterval(() => {
      this.radioDirty = true;
      this.fold();
      for (const each of this.ticks) each();
    }, tickMs);
  }

  stop(): void {
    this.unlisten?.();
    if (this.timer !== null) clearInterval(this.timer);
    if (this.folding !== null) clearTimeout(this.folding);
    this.ledger.stop();
    this.events.close();
    for (const wake of [...this.wakes]) wake();
  }

  /** Called after each fold that changed something. @returns a function that ends it */
  onFold(wake: () => void): () => void {
    this.wakes.add(wake);
    return () => this.wakes.delete(wake);
  }

  /** Called once a second while the view runs. */
  onTick(each: () => void): void {
    this.ticks.push(each);
  }

  /** Takes over a transaction of ours. */
  apply(revision: bigint, writes: readonly Write[]): void {
    this.ledger.apply(revision, writes);
  }

  /** @throws FlotillaError `ledger-unavailable` before the ledger was read for the first time */
  freshness(): Freshness {
    if (!this.ledger.ready) {
      throw new FlotillaError('ledger-unavailable', 'This controller has not read the ledger yet', {
        hint: 'Try again in a moment; if it stays so, look whether the voters of the ledger are up.',
        cause: this.ledger.lastError() ?? undefined,
      });
    }
    const { asOfMs, ageMs, ledger } = this.ledger.freshness();
    return { asOfMs, ageMs: Math.round(ageMs), ledger };
  }

  /** All cells of a kind in their order: by name, ops newest first. */
  list<K extends CellKind>(kind: K): readonly Cell<CellsOf[K]>[] {
    this.fold();
    const cells = this.cells[kind];
    let order = this.order.get(kind);
    if (order === undefined) {
      order = [...cells.keys()].sort((a, b) => this.compare(kind, a, b));
      this.order.set(kind, order);
    }
    return order.map((id) => cells.get(id) as Cell<CellsOf[K]>);
  }

  cell<K extends CellKind>(kind: K, id: string): Cell<CellsOf[K]> | undefined {
    this.fold();
    return this.cells[kind].get(id);
  }

  /** Everything of one VM; null: no such. */
  vm(id: string): VmView | null {
    this.fold();
    const spec = this.ledger.tables.vmSpec.get(id);
    return spec === undefined ? null : this.buildVm(id, spec);
  }

  disks(): DiskView[] {
    const { disk, vmSpec, pool } = this.ledger.tables;
    return [...disk.values()]
      .map(({ value: d }) => ({
        ...d,
        vmName: vmSpec.get(d.vm)?.value.name ?? null,
        poolName: pool.get(d.pool)?.value.name ?? null,
      }))
      .sort((a, b) => byText(a.vmName ?? '', b.vmName ?? '') || byText(a.name, b.name) || byText(a.id, b.id));
  }

  /** The disks of a VM, those being deleted too. */
  vmDisks(id: string): readonly Kept<Disk>[] {
    return this.of('disk', this.diskIndex(), id);
  }

  vmOps(id: string): readonly Op[] {
    return this.of('op', this.opIndex(), id)
      .map((k) => k.value)
      .sort((a, b) => a.createdMs - b.createdMs || byText(a.id, b.id));
  }

  /** Finds the id of what a person named, in what is known now. */
  find(
    kind:
      | 'vm'
      | 'pool'
      | 'image'
      | 'network'
      | 'token'
      | 'user'
      | 'node'
      | 'rule'
      | 'vapp'
      | 'class'
      | 'template',
    ref: string,
  ): string | null {
    const table = kind === 'vm' ? 'vmSpec' : kind;
    const records = this.ledger.tables[table] as ReadonlyMap<string, Kept<unknown>>;
    if (records.has(ref)) return ref;
    if (records.has(ref.toLowerCase())) return ref.toLowerCase();
    if (kind === 'node') return null;
    let names = this.names.get(table);
    if (names === undefined) {
      names = new Map();
      for (const [id, k] of records) names.set(nameKey((k.value as { name: string }).name), id);
      this.names.set(table, names);
    }
    return names.get(nameKey(ref)) ?? null;
  }

  /** The nodes with what is asked of them before a VM goes there. */
  clusterNodes(): ClusterNode[] {
    this.fold();
    const committed = this.commitments();
    return [...this.ledger.tables.node.values()].map(({ value: n }) =>
      clusterNode(n, this.heard.get(n.id), this.isLive(n.id), committed.get(n.id)),
    );
  }

  /** What the owner said of a VM last; null: nothing. */
  saidOf(vm: string, owner: string): HeardVm['state'] | null {
    return this.heard.get(owner)?.vms.get(vm)?.state ?? null;
  }

  /** Its lease in the ledger stands. */
  isLive(node: string): boolean {
    return this.ledger.tables.live.has(node);
  }

  /** What a node said of itself last; null: nothing yet. */
  stateOf(node: string): NodeState | null {
    return this.heard.get(node)?.state ?? null;
  }

  presenceOf(node: string): NodePresence {
    return this.heard.get(node)?.presence ?? 'never-heard';
  }

  refused(): Readonly<Record<string, number>> {
    return this.radio.refused();
  }

  /** Brings all cells up to date, now. */
  fold(): void {
    if (this.radioDirty) this.foldRadio();
    // What a vApp shows of its members is made of theirs.
    for (const id of this.dirty.vm) {
      const vapp = this.ledger.tables.vmSpec.get(id)?.value.vapp?.id;
      if (vapp !== undefined) this.dirty.vapp.add(vapp);
    }
    let any = false;
    for (const kind of cellKinds) any = this.rebuild(kind) || any;
    if (any) for (const wake of [...this.wakes]) wake();
  }

  private foldSoon(): void {
    this.folding ??= setTimeout(() => {
      this.folding = null;
      this.fold();
    }, foldMs);
  }

  private changed(table: TableName | 'meta' | 'policy', id: string): void {
    this.names.delete(table);
    switch (table) {
      case 'meta':
      case 'token':
      case 'user':
      case 'bmc':
      case 'replica':
      case 'seen':
      case 'fenced':
      case 'vappSecret':
      case 'balance':
      case 'power':
      case 'rule':
      case 'vmSnapshot':
      case 'template':
      case 'cert':
      case 'trust':
        break;
      case 'vapp':
        // What it reserves is promised by the nodes of its members.
        this.committed = null;
        this.soil('node');
        this.dirty.vapp.add(id);
        break;
      case 'class':
        this.soil('vm', 'vapp');
        break;
      case 'policy':
        this.soil('vm');
        break;
      case 'node':
      case 'bmcTest':
      case 'live':
        // Whose lease ends is who fails over.
        if (table === 'live') this.soilVmsOf(id);
        this.dirty.node.add(id);
        if (table === 'node') this.setPeers();
        break;
      case 'vmSpec':
      case 'vmOwn':
        this.dirty.vm.add(id);
        this.committed = null;
        this.uses = null;
        this.soil('node', 'network', 'vapp');
        break;
      case 'disk': {
        this.disksOf = null;
        this.uses = null;
        this.soil('pool');
        // A disk that is gone tells no more whose it was: its VM's cell does.
        const vm = this.ledger.tables.disk.get(id)?.value.vm;
        if (vm !== undefined) this.dirty.vm.add(vm);
        else this.soil('vm');
        break;
      }
      case 'pool':
        this.dirty.pool.add(id);
        this.soil('image');
        break;
      case 'image':
        this.dirty.image.add(id);
        this.uses = null;
        this.soil('pool');
        break;
      case 'network':
        this.dirty.network.add(id);
        break;
      case 'op': {
        this.opsOf = null;
        this.dirty.op.add(id);
        const subject =
          this.ledger.tables.op.get(id)?.value.subject.id ?? this.cells.op.get(id)?.view.subject.id;
        if (subject !== undefined) {
          this.dirty.vm.add(subject);
          this.dirty.vapp.add(subject);
        }
        break;
      }
    }
    this.foldSoon();
  }

  private soil(...kinds: CellKind[]): void {
    const tables = this.ledger.tables;
    for (const kind of kinds)
      for (const id of tables[kind === 'vm' ? 'vmSpec' : kind].keys()) this.dirty[kind].add(id);
  }

  private soilVmsOf(node: string): void {
    for (const [id, own] of this.ledger.tables.vmOwn) if (own.value.owner === node) this.dirty.vm.add(id);
  }

  private setPeers(): void {
    const peers = [...this.ledger.tables.node.values()].map(({ value: n }) => ({
      node: n.id,
      address: n.addresses[0] as string,
    }));
    const text = JSON.stringify(peers.sort((a, b) => byText(a.node, b.node)));
    if (text === this.peers) return;
    this.peers = text;
    this.radio.setPeers(peers);
  }

  private foldRadio(): void {
    this.radioDirty = false;
    const wall = this.clock.wallMs();
    for (const n of this.radio.heard()) {
      let h = this.heard.get(n.node);
      if (h === undefined) {
        h = {
          presence: 'never-heard',
          heardMs: null,
          stateHeardMs: null,
          state: null,
          agentGone: false,
          vms: new Map(),
          ops: new Map(),
        };
        this.heard.set(n.node, h);
      }
      this.foldNode(n, h, wall);
      this.foldVms(n, h, wall);
      this.foldOps(n, h);
    }
  }

  private foldNode(n: HeardNode, h: HeardFrom, wall: number): void {
    const now = presence(n.beatAgeMs);
    if (now !== h.presence) {
      h.presence = now;
      this.soil('pool');
      this.soilVmsOf(n.node);
      for (const id of h.vms.keys()) this.dirty.vm.add(id);
      this.dirty.node.add(n.node);
    }
    // To the second: a beat alone is no news.
    const heardMs = n.beatAgeMs === null ? null : Math.round((wall - n.beatAgeMs) / 1000) * 1000;
    if (n.state !== h.state || n.agentGone !== h.agentGone) {
      this.dirty.node.add(n.node);
      if (JSON.stringify(n.state?.pools) !== JSON.stringify(h.state?.pools)) this.soil('pool');
      h.stateHeardMs = n.stateAgeMs === null ? null : Math.round(wall - n.stateAgeMs);
    }
    h.heardMs = heardMs;
    h.state = n.state;
    h.agentGone = n.agentGone;
  }

  private foldVms(n: HeardNode, h: HeardFrom, wall: number): void {
    for (const [id, line] of n.vms) {
      if (h.vms.get(id)?.state === line.state) continue;
      h.vms.set(id, { state: line.state, heardMs: Math.round(wall - line.ageMs) });
      this.dirty.vm.add(id);
    }
    if (h.vms.size === n.vms.size) return;
    for (const id of h.vms.keys()) {
      if (n.vms.has(id)) continue;
      h.vms.delete(id);
      this.dirty.vm.add(id);
    }
  }

  private foldOps(n: HeardNode, h: HeardFrom): void {
    for (const [id, line] of n.ops ?? []) {
      if (h.ops.get(id) === line.state) continue;
      h.ops.set(id, line.state);
      this.dirty.op.add(id);
    }
    if (h.ops.size === (n.ops?.size ?? 0)) return;
    for (const id of h.ops.keys()) if (n.ops?.has(id) !== true) h.ops.delete(id);
  }

  private rebuild(kind: CellKind): boolean {
    const dirty = this.dirty[kind];
    if (dirty.size === 0) return false;
    let any = false;
    const cells = this.cells[kind] as Map<string, Cell<unknown>>;
    for (const id of dirty) {
      const view = this.build(kind, id);
      const had = cells.get(id);
      if (view === null) {
        if (had === undefined) continue;
        cells.delete(id);
        this.order.delete(kind);
        this.events.push(`${kind}-gone`, JSON.stringify({ id }));
        any = true;
        continue;
      }
      const json = JSON.stringify(view);
      if (had?.json === json) continue;
      if (had === undefined || this.sortKey(kind, had.view) !== this.sortKey(kind, view))
        this.order.delete(kind);
      cells.set(id, { view, json });
      this.events.push(kind satisfies EventKind, json);
      any = true;
    }
    dirty.clear();
    return any;
  }

  private sortKey(kind: CellKind, view: unknown): string {
    if (kind === 'node') return (view as NodeView).id;
    if (kind === 'op') return String((view as OpView).createdMs);
    return nameKey((view as { name: string }).name);
  }

  private compare(kind: CellKind, a: string, b: string): number {
    const va = this.cells[kind].get(a)?.view;
    const vb = this.cells[kind].get(b)?.view;
    if (kind === 'op') return (vb as OpView).createdMs - (va as OpView).createdMs || byText(a, b);
    return byText(this.sortKey(kind, va), this.sortKey(kind, vb)) || byText(a, b);
  }

  private build(kind: CellKind, id: string): unknown {
    const t = this.ledger.tables;
    const record = t[kind === 'vm' ? 'vmSpec' : kind].get(id);
    if (record === undefined) return null;
    switch (kind) {
      case 'node':
        return this.buildNode(id, record as Kept<RecordOf<'node'>>);
      case 'vm':
        return vmRow(this.buildVm(id, record as Kept<RecordOf<'vmSpec'>>));
      case 'image': {
        const image = (record as Kept<RecordOf<'image'>>).value;
        const poolName = t.pool.get(image.pool)?.value.name ?? null;
        return { ...image, poolName, revision: contentMark(record) } satisfies ImageView;
      }
      case 'pool':
        return this.buildPool(record as Kept<RecordOf<'pool'>>);
      case 'network': {
        const network = (record as Kept<RecordOf<'network'>>).value;
        const nics = this.useCounts().nics.get(id) ?? 0;
        return { ...network, nics, revision: contentMark(record) } satisfies NetworkView;
      }
      case 'op':
        return this.buildOp((record as Kept<Op>).value);
      case 'vapp':
        return this.buildVapp((record as Kept<RecordOf<'vapp'>>).value);
    }
  }

  private buildVm(id: string, spec: Kept<RecordOf<'vmSpec'>>): VmView {
    const own = this.ledger.tables.vmOwn.get(id)?.value ?? null;
    const heard: HeardVm[] = [];
    for (const [node, h] of this.heard) {
      const said = h.vms.get(id);
      if (said !== undefined) heard.push({ node, presence: h.presence, ...said });
    }
    return vmView({
      spec: spec.value,
      own,
      // What is still being filled to take another one's place is no disk of the VM yet.
      disks: this.vmDisks(id).flatMap((k) => (k.value.instead === undefined ? [k.value] : [])),
      ops: this.vmOps(id),
      heard,
      presence: own === null ? 'never-heard' : this.presenceOf(own.owner),
      ownerLive: own !== null && this.ledger.tables.live.has(own.owner),
      policy: this.ledger.policy,
      serviceClass:
        spec.value.class === undefined
          ? null
          : (this.ledger.tables.class.get(spec.value.class.id)?.value ?? null),
      afterNames: spec.value.ha.after.flatMap((a) => this.ledger.tables.vmSpec.get(a)?.value.name ?? []),
    });
  }

  private buildVapp(v: RecordOf<'vapp'>): VappView {
    const { network } = this.ledger.tables;
    const ops = this.of('op', this.opIndex(), v.id)
      .map((k) => k.value)
      .filter((o) => !opFinished(o))
      .map((o) => o.id);
    return vappView({
      vapp: v,
      ops,
      vm: (id) => this.cells.vm.get(id)?.view ?? null,
      network: (id) => network.get(id)?.value,
      className: v.class === null ? null : (this.ledger.tables.class.get(v.class)?.value.name ?? null),
      deleting: ops.some((id) => this.ledger.tables.op.get(id)?.value.kind === 'vapp.delete'),
    });
  }

  private buildNode(id: string, record: Kept<RecordOf<'node'>>): NodeView {
    const h = this.heard.get(id);
    const c = this.commitments().get(id);
    const live = this.ledger.tables.live.has(id);
    const problems: string[] = [];
    const now = h?.presence ?? 'never-heard';
    // What was powered off on purpose is neither heard nor alive, and well so.
    const asleep = record.value.asleep !== undefined && !live;
    if (now !== 'here' && !asleep)
      problems.push(now === 'never-heard' ? 'was never heard by this controller' : `is ${now}`);
    if (h?.agentGone === true && !asleep) problems.push('its agent ended without goodbye');
    if (!live && !asleep) problems.push('does not hold its lease in the ledger: it may start nothing');
    const bmc = this.ledger.tables.bmcTest.get(id)?.value;
    if (isOthers(bmc)) problems.push(`its BMC is another machine's: ${bmc?.result?.text ?? ''}`);
    for (const x of h?.state?.health ?? []) if (!x.ok && !asleep) problems.push(`${x.part}: ${x.text}`);
    return {
      id,
      record: record.value,
      live,
      presence: now,
      heardMs: h?.heardMs ?? null,
      agentGone: h?.agentGone ?? false,
      state: h?.state ?? null,
      vms: c?.vms ?? 0,
      committedCpus: c?.cpus ?? 0,
      committedMemoryMiB: c?.memoryMiB ?? 0,
      revision: contentMark(record),
      problems,
    };
  }

  private buildPool(record: Kept<RecordOf<'pool'>>): PoolView {
    const pool = record.value;
    const use: PoolView['use'] = [];
    for (const node of [...this.ledger.tables.node.keys()].sort(byText)) {
      if (!poolHasNode(pool, node)) continue;
      const h = this.heard.get(node);
      const u = poolUse(pool, h?.state?.pools ?? []);
      if (u !== undefined) use.push({ ...u, node, heardMs: h?.stateHeardMs ?? null });
    }
    const counts = this.useCounts().pool.get(pool.id);
    return {
      ...pool,
      use,
      disks: counts?.disks ?? 0,
      images: counts?.images ?? 0,
      revision: contentMark(record),
    };
  }

  /** The ledger rules; while an op is open, the radio knows better how far it is. */
  private buildOp(op: Op): OpView {
    if (op.state !== 'queued' && op.state !== 'running') return op;
    for (const h of this.heard.values()) {
      const said = h.ops.get(op.id);
      if (said?.state === 'running' && said.updatedMs >= op.updatedMs)
        return { ...op, state: 'running', step: said.step, progress: said.progress };
    }
    return op;
  }

  private commitments(): Map<string, Promised> {
    const { vmOwn, vmSpec, vapp } = this.ledger.tables;
    this.committed ??= promisedBy(
      [...vmOwn].map(([id, own]) => {
        const spec = vmSpec.get(id)?.value;
        const of = spec?.vapp === undefined ? undefined : vapp.get(spec.vapp.id)?.value;
        return { own: own.value, spec: spec === undefined ? spec : reservedSpec(spec, of, vmSpec) };
      }),
    );
    return this.committed;
  }

  private useCounts(): NonNullable<View['uses']> {
    if (this.uses !== null) return this.uses;
    const t = this.ledger.tables;
    const pool = new Map<string, { disks: number; images: number }>();
    const nics = new Map<string, number>();
    const count = (id: string, what: 'disks' | 'images'): void => {
      const c = pool.get(id) ?? { disks: 0, images: 0 };
      c[what] += 1;
      pool.set(id, c);
    };
    for (const { value } of t.disk.values()) count(value.pool, 'disks');
    for (const { value } of t.image.values()) count(value.pool, 'images');
    for (const { value } of t.vmSpec.values())
      for (const n of value.nics) nics.set(n.network, (nics.get(n.network) ?? 0) + 1);
    this.uses = { pool, nics };
    return this.uses;
  }

  private of<K extends 'disk' | 'op'>(
    table: K,
    index: ReadonlyMap<string, ReadonlySet<string>>,
    id: string,
  ): Kept<RecordOf<K>>[] {
    const records = this.ledger.tables[table] as ReadonlyMap<string, Kept<RecordOf<K>>>;
    const out: Kept<RecordOf<K>>[] = [];
    for (const x of index.get(id) ?? []) {
      const k = records.get(x);
      if (k !== undefined) out.push(k);
    }
    return out;
  }

  private diskIndex(): ReadonlyMap<string, ReadonlySet<string>> {
    this.disksOf ??= indexBy(this.ledger.tables.disk, (d) => d.vm);
    return this.disksOf;
  }

  private opIndex(): ReadonlyMap<string, ReadonlySet<string>> {
    this.opsOf ??= indexBy(this.ledger.tables.op, (o) => o.subject.id);
    return this.opsOf;
  }
}

/** Names compare as the ledger's unique keys do. */
const nameKey = (name: string): string => name.normalize('NFC').toLocaleLowerCase('en');

function indexBy<T>(records: ReadonlyMap<string, Kept<T>>, of: (v: T) => string): Map<string, Set<string>> {
  const out = new Map<string, Set<string>>();
  for (const [id, k] of records) {
    const key = of(k.value);
    const set = out.get(key);
    if (set === undefined) out.set(key, new Set([id]));
    else set.add(id);
  }
  return out;
}
