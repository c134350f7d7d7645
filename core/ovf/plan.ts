import type { VmCreateInput } from '../wire/rest.js';
import { environmentCharsMax, environmentOf } from './environment.js';
import type { OvfFile, OvfNic, OvfPackage, OvfSystem, OvfSystemDisk } from './model.js';

/** What a person says beside the package. */
export interface ImportChoices {
  /** The cluster's network for each of the package's; null: NICs on it are left out. */
  readonly networks: ReadonlyMap<string, string | null>;
  /** Before the names of VMs and images. */
  readonly prefix: string;
  /** Nodes may fetch what is named by an http(s) address. */
  readonly fetch?: boolean;
  /** Files of the References that are here. */
  readonly present: ReadonlySet<string>;
  /** A word for each VM that tells this import from others. */
  readonly tag: string;
  readonly pool?: string;
  readonly node?: string;
}

/** A file that is uploaded first. */
export interface PlannedImage {
  readonly file: string;
  readonly name: string;
  readonly iso: boolean;
}

export interface PlannedVm {
  readonly system: string;
  /** `image` of disks and CD drives is the planned image's name; a disk's size is at least `sizeBytes`. */
  readonly body: VmCreateInput & { readonly disks: NonNullable<VmCreateInput['disks']> };
  /** What is otherwise than in the package, in words. */
  readonly changes: readonly string[];
}

/** VMs that are started together, and what is waited for before the next. */
export interface Stage {
  readonly vms: readonly string[];
  readonly waitForGuest: boolean;
  readonly delayS: number;
}

export interface ImportPlan {
  readonly images: readonly PlannedImage[];
  readonly vms: readonly PlannedVm[];
  readonly stages: readonly Stage[];
  /** Networks of the package of which nobody has said which they are. */
  readonly unmapped: readonly string[];
  /** Why it cannot be imported, each with its way out. Empty: it can. */
  readonly refusals: readonly string[];
}

const disksMax = 24;
const nicsMax = 16;
const cdromsMax = 4;
const afterMax = 16;
const memoryMiBMin = 32;
const noteCharsMax = 4096;

/**
 * What an import would make of a package: nothing is done. Hardware that we do not have is replaced by what such a
 * guest can use: a guest known to be Linux has drivers for virtio, of others nothing is expected but SATA and e1000e.
 */
export function planImport(p: OvfPackage, c: ImportChoices): ImportPlan {
  const refusals: string[] = [];
  const taken = new Set<string>();
  const names = new Map(p.systems.map((s) => [s.id, nameOf(`${c.prefix}${s.name}`, taken)]));
  const images = planImages(p, c, refusals);
  const stages = planStages(p, names);
  const unmapped = new Set<string>();
  const vms = p.systems.map((s) => planVm(p, s, c, { names, images, stages, refusals, unmapped }));
  for (const n of unmapped) refusals.push(`say which network "${n}" is: --network "${n}=NETWORK", or =none`);
  // Made in the order they start: each names those before it.
  const place = (vm: PlannedVm): number => {
    const stage = stages.findIndex((x) => x.vms.includes(vm.body.name));
    return stage === -1 ? stages.length : stage;
  };
  vms.sort((a, b) => place(a) - place(b));
  return { images: [...images.values()], vms, stages, unmapped: [...unmapped], refusals };
}

/** A name that VMs and images may have, which none of `taken` has yet. */
function nameOf(wanted: string, taken: Set<string>): string {
  const plain = wanted
    .normalize('NFC')
    .replaceAll(/[^\p{L}\p{M}\p{N} ._-]+/gu, '-')
    .slice(0, 56)
    .replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{M}\p{N}]+$/gu, '');
  const base = plain === '' ? 'vm' : plain;
  let name = base;
  for (let n = 2; taken.has(name.toLowerCase()); n += 1) name = `${base}-${n}`;
  taken.add(name.toLowerCase());
  return name;
}

function planImages(p: OvfPackage, c: ImportChoices, refusals: string[]): Map<string, PlannedImage> {
  const out = new Map<string, PlannedImage>();
  const taken = new Set<string>();
  const used = new Set(
    p.systems.flatMap((s) => [...s.disks, ...s.drives.filter((d) => d.kind === 'cdrom')]).map((d) => d.file),
  );
  for (const f of p.files) {
    if (!used.has(f.id)) continue;
    if (f.remote) refuseFetch(f, c.fetch === true, refusals);
    else if (f.outside)
      refusals.push(
        `"${f.href}" is outside of the package: put it beside the descriptor, and write its name so there`,
      );
    else if (!c.present.has(f.id)) refusals.push(`"${f.href}" is not here: get the whole package`);
    const file = f.href.split('/').at(-1) ?? f.href;
    const plain = file.replace(/\.gz$/i, '').replace(/\.(?:vmdk|vhdx?|qcow2|img|raw|iso)$/i, '');
    const disks = p.disks.filter((d) => d.file === f.id);
    if (disks.some((d) => d.parent !== null))
      refusals.push(`"${f.href}" holds only what differs from another disk: export it with whole disks`);
    if (disks.some((d) => d.format === 'vdi'))
      refusals.push(
        `"${f.href}" is a vdi: convert it (qemu-img convert -O qcow2) and say so in the descriptor`,
      );
    const iso = disks.length === 0 || disks.some((d) => d.format === 'iso');
    out.set(f.id, { file: f.id, name: nameOf(`${c.prefix}${p.name}-${plain}`, taken), iso });
  }
  return out;
}

