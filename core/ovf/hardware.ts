import type {
  OvfAllocation,
  OvfBus,
  OvfController,
  OvfDisk,
  OvfDrive,
  OvfFile,
  OvfHardware,
  OvfNetwork,
  OvfNic,
  OvfOther,
  OvfSystemDisk,
} from './model.js';
import { unitBytes } from './units.js';
import {
  anyAttribute,
  attribute,
  booleanOf,
  children,
  isOvf,
  shown,
  textOf,
  type Reading,
  type XmlElement,
} from './xml.js';

/** What hardware refers to. */
export interface Surroundings {
  readonly files: ReadonlyMap<string, OvfFile>;
  readonly disks: ReadonlyMap<string, OvfDisk>;
  readonly networks: ReadonlyMap<string, OvfNetwork>;
  /** The deployment option that holds; null: none. */
  readonly configuration: string | null;
  readonly configurations: ReadonlySet<string>;
}

/** One virtual device, its fields by their CIM names; several of a name in the order written. */
interface Item {
  readonly at: XmlElement;
  readonly instance: string;
  readonly type: number;
  readonly required: boolean;
  readonly configurations: readonly string[];
  readonly fields: ReadonlyMap<string, readonly string[]>;
}

/** Fields that are read, in the case that CIM gives them: not all writers do. */
const fieldNames = new Map(
  [
    'Address',
    'AddressOnParent',
    'AllocationUnits',
    'Connection',
    'CoresPerSocket',
    'Description',
    'DiskInterface',
    'ElementName',
    'HostResource',
    'InstanceID',
    'Limit',
    'Parent',
    'Reservation',
    'ResourceSubType',
    'ResourceType',
    'VirtualQuantity',
    'VirtualQuantityUnits',
    'Weight',
  ].map((name) => [name.toLowerCase(), name]),
);

/** As most writers write them: there are many thousands in a large descriptor. */
const exactNames = new Set(fieldNames.values());

/** All that CIM has: what of it we do not read says nothing of how a machine is. */
const cimNames = new Set([
  ...exactNames,
  'AutomaticAllocation',
  'AutomaticDeallocation',
  'BusNumber',
  'Caption',
  'ChangeableType',
  'ConfigurationName',
  'ConsumerVisibility',
  'Generation',
  'MappingBehavior',
  'OtherResourceType',
  'PoolID',
]);

/** Names that drafts and products use for CIM's. */
const aliases = new Map([
  ['caption', 'ElementName'],
  ['name', 'ElementName'],
  ['macaddress', 'Address'],
]);

const isNamed = (e: XmlElement, field: string): boolean => e.name.toLowerCase() === field.toLowerCase();

/** A field by the name that CIM gives it, and whether it was written by another one. */
function fieldOf(written: string): { readonly name: string; readonly alias: boolean } {
  if (exactNames.has(written)) return { name: written, alias: false };
  const said = written.toLowerCase();
  const alias = aliases.get(said);
  return { name: alias ?? fieldNames.get(said) ?? written, alias: alias !== undefined };
}

/** CIM's numbers of kinds of resources. @see CIM_ResourceAllocationSettingData.ResourceType */
const kinds: Readonly<Record<number, string>> = {
  1: 'other',
  3: 'processor',
  4: 'memory',
  5: 'IDE controller',
  6: 'SCSI controller',
  7: 'fibre channel adapter',
  8: 'iSCSI adapter',
  9: 'InfiniBand adapter',
  10: 'network adapter',
  11: 'network adapter',
  12: 'I/O slot',
  13: 'I/O device',
  14: 'floppy drive',
  15: 'CD drive',
  16: 'DVD drive',
  17: 'disk',
  18: 'tape drive',
  19: 'storage extent',
  20: 'storage controller',
  21: 'serial port',
  22: 'parallel port',
  23: 'USB controller',
  24: 'graphics',
  25: 'FireWire controller',
  31: 'disk',
  35: 'sound card',
};

const itemNames = new Set(['Item', 'StorageItem', 'EthernetPortItem', 'ProcessorItem', 'MemoryItem']);

