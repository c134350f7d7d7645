import { isReplicated, type Disk } from '../domain/disk.js';
import { FlotillaError } from '../domain/error.js';
import { intToIpv4, ipv4InCidr, lastHost, parseCidr } from '../domain/ipv4.js';
import type { Network } from '../domain/network.js';
import { formatSize, parseSize } from '../domain/units.js';
import {
  vappMembersMax,
  vappNetworksMax,
  vappSchema,
  vappStartSchema,
  vappStopSchema,
  type Vapp,
  type VappGroup,
  type VappMember,
  type VappNetwork,
  type VappProperty,
} from '../domain/vapp.js';
import type { ClassSetting } from '../domain/service-class.js';
import type { VmSpec } from '../domain/vm.js';
import { vmCreateSchema, type VmCreate, type VmCreateInput, type VmPatch } from '../wire/rest.js';
import type { VappChange, VappDoc, VappMemberDoc, VappVm } from '../wire/rest-vapp.js';
import { bundleMemoryMiB } from './bundle.js';
import { cpuSharesOf, settingsAsked } from './service-class.js';
import { referencesIn, refersTo } from './vapp-text.js';
import { typedValue, valueFault } from './vapp-value.js';

type Path = (string | number)[];
type Value = string | number | boolean;

/** What a document is held against. */
export interface VappContext {
  newId(): string;
  /** Null: there is none of that name or id. */
  find(kind: 'pool' | 'image' | 'network' | 'class', ref: string): string | null;
  /** The pool of a disk that names none. @throws FlotillaError `bad-input` */
  defaultPool(): string;
  network(id: string): Network | undefined;
  /** Names of VMs that have a NIC there. */
  usersOf(network: string): readonly string[];
  spec(vm: string): VmSpec | undefined;
  disks(vm: string): readonly Disk[];
  /** A number that no isolated network has; each call gives another. */
  freeVni(): number;
  /** A network or VM of that name that is not this vApp's own. */
  taken(kind: 'network' | 'vm', name: string): boolean;
}

export interface VappPlan {
  readonly vapp: Vapp;
  /** Null: as they are. */
  readonly secrets: Readonly<Record<string, Value>> | null;
  /** Isolated networks to be made. */
  readonly networks: readonly Network[];
  /** Isolated networks that nothing is on any more, by id. */
  readonly networksGone: readonly string[];
  readonly changes: readonly VappChange[];
  /** Edits of VMs there are. */
  readonly patches: readonly { readonly member: string; readonly vm: string; readonly patch: VmPatch }[];
  /** Members to be made or taken out: work for the agents. */
  readonly births: readonly VappMember[];
  readonly leavers: readonly VappMember[];
}

/**
 * What a document makes of what there is: nothing is done. Of VMs there are, only what the document says is looked at; what
 * it does not say is left as it is.
 *
 * @param before - null: it is new
 * @param secrets - those there are
 * @throws FlotillaError `bad-input`, with the place of each fault in the document in its details
 */
export function planVapp(
  doc: VappDoc,
  values: Readonly<Record<string, Value>>,
  before: Vapp | null,
  secrets: Readonly<Record<string, Value>>,
  ctx: VappContext,
): VappPlan {
  return new Planner(doc, values, before, secrets, ctx).plan();
}

class Planner {
  private readonly faults: { path: string; message: string }[] = [];
  private readonly changes: VappChange[] = [];
  private readonly made: Network[] = [];
  /** Networks of its own that go. */
  private readonly gone: string[] = [];

  private readonly doc: VappDoc;
  private readonly values: Readonly<Record<string, Value>>;
  private readonly before: Vapp | null;
  private readonly oldSecrets: Readonly<Record<string, Value>>;
  private readonly ctx: VappContext;

  constructor(
    doc: VappDoc,
    values: Readonly<Record<string, Value>>,
    before: Vapp | null,
    oldSecrets: Readonly<Record<string, Value>>,
    ctx: VappContext,
  ) {
    this.doc = doc;
    this.values = values;
    this.before = before;
    this.oldSecrets = oldSecrets;
    this.ctx = ctx;
  }

