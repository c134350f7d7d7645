import { diskBytesMin, isReplicated, type Disk } from '../domain/disk.js';
import { FlotillaError } from '../domain/error.js';
import { vmHaDefault } from '../domain/ha.js';
import { virtualSizeBytesMax, type Image } from '../domain/image.js';
import { ipv4InCidr, nextAddress } from '../domain/ipv4.js';
import type { Network } from '../domain/network.js';
import { thinPieceBytes, type Pool } from '../domain/pool.js';
import type { ServiceClass } from '../domain/service-class.js';
import { formatSize } from '../domain/units.js';
import type { VmNic, VmPhase, VmPowerAction, VmSpec } from '../domain/vm.js';
import { unique } from '../wire/ledger-keys.js';
import type { VmCreate, VmPatch } from '../wire/rest.js';
import { createByClass, editByClass, settingsAsked } from './service-class.js';
import { scheduled } from '../domain/snapshot-schedule.js';
import type { SnapshotDisk, VmSnapshot } from '../domain/vm-snapshot.js';
import { shapeBlockers } from './lockstep-check.js';
import { checkReach, checkShape, editHa, type HaContext } from './vm-ha-edit.js';

/** What an edit may look up. Each throws FlotillaError `not-found` for what is not there. */
export interface EditContext {
  newId(): string;
  newMac(): string;
  pool(ref: string | undefined): Pool;
  /** A ready image. */
  image(ref: string): Image;
  network(ref: string): Network;
  serviceClass(ref: string): ServiceClass;
  /** Addresses of that network given out already, in the ledger or by this edit. */
  addresses(networkId: string): ReadonlySet<string>;
  /** Other VMs. */
  readonly vms: HaContext;
}

/** What an edit makes of a VM, to be written in one transaction. */
export interface VmEdit {
  readonly spec: VmSpec;
  /** Disks new or changed. */
  readonly disks: readonly Disk[];
  /** New disks with the pools and images they need, for placement. */
  readonly made: readonly MadeDisk[];
  /** Keys of names, addresses and MACs that must be free and become this VM's, and those given back. */
  readonly take: readonly string[];
  readonly free: readonly string[];
  /** What was looked up and must still stand when it is written. */
  readonly images: readonly Image[];
  readonly networks: readonly Network[];
  readonly pools: readonly Pool[];
  readonly classes: readonly ServiceClass[];
  /** VMs whose `after` was looked at and must still stand so when it is written. */
  readonly orderedAfter: readonly string[];
}

/** What a new disk is made from that no request can name: of whose snapshot it is was checked before. */
export interface FromSnapshot {
  readonly snapshot: VmSnapshot;
  readonly volume: SnapshotDisk;
  /** Only what differs is stored. A thin pool shares what neither overwrites in any case. */
  readonly linked: boolean;
}

/** The disks of a new VM, by name, as they were in a snapshot. */
export const fromSnapshot = (x: VmSnapshot, linked = false): Map<string, FromSnapshot> =>
  new Map(x.disks.map((volume) => [volume.name, { snapshot: x, volume, linked }]));

export interface MadeDisk {
  readonly disk: Disk;
  /** The snapshot it begins as. */
  readonly snapshot?: VmSnapshot;
  readonly bus: VmSpec['disks'][number]['bus'];
  readonly pool: Pool;
  readonly image: Image | null;
}

/** Disks are whole MiB: every format and every later home of them can hold that exactly. */
const diskGrainBytes = 1024 * 1024;
const wholeDisk = (bytes: number): number => Math.ceil(bytes / diskGrainBytes) * diskGrainBytes;

const badInput = (message: string, hint: string): FlotillaError =>
  new FlotillaError('bad-input', message, { hint });

/**
 * The spec of a new VM with all it needs; its disks have no node yet.
 *
 * @param from - disks by name that begin as they were in a snapshot
 */