/**
 * Reads one `VirtualHardwareSection`.
 *
 * @param system - it stands in: makers write beside it what OVF has no word for
 */
export function readHardware(
  r: Reading,
  section: XmlElement,
  system: XmlElement,
  s: Surroundings,
): OvfHardware {
  const items = chosen(r, readItems(r, section, s), s);
  const of = (...types: number[]): Item[] => items.filter((i) => types.includes(i.type));
  const isNic = (i: Item): boolean => i.at.name === 'EthernetPortItem' || [10, 11, 33].includes(i.type);
  // Some products call them storage extents or volumes.
  const isDisk = (i: Item): boolean =>
    [17, 31].includes(i.type) || (resource(i)?.kind === 'disk' && ![14, 15, 16].includes(i.type));
  const controllers = new Map<string, OvfController>();
  for (const i of of(1, 5, 6, 7, 8, 20, 23)) {
    const bus = busOf(i);
    if (bus !== null) controllers.set(i.instance, { instance: i.instance, bus, model: model(i) });
  }
  const plug = plugs(r, controllers);
  const drives = of(14, 15, 16).map((i) => ({
    kind: i.type === 14 ? ('floppy' as const) : ('cdrom' as const),
    ...plug(i),
    file: medium(r, i, s),
  }));
  const config = makerConfig(section);
  const vbox = vboxHardware(system);
  const handled = new Set<Item>([...of(3, 4, 14, 15, 16), ...items.filter(isDisk), ...items.filter(isNic)]);
  const others = items.filter((i) => !handled.has(i) && !controllers.has(i.instance) && !isTpm(i));
  return {
    families: familiesOf(section),
    ...readCpu(r, of(3)),
    ...readMemory(r, of(4)),
    firmware: firmwareOf(system, vbox, config),
    secureBoot: booleanOf(config.get('bootOptions.efiSecureBootEnabled') ?? '') === true,
    tpm: items.some(isTpm) || hasVboxTpm(vbox),
    transports: (attribute(section, 'transport') ?? '').split(/[\s,]+/).filter((t) => t !== ''),
    controllers: [...controllers.values()],
    disks: items.filter(isDisk).map((i) => readDisk(r, i, s, plug)),
    drives: drives satisfies OvfDrive[],
    nics: items.filter(isNic).flatMap((i) => readNics(r, i, s)),
    others: others.map(readOther),
  };
}

/** Every field of a device keeps at most this text: they are names and numbers. */
const fieldCharsMax = 4096;

function readItems(r: Reading, section: XmlElement, s: Surroundings): Item[] {
  return section.children
    .filter((e) => isOvf(e) && itemNames.has(e.name))
    .flatMap((at) => {
      const fields = new Map<string, string[]>();
      for (const c of at.children) {
        const { name, alias } = fieldOf(c.name);
        if (c.attributes.length > 0 && !cimNames.has(name) && r.flag(c, 'required', false))
          throw r.refuse(
            c,
            `the field <${shown(c.name)}> of a device is required, and Flotilla does not know it`,
            'The package says that it cannot be used without this. If you know better, set ovf:required="false" there.',
          );
        const text = textOf(c).slice(0, fieldCharsMax);
        if (text === '') continue;
        // The one name of a field goes before those of drafts.
        if (alias && at.children.some((o) => isNamed(o, name) && textOf(o) !== '')) continue;
        const list = fields.get(name);
        if (list === undefined) fields.set(name, [text]);
        else list.push(text);
      }
      const item = readItem(r, at, fields, s);
      return item === null ? [] : [item];
    });
}