  plan(): VappPlan {
    const { doc, before, ctx } = this;
    const id = before?.id ?? ctx.newId();
    const networks = this.networks(id);
    const { properties, secrets } = this.properties();
    const members: VappMember[] = [];
    const groups: VappGroup[] = [];
    const docs = new Map<string, { doc: VappVm; path: Path }>();
    this.walk(doc.members, null, ['members'], members, groups, docs);
    if (members.length === 0) this.fault(['members'], 'a vApp has at least one VM');
    if (members.length > vappMembersMax) this.fault(['members'], `at most ${vappMembersMax} VMs`);
    for (const [i, r] of (doc.rules ?? []).entries())
      for (const m of r.members)
        if (!docs.has(m)) this.fault(['rules', i, 'members'], `there is no member "${m}"`);
    const vapp: Vapp = {
      id,
      name: doc.name,
      generation: before === null ? 1 : before.generation + 1,
      note: doc.note ?? before?.note ?? '',
      tags: doc.tags ?? before?.tags ?? [],
      owner: doc.owner ?? before?.owner ?? '',
      class: doc.class === undefined ? (before?.class ?? null) : this.classOf(doc.class, ['class']),
      members,
      groups,
      networks,
      properties,
      rules: (doc.rules ?? []).map((r) => ({ ...r })),
      failover: doc.failover ?? before?.failover ?? 'members',
      eulas: doc.eulas ?? before?.eulas ?? [],
      cpuAllocation: allocation(doc.cpuAllocation) ?? before?.cpuAllocation ?? null,
      memoryAllocation: allocation(doc.memoryAllocation) ?? before?.memoryAllocation ?? null,
      ovf: doc.ovf ?? before?.ovf ?? null,
    };
    const patches: VappPlan['patches'][number][] = [];
    const births: VappMember[] = [];
    const all = members.map((m): VappMember => {
      const said = docs.get(m.name);
      if (said === undefined) return m;
      const body = this.body(m.name, said.doc, said.path, vapp);
      const spec = before === null ? undefined : ctx.spec(m.vm);
      if (spec === undefined) {
        this.change('make', said.path, `VM "${body.name}" is made`);
        const birth = { ...m, make: body as Record<string, unknown> };
        births.push(birth);
        return birth;
      }
      const patch = this.patch(spec, said.doc, body, said.path);
      if (patch !== null) patches.push({ member: m.name, vm: m.vm, patch });
      return { ...m, make: null };
    });
    const leavers = (before?.members ?? [])
      .filter((m) => !members.some((x) => x.name === m.name))
      .map((m) => ({ ...m, group: groups.some((g) => g.name === m.group) ? m.group : null, leaving: true }));
    for (const m of leavers)
      if (ctx.spec(m.vm) !== undefined)
        this.change(
          'remove',
          ['members'],
          `VM "${ctx.spec(m.vm)?.name ?? m.name}" is deleted with its disks`,
        );
    const next = { ...vapp, members: [...all, ...leavers] };
    this.allocations(next, patches);
    this.whole(next);
    if (this.faults.length > 0) throw this.refusal();
    const same = JSON.stringify(secrets) === JSON.stringify(this.oldSecrets);
    return {
      vapp: next,
      secrets: same && before !== null ? null : secrets,
      networks: this.made,
      networksGone: this.gone,
      changes: this.changes,
      patches,
      births,
      leavers,
    };
  }

  /** What is reserved and allowed for the bundle fits together, and its members keep to it. */
  private allocations(next: Vapp, patches: VappPlan['patches']): void {
    for (const key of ['cpuAllocation', 'memoryAllocation'] as const) {
      const { reservation, limit } = next[key] ?? { reservation: null, limit: null };
      if (reservation !== null && limit !== null && reservation > limit)
        this.fault([key, 'reservation'], `is more than the limit of ${limit}`);
    }
    const limitMiB = next.memoryAllocation?.limit ?? null;
    if (limitMiB === null) return;
    const will = new Map(patches.map((p) => [p.vm, p.patch.memoryMiB]));
    const allMiB = bundleMemoryMiB(next, {
      get: (id) => {
        const spec = this.before === null ? undefined : this.ctx.spec(id);
        return spec && { value: { ...spec, memoryMiB: will.get(id) ?? spec.memoryMiB } };
      },
    });
    if (allMiB > limitMiB)
      this.fault(['memoryAllocation', 'limit'], `its members have ${allMiB} MiB, more than ${limitMiB}`);
  }

