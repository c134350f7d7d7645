import { XMLBuilder, XMLParser } from 'fast-xml-parser';
import type { Accel } from '../../core/domain/node.js';
import type { Hardware, HardwareDisk, HardwareNic } from '../../core/domain/hardware.js';
import type { DiskInMachine } from '../../core/decide/disk-move.js';
import type { DomainMark } from '../../core/decide/vm-view.js';
import { FlotillaError } from '../../core/domain/error.js';
import { cpuSharesDefault } from '../../core/domain/service-class.js';

/** What a domain is made from. */
export interface DomainPlan {
  readonly id: string;
  readonly name: string;
  readonly hardware: Hardware;
  readonly accel: Accel;
  readonly mark: DomainMark;
  readonly paths: DomainPaths;
  /** Begun with HA: in the slice that the keeper freezes as a whole. */
  readonly inSlice: boolean;
  /** Run by the QEMU that can give it a twin, and not by libvirt. */
  readonly lockstep?: boolean;
}

/** Where the domain's sockets and log are, on this node. */
export interface DomainPaths {
  readonly serial: string;
  readonly vnc: string;
  readonly serialLog: string;
}

/** What is read back from a domain's XML. */
export interface DomainFacts {
  readonly mark: DomainMark | null;
  readonly hardware: Hardware;
  /** The guest agent's channel is open at the guest's end. Only known of a running domain. */
  readonly agentConnected: boolean;
}

/** Name space of {@link DomainMark} in a domain's metadata. */
export const markUri = 'urn:flotilla:vm:1';
/** libvirt's name of the slice `machine-ha.slice`. @see docs/ha.md */
const haPartition = '/machine/ha';
/** Empty PCIe slots given to each machine for devices plugged later. */
const spareSlots = 6;
/** TCG's translation cache, MiB. Without a bound each guest may take 1 GiB of the node. */
const tbCacheMiB = 128;

const builder = new XMLBuilder({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  suppressEmptyNode: true,
  format: true,
});
const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseTagValue: false,
  parseAttributeValue: false,
  isArray: (name) => ['disk', 'interface', 'channel', 'controller'].includes(name),
});

type Node = Record<string, unknown>;

const letters = 'abcdefghijklmnopqrstuvwxyz';
/** `sda`..`sdz`, `sdaa`... */
const target = (prefix: string, n: number): string =>
  prefix + (n < 26 ? '' : (letters[Math.floor(n / 26) - 1] ?? '')) + (letters[n % 26] ?? '');

const alias = (kind: string, id: string): Node => ({ '@name': `ua-${kind}-${id}` });

/** Whether what lies there is a device: QEMU refuses one that is called a file. */
export const isDevice = (path: string): boolean => path.startsWith('/dev/');

function diskNode(disk: HardwareDisk, dev: string, order: number | null, bytes: number | null = null): Node {
  const block = isDevice(disk.path);
  const part =
    bytes === null
      ? {}
      : { slices: { slice: { '@type': 'storage', '@offset': '0', '@size': String(bytes) } } };
  return {
    '@type': block ? 'block' : 'file',
    '@device': 'disk',
    driver: { '@name': 'qemu', '@type': disk.format, '@cache': 'none', '@io': 'native', '@discard': 'unmap' },
    source: block ? { '@dev': disk.path, ...part } : { '@file': disk.path },
    target: { '@dev': dev, '@bus': disk.bus },
    ...(order === null ? {} : { boot: { '@order': String(order) } }),
    alias: alias('disk', disk.id),
  };
}

function cdromNode(path: string | null, dev: string, aliasNode: Node, order: number | null): Node {
  return {
    '@type': 'file',
    '@device': 'cdrom',
    driver: { '@name': 'qemu', '@type': 'raw' },
    ...(path === null ? {} : { source: { '@file': path } }),
    target: { '@dev': dev, '@bus': 'sata' },
    readonly: {},
    ...(order === null ? {} : { boot: { '@order': String(order) } }),
    alias: aliasNode,
  };
}

function nicNode(nic: HardwareNic, order: number | null): Node {
  return {
    '@type': 'bridge',
    mac: { '@address': nic.mac },
    source: { '@bridge': nic.bridge },
    model: { '@type': nic.model },
    ...(order === null ? {} : { boot: { '@order': String(order) } }),
    alias: alias('nic', nic.id),
  };
}