function refuseFetch(f: OvfFile, allowed: boolean, refusals: string[]): void {
  if (!/^https?:/i.test(f.href) || f.compression !== null || f.chunkBytes !== null)
    refusals.push(
      `"${f.href}" is not fetched, being of a kind, packed or in pieces: put it beside the descriptor`,
    );
  else if (!allowed)
    refusals.push(
      `"${f.href}" is to be fetched from elsewhere: allow it (--allow-fetch), or put it beside the descriptor`,
    );
}

interface Making {
  readonly names: ReadonlyMap<string, string>;
  readonly images: ReadonlyMap<string, PlannedImage>;
  readonly stages: readonly Stage[];
  readonly refusals: string[];
  readonly unmapped: Set<string>;
}

function planVm(p: OvfPackage, s: OvfSystem, c: ImportChoices, m: Making): PlannedVm {
  const name = m.names.get(s.id) ?? s.id;
  const changes: string[] = [];
  const linux = isLinux(s);
  const refuse = (why: string): void => void m.refusals.push(`system "${s.id}": ${why}`);
  if (s.disks.length > disksMax) refuse(`it has ${s.disks.length} disks, and a VM at most ${disksMax}`);
  if (s.nics.length > nicsMax) refuse(`it has ${s.nics.length} NICs, and a VM at most ${nicsMax}`);
  const disks = s.disks.flatMap((d, i) => {
    const image = d.file === null ? undefined : m.images.get(d.file)?.name;
    if (image === undefined && d.capacityBytes === null) {
      refuse(`disk "${d.name}" has no size${d.disk === null ? '' : ': give the property that says it'}`);
      return [];
    }
    const bus = busOf(d, linux, changes);
    const at = c.pool === undefined ? {} : { pool: c.pool };
    const size = d.capacityBytes === null ? {} : { sizeBytes: wholeSectors(d.capacityBytes) };
    return [{ name: `disk${i + 1}`, bus, ...at, ...size, ...(image === undefined ? {} : { image }) }];
  });
  const cdroms = planCdroms(s, m, changes);
  const nics = s.nics.flatMap((n) => planNic(n, linux, c, changes, m.unmapped));
  leftOut(s, changes);
  const stage = m.stages.findIndex((x) => x.vms.includes(name));
  const after = stage < 1 ? [] : (m.stages[stage - 1]?.vms ?? []).slice(0, afterMax);
  const tells = s.transports.length > 0 || p.properties.some((x) => x.owner === s.id);
  const environment = tells ? environmentOf(p, s) : null;
  if (environment !== null && environment.length > environmentCharsMax)
    refuse(
      `its properties are too long: ${environment.length} characters, at most ${environmentCharsMax} are told`,
    );
  return {
    system: s.id,
    body: {
      name,
      note: s.annotation.slice(0, noteCharsMax),
      tags: [c.tag],
      cpus: atLeast(s.cpus, 1, 'CPUs', changes),
      memoryMiB: atLeast(s.memoryMiB, s.memoryMiB === null ? 1024 : memoryMiBMin, 'MiB of memory', changes),
      firmware: s.firmware,
      disks,
      cdroms,
      nics,
      ...(environment === null ? {} : { cloudInit: { ...cloudInitOf(p, s), ovfEnvironment: environment } }),
      ...(after.length === 0 ? {} : { ha: { after } }),
      ...(c.node === undefined ? {} : { node: c.node }),
    },
    changes,
  };
}

/**
 * What images with cloud-init ask for as properties, told as they would be told by NoCloud: a guest that finds our seed
 * does not look at the OVF environment on it.
 *
 * @see cloud-init docs, datasource OVF
 */
function cloudInitOf(p: OvfPackage, s: OvfSystem): NonNullable<VmCreateInput['cloudInit']> {
  const value = (key: string): string => {
    const property = p.properties.find((x) => x.owner === s.id && x.id === key);
    return (property === undefined ? undefined : p.values.get(property)?.trim()) ?? '';
  };
  const hostname = value('hostname');
  const keys = value('public-keys')
    .split('\n')
    .filter((k) => k !== '');
  const userData = unpacked(value('user-data'));
  return {
    ...(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i.test(hostname) ? { hostname } : {}),
    ...(keys.length === 0 ? {} : { sshKeys: keys }),
    ...(userData === '' ? {} : { userData }),
  };
}

/** Such user data comes in base64, but not always. */
function unpacked(text: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(
      Uint8Array.from(atob(text), (c) => c.charCodeAt(0)),
    );
  } catch {
    return text;
  }
}

const sector = 512;
const wholeSectors = (bytes: number): number => Math.ceil(bytes / sector) * sector;