  private refusal(): FlotillaError {
    const shown = this.faults.slice(0, 16);
    const text = shown.slice(0, 5).map((f) => (f.path === '' ? f.message : `${f.path}: ${f.message}`));
    return new FlotillaError('bad-input', `vApp "${this.doc.name}": ${text.join('; ')}`, {
      hint: 'Correct what is named and apply it again; nothing was changed.',
      details: shown,
    });
  }

  private fault(path: Path, message: string): void {
    this.faults.push({ path: path.join('.'), message });
  }

  private change(what: VappChange['do'], path: Path, text: string): void {
    this.changes.push({ do: what, path, text });
  }

  private walk(
    docs: Readonly<Record<string, VappMemberDoc>>,
    group: string | null,
    path: Path,
    members: VappMember[],
    groups: VappGroup[],
    out: Map<string, { doc: VappVm; path: Path }>,
    depth = 0,
  ): void {
    for (const [name, m] of Object.entries(docs)) {
      const at = [...path, name];
      const start = vappStartSchema.parse(m.start ?? {});
      const stop = vappStopSchema.parse(m.stop ?? {});
      if (members.some((x) => x.name === name) || groups.some((x) => x.name === name)) {
        this.fault(at, `there are two members "${name}": names are given once in a vApp`);
        continue;
      }
      if (start.wait === 'tcp' && start.port === undefined)
        this.fault([...at, 'start'], 'the wait for tcp needs a port');
      if (m.vm !== undefined) {
        const waits = start.wait === 'tcp' || start.wait === 'http';
        if (waits && !(m.vm.nics ?? []).some((n) => n.address !== null))
          this.fault([...at, 'start', 'wait'], 'it has no NIC with an address to ask at');
        const was = this.before?.members.find((x) => x.name === name);
        members.push({
          name,
          group,
          vm: was?.vm ?? this.ctx.newId(),
          start,
          stop,
          make: null,
          leaving: false,
        });
        out.set(name, { doc: m.vm, path: [...at, 'vm'] });
      } else if (m.vapp !== undefined) {
        if (depth >= 8) this.fault(at, 'vApps are nested at most 8 deep');
        groups.push({ name, group, note: m.vapp.note ?? '', start, stop });
        this.walk(m.vapp.members, name, [...at, 'vapp', 'members'], members, groups, out, depth + 1);
      }
    }
  }

  private networks(vapp: string): VappNetwork[] {
    const { doc, before, ctx } = this;
    const docs = Object.entries(doc.networks ?? {});
    for (const n of before?.networks ?? []) if (!docs.some(([name]) => name === n.name)) this.takeOut(n);
    if (docs.length > vappNetworksMax) this.fault(['networks'], `at most ${vappNetworksMax}`);
    return docs.map(([name, n]): VappNetwork => {
      const path = ['networks', name];
      const was = before?.networks.find((x) => x.name === name);
      if ('network' in n) {
        const found = ctx.find('network', n.network);
        if (found === null) this.fault([...path, 'network'], `there is no network "${n.network}"`);
        if (was !== undefined && was.network !== found)
          this.fault(path, 'a network of a vApp cannot become another one: give the new one another name');
        return { name, network: found ?? vapp, own: false };
      }
      const range = n.range ?? rangeOf(n.subnet);
      if (!range.every((a) => ipv4InCidr(a, n.subnet)))
        this.fault([...path, 'range'], 'is outside the subnet');
      if (was !== undefined) {
        const now = ctx.network(was.network);
        if (!was.own || (now !== undefined && now.subnet !== n.subnet))
          this.fault(path, 'a network of a vApp cannot become another one: give the new one another name');
        return was;
      }
      const full = `${doc.name}-${name}`.slice(0, 63);
      if (ctx.taken('network', full)) this.fault(path, `there is a network "${full}" already`);
      const vni = ctx.freeVni();
      const network: Network = {
        id: ctx.newId(),
        name: full,
        bridge: `fvb${vni.toString(16)}`,
        uplink: null,
        subnet: n.subnet,
        gateway: null,
        dns: [],
        range,
        vni,
        vapp,
      };
      this.made.push(network);
      this.change('make', path, `isolated network "${full}", ${n.subnet}`);
      return { name, network: network.id, own: true };
    });
  }

