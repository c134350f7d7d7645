import type { Remark } from './xml.js';

/** How a disk's data is stored, as far as its description says; `unknown`: to be told from the data. */
export type OvfFormat = 'vmdk' | 'vhd' | 'vhdx' | 'qcow2' | 'raw' | 'iso' | 'vdi' | 'unknown';

/** A file that belongs to the package. */
export interface OvfFile {
  readonly id: string;
  /** As written, but for what a URI escapes. */
  readonly href: string;
  /** It is fetched from elsewhere: refused at an import unless allowed. */
  readonly remote: boolean;
  /** Its name leads out of the package: never opened, and refused at an import. */
  readonly outside: boolean;
  readonly sizeBytes: number | null;
  readonly compression: 'gzip' | null;
  /** It is kept in pieces of this size, `NAME.000000000` and so on. */
  readonly chunkBytes: number | null;
  readonly line: number;
}

/** A virtual disk; systems refer to it. */
export interface OvfDisk {
  readonly id: string;
  /** Its data; null: empty. */
  readonly file: string | null;
  /** Null: it stands for a property's value that has no default. */
  readonly capacityBytes: number | null;
  /** The property that says how large it is. */
  readonly capacityProperty: string | null;
  readonly format: OvfFormat;
  readonly formatUri: string | null;
  readonly populatedBytes: number | null;
  /** It holds only what differs from this disk. */
  readonly parent: string | null;
  readonly line: number;
}

export interface OvfNetwork {
  readonly name: string;
  readonly description: string;
}

export interface OvfProperty {
  /** `class.key.instance`, as guests get it. */
  readonly id: string;
  readonly key: string;
  readonly class: string;
  readonly instance: string;
  /** Where it stands: a system's or collection's id; null: the package's. */
  readonly owner: string | null;
  readonly product: string | null;
  readonly category: string | null;
  readonly label: string;
  readonly description: string;
  /** As written: `string`, `uint8`, `boolean`, `ip` … */
  readonly type: string;
  readonly qualifiers: string | null;
  /** With the deployment option that was chosen; null: none, or it is secret. */
  readonly default: string | null;
  readonly hasDefault: boolean;
  readonly userConfigurable: boolean;
  /** A password: never shown. */
  readonly secret: boolean;
  readonly line: number;
}

export interface OvfProduct {
  readonly owner: string | null;
  readonly class: string;
  readonly instance: string;
  readonly name: string;
  readonly vendor: string;
  readonly version: string;
  readonly fullVersion: string;
  readonly productUrl: string;
  readonly vendorUrl: string;
}

export interface OvfDeploymentOption {
  readonly id: string;
  readonly label: string;
  readonly description: string;
  readonly default: boolean;
  /** What each system gets with it. */
  readonly systems: readonly {
    readonly id: string;
    readonly cpus: number | null;
    readonly memoryMiB: number | null;
  }[];
}

export interface OvfEula {
  readonly owner: string | null;
  readonly text: string;
}

export type OvfBus = 'ide' | 'sata' | 'scsi' | 'nvme' | 'virtio' | 'usb' | 'unknown';

export interface OvfController {
  readonly instance: string;
  readonly bus: OvfBus;
  /** `lsilogic`, `VirtualSCSI`, `AHCI` … as written; the first of several. */
  readonly model: string | null;
}

/** Where a drive is plugged in. */
interface Plug {
  readonly name: string;
  readonly bus: OvfBus;
  /** The controller's model. */
  readonly controller: string | null;
  readonly unit: number | null;
}

export interface OvfSystemDisk extends Plug {
  /** Of {@link OvfPackage.disks}; null: it has no disk in the package. */
  readonly disk: string | null;
  readonly capacityBytes: number | null;
  readonly file: string | null;
}

export interface OvfDrive extends Plug {
  readonly kind: 'cdrom' | 'floppy';
  /** The medium; null: empty. */
  readonly file: string | null;
}

export interface OvfNic {
  readonly name: string;
  /** Of {@link OvfPackage.networks}; null: it is on none. */
  readonly network: string | null;
  /** `e1000`, `vmxnet3`, `virtio`, `pcnet32` …: lower case; null: not said. */
  readonly model: string | null;
  readonly mac: string | null;
}

/** Hardware that is none of the above. */
export interface OvfOther {
  readonly name: string;
  readonly type: string;
  readonly model: string | null;
  readonly required: boolean;
}