function readItem(
  r: Reading,
  at: XmlElement,
  fields: ReadonlyMap<string, readonly string[]>,
  s: Surroundings,
): Item | null {
  const written = fields.get('ResourceType')?.[0];
  if (written === undefined) {
    throw r.refuse(
      at,
      'a device has no ResourceType',
      'Nobody can tell what it is: ask for a whole package.',
    );
  }
  const configurations = wordsOf(attribute(at, 'configuration'));
  for (const c of configurations)
    if (!s.configurations.has(c)) r.warn(at, `there is no deployment option "${shown(c)}"`);
  const bound = attribute(at, 'bound');
  // Bounds of what may be chosen; the normal value stands in an item of its own.
  if (bound !== null && bound !== 'normal') {
    if (bound !== 'min' && bound !== 'max')
      throw r.refuse(at, `bound="${shown(bound)}" is none of min, max, normal`, 'Correct it.');
    return null;
  }
  const instance = fields.get('InstanceID')?.[0];
  if (instance === undefined) r.warn(at, 'a device has no InstanceID');
  return {
    at,
    instance: instance ?? '',
    type: r.number(at, 'ResourceType', written),
    required: r.flag(at, 'required', true),
    configurations,
    fields,
  };
}

export const wordsOf = (text: string | null): string[] => (text ?? '').split(/\s+/).filter((w) => w !== '');

/** The devices of the deployment option: what is written for it goes before what holds always. */
function chosen(r: Reading, items: readonly Item[], s: Surroundings): Item[] {
  const holds = items.filter(
    (i) =>
      i.configurations.length === 0 ||
      (s.configuration !== null && i.configurations.includes(s.configuration)),
  );
  const special = new Set(holds.filter((i) => i.configurations.length > 0).map((i) => i.instance));
  const kept = holds.filter((i) => i.configurations.length > 0 || !special.has(i.instance));
  const seen = new Set<string>();
  for (const i of kept) {
    if (i.instance !== '' && seen.has(i.instance) && i.type !== 3)
      r.warn(i.at, `InstanceID ${shown(i.instance)} is there twice: both devices are taken`);
    seen.add(i.instance);
  }
  return kept;
}

const field = (i: Item, name: string): string | null => i.fields.get(name)?.[0] ?? null;

/** Alternatives stand side by side, the best one first. */
const model = (i: Item): string | null => {
  const all = (i.fields.get('ResourceSubType') ?? []).flatMap((t) => t.split(/[\s,;]+/)).filter(Boolean);
  return all.find((m) => knownModel.test(m)) ?? all[0] ?? null;
};
const knownModel =
  /^(?:lsilogic(?:sas)?|buslogic|virtualscsi|pvscsi|virtio.*|ahci|piix\d|ich\d|nvme|e1000e?|vmxnet[23]?|pcnet32|vmware\..*)$/i;

const nameOf = (i: Item): string =>
  field(i, 'ElementName') ?? field(i, 'Description') ?? kinds[i.type] ?? `device ${i.instance}`;

const isTpm = (i: Item): boolean =>
  (i.type === 1 || i.type === 34) && /tpm/i.test(`${field(i, 'ResourceSubType') ?? ''} ${nameOf(i)}`);

/** @returns null: it is no controller of drives */
function busOf(i: Item): OvfBus | null {
  const m = (field(i, 'ResourceSubType') ?? '').toLowerCase();
  switch (i.type) {
    case 5:
      return /ahci|sata/.test(m) ? 'sata' : 'ide';
    case 6:
    case 7:
    case 8:
      return /nvme/.test(m) ? 'nvme' : 'scsi';
    case 20: {
      const all = `${m} ${nameOf(i)} ${field(i, 'Description') ?? ''}`.toLowerCase();
      if (all.includes('nvme')) return 'nvme';
      if (/sata|ahci/.test(all)) return 'sata';
      if (all.includes('scsi')) return 'scsi';
      if (all.includes('virtio')) return 'virtio';
      return /graphic|video|monitor|vga|qxl/.test(all) ? null : 'unknown';
    }
    case 1:
      return /nvme\.controller|nvmecontroller/.test(m) ? 'nvme' : null;
    default:
      return null;
  }
}

type Plugged = { name: string; bus: OvfBus; controller: string | null; unit: number | null };