  /** A network that nothing is on any more; one of its own is deleted. */
  private takeOut(n: VappNetwork): void {
    const { before, ctx } = this;
    const users = n.own
      ? ctx.usersOf(n.network)
      : (before?.members ?? []).flatMap((m) => {
          const spec = ctx.spec(m.vm);
          return spec?.nics.some((x) => x.network === n.network) === true ? [spec.name] : [];
        });
    if (users.length > 0) {
      const names = users.slice(0, 3).map((x) => `"${x}"`);
      this.fault(
        ['networks'],
        `network "${n.name}" is in use by ${names.join(', ')}: apply the document without those NICs first`,
      );
      return;
    }
    this.change(
      'remove',
      ['networks'],
      n.own
        ? `isolated network "${ctx.network(n.network)?.name ?? n.name}" is deleted`
        : `network "${n.name}"`,
    );
    if (n.own) this.gone.push(n.network);
  }

  private properties(): { properties: VappProperty[]; secrets: Record<string, Value> } {
    const { doc, before, values } = this;
    const secrets: Record<string, Value> = {};
    for (const name of Object.keys(values))
      if (doc.properties?.[name] === undefined)
        this.fault(['properties'], `there is no property "${name}" to set`);
    const properties = Object.entries(doc.properties ?? {}).map(([name, p]): VappProperty => {
      const path = ['properties', name];
      const was = before?.properties.find((x) => x.name === name);
      const given = values[name] ?? p.value;
      if (values[name] !== undefined && !p.userConfigurable)
        this.fault(path, 'is not for whoever deploys it to set');
      const fit = (v: Value, at: Path): Value => {
        const fault = valueFault(v, p);
        if (fault !== null) this.fault(at, fault);
        return typedValue(v, p.type) ?? v;
      };
      const { value: _, default: byDefault, ...rest } = p;
      const usual = byDefault === undefined ? null : fit(byDefault, [...path, 'default']);
      const value = given === undefined ? null : fit(given, [...path, 'value']);
      const base = { ...rest, name };
      if (!p.secret) return { ...base, default: usual, value: value ?? was?.value ?? null };
      const secret = value ?? this.oldSecrets[name] ?? usual;
      if (secret !== null) secrets[name] = secret;
      return { ...base, default: null, value: null };
    });
    return { properties, secrets };
  }

  /** A VM as the agents make it: all it refers to by id. */
  private body(member: string, d: VappVm, path: Path, vapp: Vapp): VmCreate {
    const { ctx } = this;
    const { memory, disks, cdroms, nics, name: given, ...rest } = d;
    const name = given ?? `${vapp.name}-${member}`.slice(0, 63);
    const cls = d.class === undefined ? vapp.class : this.classOf(d.class, [...path, 'class']);
    const ref = (kind: 'pool' | 'image', text: string, at: Path): string => {
      const found = ctx.find(kind, text);
      if (found === null) this.fault(at, `there is no ${kind} "${text}"`);
      return found ?? text;
    };
    const input: VmCreateInput = {
      ...rest,
      name,
      ...(cls === null ? { class: undefined } : { class: cls }),
      memoryMiB: this.size(memory, [...path, 'memory'], true) ?? d.memoryMiB,
      disks: (disks ?? []).map(({ size, ...k }, i) => {
        const at = [...path, 'disks', i];
        return {
          ...k,
          sizeBytes: this.size(size, [...at, 'size'], false) ?? k.sizeBytes,
          pool: k.pool === undefined ? this.poolByDefault(at) : ref('pool', k.pool, [...at, 'pool']),
          ...(k.image === undefined ? {} : { image: ref('image', k.image, [...at, 'image']) }),
        };
      }),
      cdroms: (cdroms ?? []).map((c, i) =>
        c.image === null ? c : { image: ref('image', c.image, [...path, 'cdroms', i, 'image']) },
      ),
      nics: (nics ?? []).map((n, i) => {
        const network = vapp.networks.find((x) => x.name === n.network)?.network;
        if (network === undefined)
          this.fault([...path, 'nics', i, 'network'], `the vApp has no network "${n.network}"`);
        return { ...n, network: network ?? n.network };
      }),
    };
    const text = input.cloudInit?.userData ?? '';
    for (const r of referencesIn(text)) {
      const at = [...path, 'cloudInit', 'userData'];
      const p = vapp.properties.find((x) => x.name === r);
      if (!refersTo(vapp, r)) this.fault(at, `@{${r}} is no property, and no member's address or name`);
      else if (p !== undefined && !this.hasValue(p))
        this.fault(at, `the property "${r}" has no value: set it`);
    }
    const parsed = vmCreateSchema.safeParse(dropUndefined(input));
    if (parsed.success) return parsed.data;
    for (const i of parsed.error.issues) this.fault([...path, ...i.path.map(String)], i.message);
    return input as VmCreate;
  }