export function createVm(
  id: string,
  asked: VmCreate,
  ctx: EditContext,
  from: ReadonlyMap<string, FromSnapshot> = new Map(),
): VmEdit {
  const cls = asked.class === undefined || asked.class === null ? null : ctx.serviceClass(asked.class);
  const { input, own } =
    cls === null
      ? { input: asked, own: [] }
      : createByClass(asked, cls, (pool) => ctx.pool(pool).kind === 'thin');
  const who = `VM "${input.name}"`;
  const made = makeDisks(who, id, input.disks, [], ctx, from);
  const nets = makeNics(who, input.nics, [], ctx);
  const cds = makeCdroms(who, input.cdroms, ctx);
  const { ha, looked } = editHa(who, id, vmHaDefault, input.ha, () => ctx.vms);
  if (ha.enabled && ha.lockstep !== true)
    checkReach(
      who,
      made.map((m) => m.disk),
      (pool) => ctx.pool(pool),
    );
  const spec: VmSpec = {
    id,
    name: input.name,
    generation: 1,
    note: input.note,
    tags: input.tags,
    cpus: input.cpus,
    memoryMiB: input.memoryMiB,
    firmware: input.firmware,
    boot: uniqueBoot(who, input.boot),
    disks: made.map((m) => ({ disk: m.disk.id, bus: m.bus })),
    cdroms: cds.cdroms,
    nics: nets.nics,
    cloudInit: input.cloudInit,
    power: input.power,
    powerGeneration: 1,
    stopTimeoutS: input.stopTimeoutS,
    onCrash: input.onCrash,
    ha,
    ...(input.autoMove === false ? { autoMove: false } : {}),
    ...(input.cpuShares === undefined ? {} : { cpuShares: input.cpuShares }),
    ...scheduled(input.snapshots),
    ...(cls === null ? {} : { class: { id: cls.id, own: [...own] } }),
  };
  const fresh = made.map((m) => m.disk);
  if (ha.lockstep === true)
    checkShape(
      who,
      shapeBlockers(spec, fresh, (pool) => ctx.pool(pool)),
    );
  return {
    spec,
    disks: fresh,
    made,
    take: [unique.name('vm', input.name), ...nicKeys(nets.nics)],
    free: [],
    images: [...made.flatMap((m) => (m.image === null ? [] : [m.image])), ...cds.images],
    networks: nets.networks,
    pools: made.map((m) => m.pool),
    classes: cls === null ? [] : [cls],
    orderedAfter: looked,
  };
}

/** Phases in which the machine does not exist, so that anything may be changed. */
const offPhases: ReadonlySet<VmPhase> = new Set<VmPhase>(['creating', 'stopped', 'crashed', 'failed']);

/**
 * Applies an edit to a VM's spec.
 *
 * @param disks - the VM's disks as they are
 * @param owner - new disks on local pools go there
 * @throws FlotillaError `bad-input`, `not-found`, `needs-stop`, `unsupported` (shrinking), `address-taken`,
 *   `no-address-left`, `name-taken` (of a disk)
 */