function plugs(r: Reading, controllers: ReadonlyMap<string, OvfController>): (i: Item) => Plugged {
  return (i) => {
    const parent = field(i, 'Parent');
    const controller = parent === null ? undefined : controllers.get(parent);
    if (parent !== null && controller === undefined && i.type !== 14 && /^\d+$/.test(parent))
      r.warn(i.at, `"${shown(nameOf(i))}" is on controller ${shown(parent)}, which there is not`);
    const unit = field(i, 'AddressOnParent');
    const direct = (field(i, 'DiskInterface') ?? field(i, 'ResourceSubType') ?? '').toLowerCase();
    return {
      name: nameOf(i),
      bus: controller?.bus ?? directBus(direct),
      controller: controller?.model ?? null,
      unit: unit !== null && /^\d{1,9}$/.test(unit) ? Number(unit) : null,
    };
  };
}

/** A drive without a controller says itself what it hangs on. */
function directBus(word: string): OvfBus {
  if (word.includes('virtio')) return word.includes('scsi') ? 'scsi' : 'virtio';
  for (const bus of ['sata', 'scsi', 'nvme', 'ide', 'usb'] as const) if (word.includes(bus)) return bus;
  return 'unknown';
}

/** What a device's `HostResource` names: `ovf:/disk/ID`, `/disk/ID`, `ovf:/file/ID`, or in drafts the bare id. */
function resource(i: Item): { kind: 'disk' | 'file' | 'bare'; id: string } | null {
  const text = field(i, 'HostResource');
  if (text === null) return null;
  const m = /^(?:ovf:)?\/{0,2}(disk|file)\/(.+)$/.exec(text);
  if (m === null) return { kind: 'bare', id: text };
  return { kind: m[1] as 'disk' | 'file', id: m[2] ?? '' };
}

function readDisk(r: Reading, i: Item, s: Surroundings, plug: (i: Item) => Plugged): OvfSystemDisk {
  const ref = resource(i);
  const disk =
    ref === null
      ? undefined
      : (s.disks.get(ref.id) ??
        (ref.kind === 'bare'
          ? [...s.disks.values()].find((d) => ref.id === d.file || s.files.get(d.file ?? '')?.href === ref.id)
          : undefined));
  if (ref?.kind === 'disk' && disk === undefined)
    throw r.refuse(
      i.at,
      `"${shown(nameOf(i))}" refers to disk "${shown(ref.id)}", which there is not`,
      'The disk is missing in the DiskSection: ask for a whole package.',
    );
  const file = ref?.kind === 'file' ? fileOf(r, i, ref.id, s) : null;
  if (disk === undefined && file === null) r.warn(i.at, `"${shown(nameOf(i))}" has no disk in the package`);
  return {
    ...plug(i),
    disk: disk?.id ?? null,
    capacityBytes: disk?.capacityBytes ?? null,
    file: disk?.file ?? file,
  };
}

function fileOf(r: Reading, i: Item, id: string, s: Surroundings): string {
  if (s.files.has(id)) return id;
  throw r.refuse(
    i.at,
    `"${shown(nameOf(i))}" refers to file "${shown(id)}", which is not among the References`,
    'Ask for a whole package.',
  );
}

/** The medium of a CD or floppy drive: a file, or by way of a disk. */
function medium(r: Reading, i: Item, s: Surroundings): string | null {
  const ref = resource(i);
  if (ref === null) return null;
  if (ref.kind === 'file') return fileOf(r, i, ref.id, s);
  const disk = s.disks.get(ref.id);
  if (disk !== undefined) return disk.file;
  r.warn(i.at, `the medium "${shown(ref.id)}" of "${shown(nameOf(i))}" is not in the package`);
  return null;
}

function readNics(r: Reading, i: Item, s: Surroundings): OvfNic[] {
  const address = field(i, 'Address');
  const nic = {
    name: nameOf(i),
    model: nicModel(i),
    mac:
      address !== null && /^[0-9a-f]{2}([:-][0-9a-f]{2}){5}$/i.test(address) ? address.toLowerCase() : null,
  };
  const networks = (i.fields.get('Connection') ?? []).flatMap((c) => c.split('\n').map((n) => n.trim()));
  for (const n of networks)
    if (!s.networks.has(n))
      r.warn(i.at, `"${shown(nic.name)}" is on network "${shown(n)}", which no NetworkSection describes`);
  // A device that names several networks stands for one in each.
  const count = quantity(i) ?? 1;
  if (networks.length > 1) return networks.map((network) => ({ ...nic, network }));
  const one = { ...nic, network: networks[0] ?? null };
  return Number.isInteger(count) && count > 1 && count <= 64
    ? Array.from({ length: count }, () => one)
    : [one];
}