  private hasValue(p: VappProperty): boolean {
    if (!p.secret) return p.value !== null || p.default !== null;
    const doc = this.doc.properties?.[p.name];
    return [this.values[p.name], doc?.value, doc?.default, this.oldSecrets[p.name]].some(
      (x) => x !== undefined,
    );
  }

  private classOf(ref: string | null, at: Path): string | null {
    if (ref === null) return null;
    const found = this.ctx.find('class', ref);
    if (found === null) this.fault(at, `there is no class "${ref}"`);
    return found;
  }

  private poolByDefault(at: Path): string {
    try {
      return this.ctx.defaultPool();
    } catch (e) {
      this.fault(at, e instanceof Error ? e.message : 'which pool is not said');
      return '';
    }
  }

  private size(said: string | number | undefined, path: Path, memory: boolean): number | undefined {
    if (said === undefined) return undefined;
    if (typeof said === 'number' || /^\d+$/.test(said)) return Number(said);
    try {
      const bytes = parseSize(said);
      return memory ? bytes / 2 ** 20 : bytes;
    } catch {
      this.fault(path, 'is no size: write e.g. 512M or 10G');
      return undefined;
    }
  }

  /** What of a VM is otherwise than the document says. Null: nothing. */
  private patch(spec: VmSpec, d: VappVm, body: VmCreate, path: Path): VmPatch | null {
    const out: Record<string, unknown> = {};
    const put = (field: string, was: unknown, will: unknown, text?: string): void => {
      if (JSON.stringify(was) === JSON.stringify(will)) return;
      out[field] = will;
      const words = text ?? `${String(was)} → ${String(will)}`;
      this.change('change', [...path, field], `VM "${spec.name}": ${field} ${words}`);
    };
    if (d.name !== undefined) put('name', spec.name, body.name);
    if (d.note !== undefined) put('note', spec.note, body.note, 'another text');
    if (d.tags !== undefined) put('tags', spec.tags, body.tags);
    if (d.cpus !== undefined) put('cpus', spec.cpus, body.cpus);
    if (d.memory !== undefined || d.memoryMiB !== undefined) put('memoryMiB', spec.memoryMiB, body.memoryMiB);
    if (d.firmware !== undefined) put('firmware', spec.firmware, body.firmware);
    if (d.boot !== undefined) put('boot', spec.boot, body.boot);
    if (d.stopTimeoutS !== undefined) put('stopTimeoutS', spec.stopTimeoutS, body.stopTimeoutS);
    if (d.onCrash !== undefined) put('onCrash', spec.onCrash, body.onCrash);
    if (d.cloudInit !== undefined)
      put('cloudInit', canonical(spec.cloudInit), canonical(body.cloudInit), 'is another');
    if (d.cdroms !== undefined) put('cdroms', spec.cdroms, body.cdroms, 'are others');
    const classed = d.class !== undefined || this.doc.class !== undefined;
    const cls = classed ? (body.class ?? null) : (spec.class?.id ?? null);
    if (cls !== (spec.class?.id ?? null)) {
      out['class'] = cls;
      const name = d.class === undefined ? this.doc.class : d.class;
      this.change('change', [...path, 'class'], `VM "${spec.name}": class ${name ?? 'none'}`);
    }
    // What the document says itself is the VM's own, also where its class says the same today.
    const notOwn = (s: ClassSetting): boolean => cls !== null && spec.class?.own.includes(s) !== true;
    if (d.autoMove !== undefined && (notOwn('autoMove') || d.autoMove !== (spec.autoMove !== false)))
      put('autoMove', null, d.autoMove, d.autoMove ? 'yes' : 'no');
    if (d.cpuShares !== undefined && (notOwn('cpuShares') || d.cpuShares !== cpuSharesOf(spec)))
      put('cpuShares', null, d.cpuShares, String(d.cpuShares));
    const ha = Object.fromEntries(
      Object.entries(d.ha ?? {}).filter(
        ([k, v]) =>
          v !== undefined &&
          ((spec.ha[k as 'lockstep'] ?? false) !== v ||
            settingsAsked({ ha: { [k]: v } }).some((s) => notOwn(s))),
      ),
    );
    if (Object.keys(ha).length > 0) {
      out['ha'] = ha;
      this.change('change', [...path, 'ha'], `VM "${spec.name}": HA ${JSON.stringify(ha)}`);
    }
    if (d.disks !== undefined) this.patchDisks(spec, body, out, path);
    if (d.nics !== undefined) this.patchNics(spec, body, out, path);
    return Object.keys(out).length === 0 ? null : out;
  }