/** A running domain's XML as its copy on another node is to have it: marked as one that nobody has taken in yet. */
export function incomingXml(xml: string): string {
  const marked = xml.replace(/<f:vm (?![^>]*incoming=)/, "<f:vm incoming='1' ");
  if (marked !== xml) return marked;
  throw new FlotillaError(
    'hypervisor-error',
    'The running machine has no mark of Flotilla, or one of a copy',
    {
      hint: 'Look at it with "virsh dumpxml" on its node.',
    },
  );
}

/** The mark as libvirt's metadata calls take it. */
export const markXml = (mark: DomainMark, boot: Hardware['boot']): string =>
  `<vm gen='${mark.gen}' generation='${mark.generation}' started='${mark.startedMs}' boot='${boot.join(' ')}'/>`;

const textOf = (nodes: Node): string => String(builder.build(nodes));

/**
 * One disk's device, for plugging. `dev` must be free in the machine.
 *
 * @param bytes - of a device that is larger: the machine sees so much of it; null: all of it
 */
export const diskXml = (disk: HardwareDisk, dev: string, bytes: number | null = null): string =>
  textOf({ disk: diskNode(disk, dev, null, bytes) });
export const nicXml = (nic: HardwareNic): string => textOf({ interface: nicNode(nic, null) });
/** A CD drive with another ISO in it, for `updateDevice`. `offset`: SATA disks stand before the CD drives. */
export const cdromXml = (path: string | null, index: number, sataDisks: number): string =>
  textOf({ disk: cdromNode(path, target('sd', sataDisks + index), alias('cdrom', String(index)), null) });

/** Targets given to the disks of a machine, in order: `vda` for virtio, `sda` for the others. */
export function targets(disks: readonly HardwareDisk[]): Map<string, string> {
  const out = new Map<string, string>();
  let v = 0;
  let s = 0;
  for (const d of disks) if (d.bus === 'sata') out.set(d.id, target('sd', s++));
  // CD drives follow the SATA disks on their bus; SCSI disks start behind the room for them.
  s += cdRoom;
  for (const d of disks) {
    if (d.bus === 'virtio') out.set(d.id, target('vd', v++));
    if (d.bus === 'scsi') out.set(d.id, target('sd', s++));
  }
  return out;
}
/** The target of a disk in the XML of a machine, as `ua-disk-<id>` is its alias; null: it has no such disk. */
export function targetIn(xml: string, alias: string): string | null {
  for (const m of xml.matchAll(/<disk .*?<\/disk>/gs)) {
    if (m[0].includes(`<alias name='${alias}'/>`)) return /<target dev='([a-z]+)'/.exec(m[0])?.[1] ?? null;
  }
  return null;
}

/** Names kept for the four CD drives and the seed. */
const cdRoom = 5;