/** oVirt's numbers of NIC models. */
const numbered: Readonly<Record<string, string>> = {
  '1': 'rtl8139',
  '2': 'e1000',
  '3': 'virtio',
  '4': 'spapr-vlan',
};

function nicModel(i: Item): string | null {
  const m = model(i)?.toLowerCase() ?? null;
  if (m !== null) return numbered[m] ?? m;
  const said = /\b(e1000e?|vmxnet ?[23]?|pcnet32|virtio|rtl8139)\b/i.exec(field(i, 'Description') ?? '');
  return said === null ? null : (said[1] ?? '').toLowerCase().replace(' ', '');
}

const readOther = (i: Item): OvfOther => ({
  name: nameOf(i),
  type: kinds[i.type] ?? `resource type ${i.type}`,
  model: model(i),
  required: i.required,
});

const quantity = (i: Item): number | null => {
  const text = field(i, 'VirtualQuantity');
  if (text === null || !/^\d{1,16}$/.test(text)) return null;
  return Number(text);
};

/** Whole numbers only, and no guess where something else stands. */
function quantityOf(r: Reading, i: Item): number | null {
  const text = field(i, 'VirtualQuantity');
  return text === null ? null : r.number(i.at, 'VirtualQuantity', text);
}

function readCpu(
  r: Reading,
  items: readonly Item[],
): Pick<OvfHardware, 'cpus' | 'coresPerSocket' | 'cpuAllocation'> {
  // An item may speak of the speed alone.
  const counted = items.filter(
    (i) => field(i, 'VirtualQuantity') !== null || field(i, 'num_of_sockets') !== null,
  );
  const counts = (counted.length > 0 ? counted : items.slice(0, 1)).map((i) => {
    const sockets = field(i, 'num_of_sockets');
    const perSocket = field(i, 'cpu_per_socket') ?? '1';
    const threads = field(i, 'threads_per_cpu') ?? '1';
    if (sockets !== null)
      return [sockets, perSocket, threads].reduce((n, t) => n * r.number(i.at, 'the CPU count', t), 1);
    const n = quantityOf(r, i);
    if (n === null) r.warn(i.at, 'a processor without VirtualQuantity counts as one');
    if (n === 0) throw r.refuse(i.at, 'a system has 0 CPUs', 'It needs one at least.');
    return n ?? 1;
  });
  const first = items[0];
  const cores =
    first === undefined ? null : (field(first, 'CoresPerSocket') ?? field(first, 'cpu_per_socket'));
  return {
    cpus: counts.length === 0 ? null : counts.reduce((a, b) => a + b, 0),
    coresPerSocket: cores !== null && /^\d{1,4}$/.test(cores) ? Number(cores) : null,
    cpuAllocation: items.map((i) => allocation(i, 1)).find((a) => a !== null) ?? null,
  };
}

function readMemory(r: Reading, items: readonly Item[]): Pick<OvfHardware, 'memoryMiB' | 'memoryAllocation'> {
  let total: number | null = null;
  for (const i of items) {
    const n = quantityOf(r, i);
    if (n === null) {
      r.warn(i.at, 'memory without VirtualQuantity is passed over');
      continue;
    }
    const bytes = n * memoryUnit(r, i, n);
    if (!Number.isSafeInteger(bytes) || bytes === 0)
      throw r.refuse(i.at, `a system has ${bytes === 0 ? 'no' : 'impossibly much'} memory`, 'Correct it.');
    total = (total ?? 0) + bytes;
  }
  const first = items[0];
  return {
    memoryMiB: total === null ? null : Math.ceil(total / MiB),
    memoryAllocation: first === undefined ? null : memoryAllocation(first),
  };
}

const KiB = 1024;
const MiB = 1024 * KiB;