  private patchDisks(spec: VmSpec, body: VmCreate, out: Record<string, unknown>, path: Path): void {
    const mine = this.ctx
      .disks(spec.id)
      .filter((x) => x.state !== 'deleting' && spec.disks.some((v) => v.disk === x.id));
    const named = named0(body.disks);
    const add = named.filter((x) => !mine.some((m) => m.name === x.name));
    const remove = mine.filter((m) => !named.some((x) => x.name === m.name));
    const grow = named.flatMap((x) => {
      const m = mine.find((y) => y.name === x.name);
      if (m === undefined || x.sizeBytes === undefined) return [];
      // Volumes are rounded up to what their pool has: no difference that anybody asked for.
      return x.sizeBytes > m.sizeBytes || m.sizeBytes - x.sizeBytes > 8 * 2 ** 20
        ? [{ disk: m.id, sizeBytes: x.sizeBytes, name: m.name, was: m.sizeBytes }]
        : [];
    });
    const say = (what: VappChange['do'], text: string): void =>
      this.change(what, [...path, 'disks'], `VM "${spec.name}": ${text}`);
    if (add.length > 0) out['addDisks'] = add;
    for (const x of add) say('change', `disk "${x.name}" is added`);
    if (remove.length > 0) out['removeDisks'] = remove.map((x) => x.id);
    for (const x of remove)
      say('remove', `disk "${x.name}" is deleted with its data${isReplicated(x) ? ', both copies' : ''}`);
    if (grow.length > 0) out['growDisks'] = grow.map(({ disk, sizeBytes }) => ({ disk, sizeBytes }));
    for (const g of grow) say('change', `disk "${g.name}" ${formatSize(g.was)} → ${formatSize(g.sizeBytes)}`);
  }

  private patchNics(spec: VmSpec, body: VmCreate, out: Record<string, unknown>, path: Path): void {
    const left = [...spec.nics];
    const add = body.nics.filter((n) => {
      const i = left.findIndex(
        (x) =>
          x.network === n.network &&
          x.model === n.model &&
          (n.mac === undefined || n.mac === x.mac) &&
          (n.address === 'auto' || n.address === x.address),
      );
      if (i >= 0) left.splice(i, 1);
      return i < 0;
    });
    const say = (text: string): void =>
      this.change('change', [...path, 'nics'], `VM "${spec.name}": ${text}`);
    if (add.length > 0) out['addNics'] = add;
    for (const n of add) say(`a NIC on "${this.ctx.network(n.network)?.name ?? 'a new network'}" is added`);
    if (left.length > 0) out['removeNics'] = left.map((n) => n.id);
    for (const n of left) say(`its NIC ${n.mac} is removed`);
  }

  /** What is otherwise in the vApp's own record. */
  private whole(next: Vapp): void {
    const { before } = this;
    if (before === null) return;
    const of = (v: Vapp): Record<string, unknown> => ({
      note: v.note,
      tags: v.tags,
      owner: v.owner,
      class: v.class,
      properties: v.properties,
      rules: v.rules,
      failover: v.failover,
      eulas: v.eulas,
      cpuAllocation: v.cpuAllocation,
      memoryAllocation: v.memoryAllocation,
      ovf: v.ovf,
      networks: v.networks.map((n) => n.name),
      order: [...v.members, ...v.groups]
        .filter((m) => !('leaving' in m) || !m.leaving)
        .map((m) => [m.name, m.group, m.start, m.stop])
        .sort(),
    });
    // By the schema, so that both say the same in the same order.
    const [was, will] = [of(vappSchema.parse(before)), of(vappSchema.parse(next))];
    for (const key of Object.keys(will))
      if (JSON.stringify(was[key]) !== JSON.stringify(will[key]))
        this.change('change', key === 'order' ? ['members'] : [key], changedText(key));
    for (const p of next.properties) {
      const given = this.values[p.name] ?? this.doc.properties?.[p.name]?.value;
      if (p.secret && given !== undefined && given !== this.oldSecrets[p.name])
        this.change(
          'change',
          ['properties', p.name],
          `property "${p.name}" gets another value; guests hear of it at their next start`,
        );
    }
  }
}