export function editVm(
  before: VmSpec,
  disks: readonly Disk[],
  asked: VmPatch,
  phase: VmPhase,
  owner: string,
  ctx: EditContext,
): VmEdit {
  const who = `VM "${before.name}"`;
  const { patch, ...classed } = classedEdit(before, asked, ctx);
  if (patch.firmware !== undefined && patch.firmware !== before.firmware && !offPhases.has(phase)) {
    throw new FlotillaError('needs-stop', `The firmware of ${who} cannot change while it is ${phase}`, {
      hint: `Stop it first: flotilla vm stop "${before.name}".`,
    });
  }
  const mine = disks.filter((d) => before.disks.some((v) => v.disk === d.id) && d.state !== 'deleting');
  const removed = (patch.removeDisks ?? []).map((ref) => findDisk(who, mine, ref));
  const gone = new Set(removed.map((d) => d.id));
  const grown = growDisks(who, mine, gone, patch.growDisks ?? [], (id) => ctx.pool(id));
  const plugged = plug(who, before.disks, mine, gone, patch);
  const made = makeDisks(
    who,
    before.id,
    patch.addDisks ?? [],
    mine.filter((d) => !gone.has(d.id)),
    ctx,
  ).map((m) => placed(m, owner));

  const removedNics = (patch.removeNics ?? []).map((ref) => findNic(who, before.nics, ref));
  const keptNics = before.nics.filter((n) => !removedNics.includes(n));
  const added = makeNics(who, patch.addNics ?? [], keptNics, ctx);
  const cds =
    patch.cdroms === undefined ? { cdroms: before.cdroms, images: [] } : makeCdroms(who, patch.cdroms, ctx);
  const kept = mine.filter((d) => !gone.has(d.id));
  const { ha, looked } = editHa(who, before.id, before.ha, patch.ha ?? {}, () => ctx.vms);
  // Not of an edit that has nothing to do with it: what stands so stays, and says that it is not protected.
  if (
    ha.enabled &&
    ha.lockstep !== true &&
    (asked.ha?.enabled === true || !before.ha.enabled || made.length > 0)
  ) {
    checkReach(who, [...kept, ...made.map((m) => m.disk)], (pool) => ctx.pool(pool));
  }

  const { class: _, snapshots: _schedule, ...rest } = before;
  const spec: VmSpec = {
    ...rest,
    ...(classed.class === undefined ? {} : { class: classed.class }),
    name: patch.name ?? before.name,
    note: patch.note ?? before.note,
    tags: patch.tags ?? before.tags,
    cpus: patch.cpus ?? before.cpus,
    memoryMiB: patch.memoryMiB ?? before.memoryMiB,
    firmware: patch.firmware ?? before.firmware,
    boot: patch.boot === undefined ? before.boot : uniqueBoot(who, patch.boot),
    stopTimeoutS: patch.stopTimeoutS ?? before.stopTimeoutS,
    onCrash: patch.onCrash ?? before.onCrash,
    ha,
    ...(patch.autoMove === undefined ? {} : { autoMove: patch.autoMove }),
    ...(patch.cpuShares === undefined ? {} : { cpuShares: patch.cpuShares }),
    ...scheduled(patch.snapshots === undefined ? before.snapshots : patch.snapshots),
    cloudInit: patch.cloudInit === undefined ? before.cloudInit : patch.cloudInit,
    disks: [
      ...plugged.filter((d) => !gone.has(d.disk)),
      ...made.map((m) => ({ disk: m.disk.id, bus: m.bus })),
    ],
    cdroms: cds.cdroms,
    nics: [...keptNics, ...added.nics],
    generation: before.generation + 1,
  };
  if (ha.lockstep === true) {
    const blockers = (s: VmSpec, d: readonly Disk[]) => shapeBlockers(s, d, (pool) => ctx.pool(pool));
    const now = blockers(spec, [...kept, ...made.map((m) => m.disk)]);
    checkShape(
      who,
      now,
      before.ha.lockstep === true && asked.ha?.lockstep !== true ? blockers(before, mine) : [],
    );
  }
  const oldName = unique.name('vm', before.name);
  const newName = unique.name('vm', spec.name);
  const renamed = oldName !== newName;
  return {
    spec,
    disks: [...removed.map((d): Disk => ({ ...d, state: 'deleting' })), ...grown, ...made.map((m) => m.disk)],
    made,
    take: [...(renamed ? [newName] : []), ...nicKeys(added.nics)],
    free: [...(renamed ? [oldName] : []), ...nicKeys(removedNics)],
    images: [...made.flatMap((m) => (m.image === null ? [] : [m.image])), ...cds.images],
    networks: added.networks,
    pools: made.map((m) => m.pool),
    classes: classed.classes,
    orderedAfter: looked,
  };
}

/** Its disks with those taken out of the machine and put back. @throws FlotillaError `bad-input`, `not-found` */
function plug(
  who: string,
  has: VmSpec['disks'],
  mine: readonly Disk[],
  gone: ReadonlySet<string>,
  patch: Pick<VmPatch, 'attachDisks' | 'detachDisks'>,
): VmSpec['disks'] {
  const ids = (refs: readonly string[] = []): string[] => refs.map((r) => findDisk(who, mine, r).id);
  const out = new Set(ids(patch.detachDisks));
  const back = new Set(ids(patch.attachDisks));
  for (const id of [...out, ...back])
    if (gone.has(id) || (out.has(id) && back.has(id)))
      throw badInput(`${who}: one disk is to be two things at once`, 'Remove, detach or attach it.');
  return has.map((d) => {
    if (out.has(d.disk)) return { ...d, detached: true };
    if (!back.has(d.disk)) return d;
    const { detached: _, ...inside } = d;
    return inside;
  });
}