/** The whole domain, but for its part of the CPU: that is set as soon as it runs, so that no start fails for it. */
export function domainXml(plan: DomainPlan): string {
  const h = plan.hardware;
  const kvm = plan.accel === 'kvm';
  let order = 0;
  const orders = new Map<string, number>();
  for (const group of h.boot) {
    if (group === 'disk') for (const d of h.disks) orders.set(d.id, ++order);
    if (group === 'cdrom') h.cdroms.forEach((_, i) => orders.set(`cdrom-${i}`, ++order));
    if (group === 'network') for (const n of h.nics) orders.set(n.id, ++order);
  }
  const orderOf = (key: string): number | null => orders.get(key) ?? null;
  const dev = targets(h.disks);
  const sata = h.disks.filter((d) => d.bus === 'sata').length;
  const disks: Node[] = h.disks.map((d) => diskNode(d, dev.get(d.id) ?? '', orderOf(d.id)));
  h.cdroms.forEach((path, i) =>
    disks.push(cdromNode(path, target('sd', sata + i), alias('cdrom', String(i)), orderOf(`cdrom-${i}`))),
  );
  if (h.seed !== null)
    disks.push(cdromNode(h.seed, target('sd', sata + cdRoom - 1), alias('seed', '0'), null));

  const domain: Node = {
    '@type': kvm ? 'kvm' : 'qemu',
    name: plan.id,
    uuid: plan.id,
    title: plan.name,
    metadata: {
      'f:vm': {
        '@xmlns:f': markUri,
        '@gen': String(plan.mark.gen),
        '@generation': String(plan.mark.generation),
        '@started': String(plan.mark.startedMs),
        '@boot': h.boot.join(' '),
        ...(plan.lockstep === true ? { '@lockstep': '1' } : {}),
      },
    },
    memory: { '@unit': 'MiB', '#text': String(h.memoryMaxMiB) },
    currentMemory: { '@unit': 'MiB', '#text': String(h.memoryMiB) },
    vcpu: { '@placement': 'static', '@current': String(h.cpus), '#text': String(h.cpusMax) },
    ...(plan.inSlice ? { resource: { partition: haPartition } } : {}),
    os: {
      ...(h.firmware === 'uefi' ? { '@firmware': 'efi' } : {}),
      type: { '@arch': 'x86_64', '@machine': 'q35', '#text': 'hvm' },
      ...(h.firmware === 'uefi'
        ? { firmware: { feature: [{ '@enabled': 'no', '@name': 'secure-boot' }] } }
        : { bios: { '@useserial': 'no' } }),
    },
    features: {
      acpi: {},
      apic: {},
      ...(kvm ? {} : { tcg: { 'tb-cache': { '@unit': 'MiB', '#text': String(tbCacheMiB) } } }),
    },
    cpu: kvm
      ? { '@mode': 'host-model', '@check': 'partial' }
      : {
          '@mode': 'custom',
          '@match': 'exact',
          '@check': 'none',
          model: { '@fallback': 'forbid', '#text': 'qemu64' },
        },
    clock: { '@offset': 'utc' },
    on_poweroff: 'destroy',
    on_reboot: 'restart',
    on_crash: 'destroy',
    pm: { 'suspend-to-mem': { '@enabled': 'no' }, 'suspend-to-disk': { '@enabled': 'no' } },
    devices: {
      disk: disks,
      controller: [
        { '@type': 'usb', '@model': 'none' },
        { '@type': 'pci', '@index': '0', '@model': 'pcie-root' },
        ...Array.from({ length: spareSlots + h.disks.length + h.nics.length + 6 }, (_, i) => ({
          '@type': 'pci',
          '@index': String(i + 1),
          '@model': 'pcie-root-port',
        })),
        { '@type': 'scsi', '@index': '0', '@model': 'virtio-scsi' },
        { '@type': 'virtio-serial', '@index': '0' },
      ],
      interface: h.nics.map((n) => nicNode(n, orderOf(n.id))),
      serial: {
        '@type': 'unix',
        source: { '@mode': 'bind', '@path': plan.paths.serial },
        log: { '@file': plan.paths.serialLog, '@append': 'on' },
        target: { '@type': 'isa-serial', '@port': '0' },
      },
      channel: [{ '@type': 'unix', target: { '@type': 'virtio', '@name': 'org.qemu.guest_agent.0' } }],
      input: [{ '@type': 'tablet', '@bus': 'virtio' }],
      graphics: { '@type': 'vnc', listen: { '@type': 'socket', '@socket': plan.paths.vnc } },
      video: { model: { '@type': 'vga' } },
      memballoon: { '@model': 'virtio', stats: { '@period': '5' } },
      ...(h.watchdog ? { watchdog: { '@model': 'i6300esb', '@action': 'reset' } } : {}),
      rng: { '@model': 'virtio', backend: { '@model': 'random', '#text': '/dev/urandom' } },
    },
  };
  return textOf({ domain });
}

/** One of a machine's disks, by the id in its device's name: what it is called there, what it uses, what it is copied to. */
export function diskInMachine(
  xml: string,
  device: string,
): (DiskInMachine & { readonly dev: string }) | null {
  const fileOf = (n: unknown): string => str(n, 'source', '@file') || str(n, 'source', '@dev');
  for (const d of list(at(parser.parse(xml), 'domain'), 'devices', 'disk')) {
    if (ua(d, 'disk') !== device) continue;
    const mirror = at(d, 'mirror');
    return {
      dev: str(d, 'target', '@dev'),
      path: fileOf(d),
      mirror: mirror === undefined ? null : { path: fileOf(mirror), ready: str(mirror, '@ready') === 'yes' },
    };
  }
  return null;
}

const at = (n: unknown, ...path: string[]): unknown =>
  path.reduce<unknown>((v, k) => (typeof v === 'object' && v !== null ? (v as Node)[k] : undefined), n);