const changedText = (key: string): string =>
  key === 'order'
    ? 'the order of start and stop'
    : key === 'properties'
      ? 'properties; guests hear of them at their next start'
      : key;

const named0 = (disks: VmCreate['disks']): (VmCreate['disks'][number] & { name: string })[] => {
  const names = new Set<string>();
  return disks.map((d) => {
    let n = 0;
    while (d.name === undefined && names.has(`disk${n}`)) n += 1;
    const name = d.name ?? `disk${n}`;
    names.add(name);
    return { ...d, name };
  });
};

/** From the eleventh address on, but for the last ones. */
function rangeOf(subnet: string): [string, string] {
  const { first, last } = parseCidr(subnet);
  return [intToIpv4(Math.min(first + 10, last - 2)), intToIpv4(last - 2)].map((a) =>
    a === lastHost(subnet) ? intToIpv4(last - 2) : a,
  ) as [string, string];
}

const allocation = (a: VappDoc['cpuAllocation']): Vapp['cpuAllocation'] =>
  a === undefined
    ? null
    : { reservation: a.reservation ?? null, limit: a.limit ?? null, weight: a.weight ?? null };

const canonical = (ci: VmSpec['cloudInit']): unknown =>
  ci === null ? null : Object.fromEntries(Object.entries(ci).sort(([a], [b]) => (a < b ? -1 : 1)));

function dropUndefined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(dropUndefined);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([k, v]) => (v === undefined ? [] : [[k, dropUndefined(v)]])),
  );
}

/**
 * A vApp as a document that makes its like: values of secret properties are not in it.
 *
 * @param asTemplate - without what makes it this one: MACs and addresses
 */