export interface OvfAllocation {
  readonly reservation: number | null;
  readonly limit: number | null;
  readonly weight: number | null;
}

export interface OvfOs {
  /** CIM's number of the system; null: none. */
  readonly id: number | null;
  /** The maker's own word, `debian12_64Guest`. */
  readonly type: string | null;
  readonly version: string | null;
  readonly description: string;
}

export interface OvfHardware {
  /** Families it is made for, `vmx-19`. */
  readonly families: readonly string[];
  /** Null: not said. */
  readonly cpus: number | null;
  readonly coresPerSocket: number | null;
  readonly memoryMiB: number | null;
  /** MHz. */
  readonly cpuAllocation: OvfAllocation | null;
  /** MiB. */
  readonly memoryAllocation: OvfAllocation | null;
  readonly firmware: 'bios' | 'uefi';
  readonly secureBoot: boolean;
  readonly tpm: boolean;
  /** Ways the properties are given to the guest: `iso`, `com.vmware.guestInfo`. */
  readonly transports: readonly string[];
  readonly controllers: readonly OvfController[];
  readonly disks: readonly OvfSystemDisk[];
  readonly drives: readonly OvfDrive[];
  readonly nics: readonly OvfNic[];
  readonly others: readonly OvfOther[];
}

export interface OvfSystem extends OvfHardware {
  readonly id: string;
  readonly name: string;
  readonly info: string;
  /** The collection it stands in; null: none. */
  readonly collection: string | null;
  readonly os: OvfOs | null;
  readonly annotation: string;
  readonly line: number;
}

export interface OvfCollection {
  readonly id: string;
  readonly name: string;
  readonly info: string;
  /** The collection it stands in; null: it is the whole. */
  readonly collection: string | null;
  readonly annotation: string;
  /** MHz. */
  readonly cpuAllocation: OvfAllocation | null;
  /** MiB. */
  readonly memoryAllocation: OvfAllocation | null;
  readonly line: number;
}

/** A step of a collection's start; those of equal order go at once, 0 whenever. */
export interface OvfStart {
  readonly collection: string | null;
  /** A system's or collection's id. */
  readonly id: string;
  readonly order: number;
  readonly startDelayS: number;
  readonly waitForGuest: boolean;
  readonly startAction: 'powerOn' | 'none';
  readonly stopDelayS: number;
  readonly stopAction: 'powerOff' | 'guestShutdown' | 'none';
}

/** What we do not know, as it stands, so that an export gives it back. */
export interface OvfKept {
  readonly owner: string | null;
  readonly name: string;
  readonly namespace: string;
  readonly line: number;
  readonly xml: string;
  /** Prefixes that hold where it stands. */
  readonly namespaces: Readonly<Record<string, string>>;
}

/** All that a descriptor says, in the order it says it. */
export interface OvfPackage {
  readonly version: '0.9' | '1' | '2';
  /** The envelope's own word, `1.1.0`; null: none. */
  readonly versionText: string | null;
  readonly language: string | null;
  readonly id: string;
  readonly name: string;
  /** The one whose values stand in systems and properties; null: there are none. */
  readonly configuration: string | null;
  readonly deploymentOptions: readonly OvfDeploymentOption[];
  readonly files: readonly OvfFile[];
  readonly disks: readonly OvfDisk[];
  readonly networks: readonly OvfNetwork[];
  readonly systems: readonly OvfSystem[];
  readonly collections: readonly OvfCollection[];
  readonly startOrder: readonly OvfStart[];
  readonly products: readonly OvfProduct[];
  readonly properties: readonly OvfProperty[];
  /** What guests are told, of secret properties too. A map: it does not get into JSON by itself. */
  readonly values: ReadonlyMap<OvfProperty, string>;
  readonly eulas: readonly OvfEula[];
  readonly annotation: string;
  readonly kept: readonly OvfKept[];
  readonly warnings: readonly Remark[];
}

const unpackedSlackBytes = 64 * 1024 * 1024;

/** Packed data can claim to be anything: no disk is much longer than its capacity. Null: it is not packed. */
export function unpackedBytesMax(p: Pick<OvfPackage, 'disks'>, file: OvfFile): number | null {
  if (file.compression === null) return null;
  const capacities = p.disks.filter((d) => d.file === file.id).map((d) => d.capacityBytes ?? 0);
  return Math.ceil(Math.max(0, ...capacities) * 1.1) + unpackedSlackBytes;
}