const str = (n: unknown, ...path: string[]): string => {
  const v = at(n, ...path);
  return typeof v === 'string' ? v : '';
};
const list = (n: unknown, ...path: string[]): unknown[] => {
  const v = at(n, ...path);
  return Array.isArray(v) ? (v as unknown[]) : v === undefined || v === '' ? [] : [v];
};
/** Text of an element with or without attributes. */
const text = (n: unknown, ...path: string[]): string => {
  const v = at(n, ...path);
  return typeof v === 'string' ? v : str(v, '#text');
};
const toMiB = (n: unknown): number => {
  const value = Number(text(n));
  const unit = str(n, '@unit') || 'KiB';
  const perMiB: Record<string, number> = {
    b: 2 ** 20,
    bytes: 2 ** 20,
    KiB: 1024,
    k: 1024,
    MiB: 1,
    M: 1,
    GiB: 1 / 1024,
    G: 1 / 1024,
  };
  return Math.round(value / (perMiB[unit] ?? 1024));
};
const ua = (device: unknown, kind: string): string | null => {
  const name = str(device, 'alias', '@name');
  const prefix = `ua-${kind}-`;
  return name.startsWith(prefix) ? name.slice(prefix.length) : null;
};

/**
 * Reads a domain's XML back. Devices that Flotilla did not make (no alias of ours) are left out.
 *
 * @throws FlotillaError `hypervisor-error`: not a domain
 */
export function parseDomain(xml: string): DomainFacts {
  const domain = at(parser.parse(xml), 'domain');
  if (domain === undefined) {
    throw new FlotillaError('hypervisor-error', 'libvirt gave a text that is not a domain', {
      hint: 'Look at the node with "virsh dumpxml"; the agent tries again by itself.',
    });
  }
  const disks: HardwareDisk[] = [];
  const cdroms: (string | null)[] = [];
  let seed: string | null = null;
  for (const d of list(domain, 'devices', 'disk')) {
    const file = str(d, 'source', '@file') || str(d, 'source', '@dev');
    const id = ua(d, 'disk');
    if (id !== null) {
      const bus = str(d, 'target', '@bus');
      disks.push({
        id,
        bus: bus === 'scsi' || bus === 'sata' ? bus : 'virtio',
        path: file,
        format: str(d, 'driver', '@type') === 'raw' ? 'raw' : 'qcow2',
      });
    }
    const cd = ua(d, 'cdrom');
    if (cd !== null) cdroms[Number(cd)] = file === '' ? null : file;
    if (ua(d, 'seed') !== null) seed = file;
  }
  const nics: HardwareNic[] = [];
  for (const n of list(domain, 'devices', 'interface')) {
    const id = ua(n, 'nic');
    if (id === null) continue;
    nics.push({
      id,
      mac: str(n, 'mac', '@address').toLowerCase(),
      bridge: str(n, 'source', '@bridge'),
      model: str(n, 'model', '@type') === 'e1000e' ? 'e1000e' : 'virtio',
    });
  }
  const vm = at(domain, 'metadata', 'f:vm');
  const gen = Number(str(vm, '@gen'));
  const generation = Number(str(vm, '@generation'));
  const boot = str(vm, '@boot')
    .split(' ')
    .filter((b): b is Hardware['boot'][number] => b === 'disk' || b === 'cdrom' || b === 'network');
  const cpusMax = Number(text(domain, 'vcpu'));
  const cpus = Number(str(domain, 'vcpu', '@current')) || cpusMax;
  const memoryMaxMiB = toMiB(at(domain, 'memory'));
  const quotaUs = Number(text(domain, 'cputune', 'global_quota'));
  const agent = list(domain, 'devices', 'channel').some(
    (c) =>
      str(c, 'target', '@name') === 'org.qemu.guest_agent.0' && str(c, 'target', '@state') === 'connected',
  );
  return {
    mark:
      str(vm, '@xmlns:f') === markUri && Number.isInteger(gen) && gen > 0 && Number.isInteger(generation)
        ? {
            gen,
            generation,
            startedMs: Number(str(vm, '@started')) || 0,
            ...(str(vm, '@incoming') === '1' ? { incoming: true } : {}),
          }
        : null,
    hardware: {
      cpus,
      cpusMax,
      memoryMaxMiB,
      memoryMiB:
        at(domain, 'currentMemory') === undefined ? memoryMaxMiB : toMiB(at(domain, 'currentMemory')),
      firmware:
        str(domain, 'os', '@firmware') === 'efi' || at(domain, 'os', 'loader') !== undefined
          ? 'uefi'
          : 'bios',
      boot,
      disks,
      cdroms,
      nics,
      watchdog: list(domain, 'devices', 'watchdog').some((w) => str(w, '@model') === 'i6300esb'),
      cpuShares: Number(text(domain, 'cputune', 'shares')) || cpuSharesDefault,
      cpuQuotaUs: quotaUs > 0 ? quotaUs : null,
      seed,
    },
    agentConnected: agent,
  };
}