/** What the VM's class says to an edit that touches what classes say. @throws FlotillaError `bad-input`, `not-found` */
function classedEdit(
  before: VmSpec,
  patch: VmPatch,
  ctx: EditContext,
): { readonly patch: VmPatch; readonly class: VmSpec['class']; readonly classes: readonly ServiceClass[] } {
  const ref = patch.class === undefined ? (before.class?.id ?? null) : patch.class;
  if (ref === null && patch.asClass !== undefined)
    throw badInput(`VM "${before.name}" is of no class`, 'Name one: --class NAME.');
  const touched = patch.class !== undefined || patch.asClass !== undefined || settingsAsked(patch).length > 0;
  if (!touched) return { patch, class: before.class, classes: [] };
  const cls = ref === null ? null : ctx.serviceClass(ref);
  return { ...editByClass(before, patch, cls), classes: cls === null ? [] : [cls] };
}

/** A new disk put on the node that owns its VM, where the pool is each node's own. */
export function placed(m: MadeDisk, owner: string): MadeDisk {
  const anywhere = m.pool.kind === 'shared' || isReplicated(m.disk);
  return { ...m, disk: { ...m.disk, node: anywhere ? null : owner } };
}

/** The ledger keys by which NICs hold their MACs and addresses. */
export function nicKeys(nics: readonly VmNic[]): string[] {
  return nics.flatMap((n) => [
    unique.mac(n.mac),
    ...(n.address === null ? [] : [unique.address(n.network, n.address)]),
  ]);
}

function uniqueBoot(who: string, boot: VmSpec['boot']): VmSpec['boot'] {
  if (new Set(boot).size !== boot.length)
    throw badInput(`${who}: the boot order names one thing twice`, 'Name each of disk, cdrom, network once.');
  return boot;
}

function makeDisks(
  who: string,
  vm: string,
  wanted: VmCreate['disks'],
  existing: readonly Disk[],
  ctx: EditContext,
  from: ReadonlyMap<string, FromSnapshot> = new Map(),
): MadeDisk[] {
  const names = new Set(existing.map((d) => d.name));
  const nextName = (): string => {
    let n = 0;
    while (names.has(`disk${n}`)) n += 1;
    return `disk${n}`;
  };
  return wanted.map((w) => {
    const name = w.name ?? nextName();
    if (names.has(name)) {
      throw new FlotillaError('name-taken', `${who} has a disk "${name}" already`, {
        hint: 'Give the disk another name.',
      });
    }
    names.add(name);
    const what = `Disk "${name}" of ${who}`;
    const pool = ctx.pool(w.pool);
    const image = w.image === undefined ? null : ctx.image(w.image);
    const thin = pool.kind === 'thin';
    const kept = from.get(name);
    // Over a file in another pool it would need both of them.
    const linked = kept?.linked === true && !thin && kept.volume.pool === pool.id;
    const source: Disk['source'] =
      kept === undefined
        ? diskSource(what, w, image)
        : {
            kind: 'snapshot',
            snapshot: kept.snapshot.id,
            volume: kept.volume.id,
            ...(linked ? { mode: 'linked' as const } : {}),
          };
    if (thin && w.mode === 'linked')
      throw badInput(
        `${what}: a thin pool has no linked clones`,
        'Clone full: it takes only what is written.',
      );
    if (w.mode === 'moved' && image !== null && image.pool !== pool.id)
      throw badInput(
        `${what}: the image "${image.name}" lies in another pool, and cannot be moved`,
        'Name its pool, or clone full.',
      );
    if (w.replicas === 2 && !thin)
      throw badInput(
        `${what}: only disks on pools of kind thin have copies on two nodes, "${pool.name}" is ${pool.kind}`,
        'Choose a thin pool, or leave the replicas out.',
      );
    const disk: Disk = {
      id: ctx.newId(),
      name,
      vm,
      pool: pool.id,
      ...(w.replicas === 2 ? { replicas: 2 as const } : {}),
      node: null,
      format: thin ? 'raw' : linked ? 'qcow2' : w.format,
      sizeBytes:
        kept === undefined
          ? wholeVolume(pool, diskSize(what, w.sizeBytes, image))
          : kept.volume.sizeBytes + (kept.volume.replicated ? thinPieceBytes : 0),
      madeBytes: 0,
      source,
      state: 'wanted',
      error: null,
    };
    return { disk, bus: w.bus, pool, image, ...(kept === undefined ? {} : { snapshot: kept.snapshot }) };
  });
}