function atLeast(said: number | null, least: number, what: string, changes: string[]): number {
  if (said !== null && said >= least) return said;
  changes.push(`${said === null ? 'nothing is said of' : said} ${what}: ${least} are given`);
  return least;
}

/** CIM's numbers of systems that are Linux. @see CIM_OperatingSystem.OSType */
const linuxIds = new Set([
  36, 79, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99,
]);
const moreLinuxIds = new Set([100, 101, 106, 107, 108, 109]);

function isLinux(s: OvfSystem): boolean {
  if (s.os === null) return false;
  const said = `${s.os.type ?? ''} ${s.os.description}`;
  if (/windows|win\d|solaris|bsd|darwin|mac ?os|dos|netware/i.test(said)) return false;
  return (
    (s.os.id !== null && (linuxIds.has(s.os.id) || moreLinuxIds.has(s.os.id))) ||
    /linux|debian|ubuntu|rhel|red ?hat|centos|suse|sles|fedora|photon|coreos|alma|rocky|amazon/i.test(said)
  );
}

function busOf(d: OvfSystemDisk, linux: boolean, changes: string[]): 'virtio' | 'scsi' | 'sata' {
  const bus =
    d.bus === 'virtio' || (d.bus === 'scsi' && /virtio/i.test(d.controller ?? ''))
      ? d.bus
      : !linux
        ? 'sata'
        : d.bus === 'scsi'
          ? 'scsi'
          : d.bus === 'nvme' || d.bus === 'unknown'
            ? 'virtio'
            : 'sata';
  const had = d.controller ?? d.bus;
  const has = bus === 'scsi' ? 'virtio-scsi' : bus;
  if (had.toLowerCase() !== has && d.bus !== bus) changes.push(`disk "${d.name}": ${had} becomes ${has}`);
  else if (bus === 'scsi' && !/virtio/i.test(had))
    changes.push(`disk "${d.name}": ${had} becomes virtio-scsi`);
  return bus;
}

function planCdroms(s: OvfSystem, m: Making, changes: string[]): { image: string | null }[] {
  const all = s.drives.filter((d) => d.kind === 'cdrom');
  if (all.length > cdromsMax) changes.push(`${all.length - cdromsMax} CD drives are left out`);
  return all
    .slice(0, cdromsMax)
    .map((d) => ({ image: d.file === null ? null : (m.images.get(d.file)?.name ?? null) }));
}

function planNic(
  n: OvfNic,
  linux: boolean,
  c: ImportChoices,
  changes: string[],
  unmapped: Set<string>,
): NonNullable<VmCreateInput['nics']> {
  const network = n.network === null ? null : c.networks.get(n.network);
  if (network === undefined) {
    unmapped.add(n.network ?? '');
    return [];
  }
  if (network === null) {
    changes.push(`${n.name} is left out: it is on no network`);
    return [];
  }
  const model = n.model === 'virtio' || (linux && /^vmxnet/.test(n.model ?? '')) ? 'virtio' : 'e1000e';
  if (n.model !== model) changes.push(`${n.name}: ${n.model ?? 'no model'} becomes ${model}`);
  if (n.mac !== null) changes.push(`${n.name}: it gets a MAC address of the cluster`);
  return [{ network, model }];
}

/** Hardware that guests do without and that nobody misses. */
const unmissed = /graphics|USB|sound|parallel|serial|I\/O|other|FireWire/;

function leftOut(s: OvfSystem, changes: string[]): void {
  if (s.tpm) changes.push('its TPM is left out: what is sealed in one does not come along');
  if (s.secureBoot) changes.push('secure boot is off');
  if (s.drives.some((d) => d.kind === 'floppy')) changes.push('its floppy drive is left out');
  for (const o of s.others)
    if (o.required && !unmissed.test(o.type)) changes.push(`${o.name} (${o.type}) is left out`);
  if (s.cpuAllocation !== null || s.memoryAllocation !== null)
    changes.push('reservations, limits and shares are left out');
}

/** Starts one after the other, collections within theirs; what is not named starts first, with no order. */
function planStages(p: OvfPackage, names: ReadonlyMap<string, string>): Stage[] {
  const of = (collection: string | null): Stage[] => {
    const members = [...p.systems, ...p.collections].filter((m) => m.collection === collection);
    const items = p.startOrder.filter((s) => s.collection === collection);
    const orders = members.map((m) => {
      const item = items.find((i) => i.id === m.id);
      return { id: m.id, order: item?.order ?? 0, item };
    });
    const steps = [...new Set(orders.map((o) => o.order))].sort((a, b) => a - b);
    return steps.flatMap((step) => {
      const here = orders.filter((o) => o.order === step && o.item?.startAction !== 'none');
      const vms = here.flatMap((o) => names.get(o.id) ?? []);
      const inner = here.flatMap((o) => (names.has(o.id) ? [] : of(o.id)));
      const waitForGuest = here.some((o) => o.item?.waitForGuest === true);
      const delayS = Math.max(0, ...here.map((o) => o.item?.startDelayS ?? 0));
      const own = vms.length === 0 ? [] : [{ vms, waitForGuest, delayS }];
      return [...own, ...inner];
    });
  };
  return of(null);
}