export function documentOf(
  v: Vapp,
  at: {
    readonly spec: (vm: string) => VmSpec | undefined;
    readonly disks: (vm: string) => readonly Disk[];
    readonly nameOf: (kind: 'pool' | 'image' | 'network' | 'class', id: string) => string | undefined;
    readonly network: (id: string) => Network | undefined;
  },
  asTemplate = false,
): VappDoc {
  const partial = <T extends object>(value: T, usual: T): Partial<T> =>
    Object.fromEntries(
      Object.entries(value).filter(([k, x]) => JSON.stringify(x) !== JSON.stringify(usual[k as keyof T])),
    ) as Partial<T>;
  const plan = (m: Pick<VappMember, 'start' | 'stop'>): Pick<VappMemberDoc, 'start' | 'stop'> => {
    const start = partial(m.start, vappStartSchema.parse({}));
    const stop = partial(m.stop, vappStopSchema.parse({}));
    return {
      ...(Object.keys(start).length === 0 ? {} : { start }),
      ...(Object.keys(stop).length === 0 ? {} : { stop }),
    };
  };
  const vmOf = (m: VappMember): VappVm => {
    const spec = at.spec(m.vm);
    if (spec === undefined) return {};
    const disks = at.disks(m.vm).filter((d) => d.state !== 'deleting');
    const { after: _, ...haAll } = spec.ha;
    const cls = spec.class;
    const className = cls === undefined ? null : (at.nameOf('class', cls.id) ?? null);
    // Of a class it says only what is its own: the class says the rest, there as here.
    const said = (s: ClassSetting): boolean => cls === undefined || cls.own.includes(s);
    const ha = Object.fromEntries(
      Object.entries(haAll).filter(([k, x]) => settingsAsked({ ha: { [k]: x } }).every(said)),
    );
    const usual = `${v.name}-${m.name}`.slice(0, 63);
    return {
      ...(spec.name === usual || asTemplate ? {} : { name: spec.name }),
      ...(spec.note === '' ? {} : { note: spec.note }),
      ...(spec.tags.length === 0 ? {} : { tags: spec.tags }),
      cpus: spec.cpus,
      memoryMiB: spec.memoryMiB,
      firmware: spec.firmware,
      boot: spec.boot,
      disks: spec.disks.flatMap(({ disk, bus }) => {
        const d = disks.find((x) => x.id === disk);
        if (d === undefined) return [];
        const image = d.source.kind === 'image' ? at.nameOf('image', d.source.image) : undefined;
        const pool = at.nameOf('pool', d.pool);
        return [
          {
            name: d.name,
            ...(pool === undefined ? {} : { pool }),
            sizeBytes: d.sizeBytes,
            bus,
            ...(d.format === 'qcow2' || isReplicated(d) ? {} : { format: d.format }),
            ...(image === undefined ? {} : { image }),
            ...(d.source.kind === 'image' && image !== undefined ? { mode: d.source.mode } : {}),
            ...(isReplicated(d) ? { replicas: 2 as const } : {}),
          },
        ];
      }),
      ...(spec.cdroms.length === 0
        ? {}
        : {
            cdroms: spec.cdroms.map((c) => ({
              image: c.image === null ? null : (at.nameOf('image', c.image) ?? null),
            })),
          }),
      nics: spec.nics.map((n) => ({
        network: v.networks.find((x) => x.network === n.network)?.name ?? n.network,
        ...(asTemplate ? (n.address === null ? { address: null } : {}) : { mac: n.mac, address: n.address }),
        ...(n.model === 'virtio' ? {} : { model: n.model }),
      })),
      ...(spec.cloudInit === null ? {} : { cloudInit: spec.cloudInit }),
      stopTimeoutS: spec.stopTimeoutS,
      onCrash: spec.onCrash,
      ...(Object.keys(ha).length === 0 ? {} : { ha }),
      ...(spec.autoMove === undefined || !said('autoMove') ? {} : { autoMove: spec.autoMove }),
      ...(spec.cpuShares === undefined || !said('cpuShares') ? {} : { cpuShares: spec.cpuShares }),
      ...((cls?.id ?? null) === v.class ? {} : { class: className }),
    };
  };
  const members = (group: string | null): Record<string, VappMemberDoc> =>
    Object.fromEntries([
      ...v.members
        .filter((m) => m.group === group && !m.leaving)
        .map((m): [string, VappMemberDoc] => [m.name, { vm: vmOf(m), ...plan(m) }]),
      ...v.groups
        .filter((g) => g.group === group)
        .map((g): [string, VappMemberDoc] => [
          g.name,
          { vapp: { ...(g.note === '' ? {} : { note: g.note }), members: members(g.name) }, ...plan(g) },
        ]),
    ]);
  return {
    kind: 'VApp',
    name: v.name,
    ...(v.note === '' ? {} : { note: v.note }),
    ...(v.tags.length === 0 ? {} : { tags: v.tags }),
    ...(v.owner === '' ? {} : { owner: v.owner }),
    ...(v.class === null ? {} : { class: at.nameOf('class', v.class) ?? null }),
    properties: Object.fromEntries(
      v.properties.map(({ name, default: usual, value, choices, ...p }) => [
        name,
        {
          ...p,
          ...(choices === undefined ? {} : { choices }),
          ...(usual === null ? {} : { default: usual }),
          ...(value === null ? {} : { value }),
        },
      ]),
    ),
    networks: Object.fromEntries(
      v.networks.map((n): [string, NonNullable<VappDoc['networks']>[string]] => {
        const network = at.network(n.network);
        if (!n.own) return [n.name, { network: network?.name ?? n.network }];
        return [
          n.name,
          {
            isolated: true as const,
            subnet: network?.subnet ?? '10.240.0.0/24',
            ...(network?.range === undefined || network.range === null ? {} : { range: network.range }),
          },
        ];
      }),
    ),
    members: members(null),
    ...(v.rules.length === 0 ? {} : { rules: v.rules }),
    ...(v.failover === 'members' ? {} : { failover: v.failover }),
    ...(v.eulas.length === 0 ? {} : { eulas: v.eulas }),
    ...(v.cpuAllocation === null ? {} : { cpuAllocation: v.cpuAllocation }),
    ...(v.memoryAllocation === null ? {} : { memoryAllocation: v.memoryAllocation }),
    ...(v.ovf === null ? {} : { ovf: v.ovf }),
  };
}