/** Volumes of a thin pool come in whole pieces, and are as large as they say. */
const wholeVolume = (pool: Pick<Pool, 'kind'>, sizeBytes: number): number =>
  pool.kind === 'thin' ? Math.ceil(sizeBytes / thinPieceBytes) * thinPieceBytes : sizeBytes;

function diskSource(what: string, w: VmCreate['disks'][number], image: Image | null): Disk['source'] {
  if (image === null) {
    if (w.mode !== undefined)
      throw badInput(`${what}: a blank disk has no clone mode`, 'Name an image, or leave the mode out.');
    return { kind: 'blank' };
  }
  if (image.format === 'iso') {
    throw badInput(`${what}: the image "${image.name}" is an ISO`, 'Put it into a CD drive: cdroms.');
  }
  const mode = w.mode ?? 'full';
  if (mode === 'linked' && w.format !== 'qcow2') {
    throw badInput(`${what}: a linked clone is always qcow2`, 'Leave the format out, or clone full.');
  }
  if (mode === 'moved' && w.format !== image.format) {
    throw badInput(
      `${what}: the image "${image.name}" is ${image.format}, and what is moved stays so`,
      `Give format ${image.format}, or clone full.`,
    );
  }
  return { kind: 'image', image: image.id, mode };
}

function diskSize(what: string, asked: number | undefined, image: Image | null): number {
  if (asked === undefined) {
    if (image === null) throw badInput(`${what} needs a size`, 'Give sizeBytes, or an image to clone.');
    return wholeDisk(Math.max(diskBytesMin, image.virtualSizeBytes));
  }
  if (asked < diskBytesMin)
    throw badInput(
      `${what}: ${asked} bytes is too small`,
      `Disks have at least ${formatSize(diskBytesMin)}.`,
    );
  if (image !== null && asked < image.virtualSizeBytes) {
    throw badInput(
      `${what}: ${formatSize(asked)} is smaller than its image "${image.name}" (${formatSize(image.virtualSizeBytes)})`,
      'Leave the size out, or ask for as much or more.',
    );
  }
  const size = wholeDisk(asked);
  if (size > virtualSizeBytesMax)
    throw badInput(
      `${what}: ${formatSize(size)} is too large`,
      `At most ${formatSize(virtualSizeBytesMax)}.`,
    );
  return size;
}

function growDisks(
  who: string,
  mine: readonly Disk[],
  gone: ReadonlySet<string>,
  grow: NonNullable<VmPatch['growDisks']>,
  pool: (id: string) => Pick<Pool, 'kind'>,
): Disk[] {
  const seen = new Set<string>();
  return grow.map((g) => {
    const d = findDisk(who, mine, g.disk);
    const what = `Disk "${d.name}" of ${who}`;
    if (gone.has(d.id)) throw badInput(`${what} is removed and grown at once`, 'Do one of the two.');
    if (seen.has(d.id)) throw badInput(`${what} is grown twice`, 'Name it once.');
    seen.add(d.id);
    const size = wholeDisk(g.sizeBytes);
    if (size < d.sizeBytes) {
      throw new FlotillaError(
        'unsupported',
        `${what} cannot shrink from ${formatSize(d.sizeBytes)} to ${formatSize(g.sizeBytes)}`,
        { hint: 'Disks only grow: the end may hold data. Make a smaller one and copy inside the guest.' },
      );
    }
    return { ...d, sizeBytes: wholeVolume(pool(d.pool), size) };
  });
}