/** Bytes of one unit. Without a word it is bytes by the letter, and with products that forget it what makes sense. */
function memoryUnit(r: Reading, i: Item, n: number): number {
  const text = field(i, 'AllocationUnits') ?? field(i, 'VirtualQuantityUnits');
  if (text !== null) {
    const unit = unitBytes(text);
    if (unit !== null) return unit;
    throw r.refuse(
      i.at,
      `the memory's unit "${shown(text)}" is none`,
      'Write AllocationUnits like "byte * 2^20" or "MegaBytes".',
    );
  }
  const unit = n < MiB ? MiB : n < 32 * MiB ? KiB : 1;
  r.warn(i.at, `memory without a unit: read as ${unit === MiB ? 'MiB' : unit === KiB ? 'KiB' : 'bytes'}`);
  return unit;
}

const memoryAllocation = (i: Item): OvfAllocation | null =>
  allocation(i, (unitBytes(field(i, 'AllocationUnits') ?? 'byte') ?? 1) / MiB);

/** @param factor - of one unit, to MHz or MiB */
function allocation(i: Item, factor: number): OvfAllocation | null {
  const read = (name: string): number | null => {
    const text = field(i, name);
    return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : null;
  };
  const scaled = (n: number | null): number | null => (n === null ? null : Math.ceil(n * factor));
  const a = {
    reservation: scaled(read('Reservation')),
    limit: scaled(read('Limit')),
    weight: read('Weight'),
  };
  return a.reservation === null && a.limit === null && a.weight === null ? null : a;
}

/** What a `ResourceAllocationSection` promises and bounds. */
export function readAllocations(
  r: Reading,
  section: XmlElement,
  s: Surroundings,
): { cpuAllocation: OvfAllocation | null; memoryAllocation: OvfAllocation | null } {
  const items = chosen(r, readItems(r, section, s), s);
  const cpu = items.find((i) => i.type === 3);
  const memory = items.find((i) => i.type === 4);
  return {
    cpuAllocation: cpu === undefined ? null : allocation(cpu, 1),
    memoryAllocation: memory === undefined ? null : memoryAllocation(memory),
  };
}

function familiesOf(section: XmlElement): string[] {
  return children(section, 'System')
    .flatMap((system) => system.children.filter((c) => c.name === 'VirtualSystemType'))
    .flatMap((t) => textOf(t).split(/[\s,]+/))
    .filter((t) => t !== '');
}

/** VMware's settings beside the devices: `<vmw:Config vmw:key="firmware" vmw:value="efi"/>`. */
function makerConfig(section: XmlElement): ReadonlyMap<string, string> {
  const out = new Map<string, string>();
  for (const c of section.children) {
    if (c.name !== 'Config' && c.name !== 'ExtraConfig') continue;
    const key = anyAttribute(c, 'key');
    if (key !== null) out.set(key, anyAttribute(c, 'value') ?? '');
  }
  return out;
}

/** VirtualBox puts its own description of the machine beside the hardware. */
function vboxHardware(system: XmlElement): readonly XmlElement[] {
  return system.children
    .filter((e) => e.name === 'Machine')
    .flatMap((m) => m.children.filter((c) => c.name === 'Hardware'))
    .flatMap((h) => h.children);
}

/** oVirt's numbers of firmware that is UEFI, the second with secure boot. */
const ovirtUefi = new Set(['3', '4']);

function firmwareOf(
  system: XmlElement,
  vbox: readonly XmlElement[],
  config: ReadonlyMap<string, string>,
): 'bios' | 'uefi' {
  const ovirt = system.children.find((c) => c.name === 'BiosType');
  if (ovirt !== undefined && ovirtUefi.has(textOf(ovirt))) return 'uefi';
  const inVbox = vbox.find((e) => e.name === 'Firmware');
  const said = config.get('firmware') ?? (inVbox === undefined ? null : anyAttribute(inVbox, 'type')) ?? '';
  return /efi/i.test(said) ? 'uefi' : 'bios';
}

const hasVboxTpm = (vbox: readonly XmlElement[]): boolean =>
  vbox.some((e) => e.name === 'TrustedPlatformModule' && !/^(?:none)?$/i.test(anyAttribute(e, 'type') ?? ''));