function findDisk(who: string, mine: readonly Disk[], ref: string): Disk {
  const d = mine.find((x) => x.id === ref.toLowerCase()) ?? mine.find((x) => x.name === ref);
  if (d === undefined) {
    throw new FlotillaError('not-found', `${who} has no disk "${ref}"`, {
      hint: `It has: ${mine.map((x) => x.name).join(', ') || 'none'}.`,
    });
  }
  return d;
}

function findNic(who: string, nics: readonly VmNic[], ref: string): VmNic {
  const n = nics.find((x) => x.id === ref.toLowerCase() || x.mac === ref.toLowerCase());
  if (n === undefined) {
    throw new FlotillaError('not-found', `${who} has no NIC "${ref.slice(0, 64)}"`, {
      hint: `NICs are named by id or MAC; it has: ${nics.map((x) => x.mac).join(', ') || 'none'}.`,
    });
  }
  return n;
}

function makeNics(
  who: string,
  wanted: VmCreate['nics'],
  kept: readonly VmNic[],
  ctx: EditContext,
): { nics: VmNic[]; networks: Network[] } {
  const macs = new Set(kept.map((n) => n.mac));
  const given = new Map<string, Set<string>>();
  const networks: Network[] = [];
  const nics = wanted.map((w): VmNic => {
    const network = ctx.network(w.network);
    networks.push(network);
    let mac = w.mac ?? ctx.newMac();
    while (w.mac === undefined && macs.has(mac)) mac = ctx.newMac();
    if (macs.has(mac))
      throw badInput(`${who}: two NICs with MAC ${mac}`, 'Leave the MAC out to get a free one.');
    macs.add(mac);
    const here = given.get(network.id) ?? new Set<string>();
    given.set(network.id, here);
    const address = nicAddress(who, w.address, network, new Set([...ctx.addresses(network.id), ...here]));
    if (address !== null) here.add(address);
    return { id: ctx.newId(), network: network.id, mac, address, model: w.model };
  });
  return { nics, networks };
}

function nicAddress(
  who: string,
  asked: string | null,
  network: Network,
  taken: ReadonlySet<string>,
): string | null {
  if (asked === null) return null;
  if (asked === 'auto') {
    if (network.range === null) return null;
    const reserved = network.gateway === null ? taken : new Set([...taken, network.gateway]);
    const next = nextAddress(network.range, reserved);
    if (next === null) {
      throw new FlotillaError(
        'no-address-left',
        `The network "${network.name}" has no address left for ${who}`,
        {
          hint: `Its range ${network.range.join(' to ')} is used up: widen it, or delete VMs.`,
        },
      );
    }
    return next;
  }
  if (network.subnet === null || !ipv4InCidr(asked, network.subnet)) {
    throw badInput(
      `${who}: ${asked} is not in the network "${network.name}" (${network.subnet ?? 'it has no subnet'})`,
      'Choose an address of the subnet, or leave it out.',
    );
  }
  if (taken.has(asked) || asked === network.gateway) {
    throw new FlotillaError('address-taken', `${asked} of the network "${network.name}" is taken`, {
      hint: 'Choose another address, or leave it out to get the next free one.',
    });
  }
  return asked;
}

function makeCdroms(
  who: string,
  wanted: VmCreate['cdroms'],
  ctx: EditContext,
): { cdroms: VmSpec['cdroms']; images: Image[] } {
  const images: Image[] = [];
  const cdroms = wanted.map((w) => {
    if (w.image === null) return { image: null };
    const image = ctx.image(w.image);
    if (image.format !== 'iso')
      throw badInput(`${who}: the image "${image.name}" is not an ISO`, 'Give it to a disk instead.');
    images.push(image);
    return { image: image.id };
  });
  return { cdroms, images };
}

/** The spec after an action; null where the action leaves it. */
export function withPower(spec: VmSpec, action: VmPowerAction): VmSpec | null {
  const generation = spec.generation + 1;
  switch (action) {
    case 'start':
      return { ...spec, power: 'running', generation, powerGeneration: generation };
    case 'stop':
    case 'force-stop':
      return { ...spec, power: 'stopped', generation, powerGeneration: generation };
    case 'pause':
      return { ...spec, power: 'paused', generation };
    case 'resume':
      return { ...spec, power: 'running', generation };
    case 'reboot':
    case 'reset':
      return null;
  }
}
