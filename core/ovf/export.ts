import type { VmSpec } from '../domain/vm.js';
import { escaped } from './environment.js';

/** A disk of an export: its file in the package. */
export interface ExportedDisk {
  readonly bus: VmSpec['disks'][number]['bus'];
  readonly name: string;
  readonly capacityBytes: number;
  readonly href: string;
  readonly storedBytes: number;
}

/** What of a VM goes into a descriptor. What its cloud-init was told does not: it holds secrets. */
export interface ExportedVm {
  readonly spec: Pick<VmSpec, 'name' | 'note' | 'cpus' | 'memoryMiB' | 'firmware' | 'cdroms'>;
  readonly disks: readonly ExportedDisk[];
  readonly nics: readonly { readonly network: string; readonly model: 'virtio' | 'e1000e' }[];
}

const streamOptimized = 'http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized';
const envelope = 'http://schemas.dmtf.org/ovf/envelope/1';
const cim = 'http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2';

/** The controllers, by bus: CIM's number, and the kind; what an import of ours makes the same bus of. */
const controllers = {
  virtio: { type: 20, kind: 'virtio-blk' },
  scsi: { type: 6, kind: 'virtio-scsi' },
  sata: { type: 20, kind: 'AHCI' },
} as const;

/** A file's name for what people call it: letters, digits and . _ - that every system takes. */
export const fileNameOf = (name: string): string =>
  name
    .normalize('NFKD')
    .replaceAll(/[^A-Za-z0-9._-]+/g, '-')
    .replaceAll(/^[.-]+|[.-]+$/g, '')
    .slice(0, 60) || 'vm';

/** The descriptor of a VM, OVF 1.1. @see DSP0243 1.1.1 */
export function descriptorOf(vm: ExportedVm): string {
  const { spec, disks } = vm;
  const networks = [...new Set(vm.nics.map((n) => n.network))];
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<Envelope xmlns="${envelope}" xmlns:ovf="${envelope}" xmlns:rasd="${cim}/CIM_ResourceAllocationSettingData" xmlns:vssd="${cim}/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">`,
    '  <References>',
    ...disks.map(
      (d, i) => `    <File ovf:id="file${i + 1}" ovf:href="${escaped(d.href)}" ovf:size="${d.storedBytes}"/>`,
    ),
    '  </References>',
    '  <DiskSection>',
    '    <Info>Virtual disks</Info>',
    ...disks.map(
      (d, i) =>
        `    <Disk ovf:diskId="disk${i + 1}" ovf:fileRef="file${i + 1}" ovf:capacity="${d.capacityBytes}" ovf:capacityAllocationUnits="byte" ovf:format="${streamOptimized}"/>`,
    ),
    '  </DiskSection>',
    '  <NetworkSection>',
    '    <Info>Networks</Info>',
    ...networks.map((n) => `    <Network ovf:name="${escaped(n)}"><Description/></Network>`),
    '  </NetworkSection>',
    `  <VirtualSystem ovf:id="${escaped(spec.name)}">`,
    '    <Info>A system</Info>',
    `    <Name>${escaped(spec.name)}</Name>`,
    ...(spec.note === ''
      ? []
      : [
          '    <AnnotationSection>',
          '      <Info>Notes</Info>',
          `      <Annotation>${escaped(spec.note)}</Annotation>`,
          '    </AnnotationSection>',
        ]),
    '    <OperatingSystemSection ovf:id="1">',
    '      <Info>The guest</Info>',
    '    </OperatingSystemSection>',
    '    <VirtualHardwareSection>',
    '      <Info>Virtual hardware</Info>',
    '      <System>',
    '        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>',
    '        <vssd:InstanceID>0</vssd:InstanceID>',
    '        <vssd:VirtualSystemType>flotilla-1</vssd:VirtualSystemType>',
    '      </System>',
    ...itemsOf(vm),
    ...(spec.firmware === 'uefi'
      ? ['      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>']
      : []),
    '    </VirtualHardwareSection>',
    '  </VirtualSystem>',
    '</Envelope>',
    '',
  ].join('\n');
}

/** A device's fields in the order that CIM's schema demands: that of the alphabet. */
function item(fields: Readonly<Record<string, string | number>>): string {
  const lines = Object.entries(fields)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `        <rasd:${name}>${escaped(String(value))}</rasd:${name}>`);
  return ['      <Item>', ...lines, '      </Item>'].join('\n');
}

function itemsOf({ spec, disks, nics }: ExportedVm): string[] {
  let instance = 0;
  const next = (): number => (instance += 1);
  const out = [
    item({
      AllocationUnits: 'hertz * 10^6',
      ElementName: `${spec.cpus} virtual CPUs`,
      InstanceID: next(),
      ResourceType: 3,
      VirtualQuantity: spec.cpus,
    }),
    item({
      AllocationUnits: 'byte * 2^20',
      ElementName: `${spec.memoryMiB} MiB of memory`,
      InstanceID: next(),
      ResourceType: 4,
      VirtualQuantity: spec.memoryMiB,
    }),
  ];
  const parents = new Map<string, { id: number; used: number }>();
  const parentOf = (bus: keyof typeof controllers): { id: number; used: number } => {
    const there = parents.get(bus);
    if (there !== undefined) return there;
    const { type, kind } = controllers[bus];
    const made = { id: next(), used: 0 };
    parents.set(bus, made);
    out.push(
      item({
        Address: 0,
        ElementName: `${kind} controller`,
        InstanceID: made.id,
        ResourceSubType: kind,
        ResourceType: type,
      }),
    );
    return made;
  };
  disks.forEach((d, i) => {
    const parent = parentOf(d.bus);
    out.push(
      item({
        AddressOnParent: parent.used++,
        ElementName: d.name,
        HostResource: `ovf:/disk/disk${i + 1}`,
        InstanceID: next(),
        Parent: parent.id,
        ResourceType: 17,
      }),
    );
  });
  spec.cdroms.forEach((_, i) => {
    const parent = parentOf('sata');
    out.push(
      item({
        AddressOnParent: parent.used++,
        AutomaticAllocation: 'false',
        ElementName: `CD drive ${i + 1}`,
        InstanceID: next(),
        Parent: parent.id,
        ResourceType: 15,
      }),
    );
  });
  nics.forEach((n, i) => {
    out.push(
      item({
        AddressOnParent: i,
        AutomaticAllocation: 'true',
        Connection: n.network,
        ElementName: `NIC ${i + 1}`,
        InstanceID: next(),
        ResourceSubType: n.model === 'virtio' ? 'virtio' : 'E1000e',
        ResourceType: 10,
      }),
    );
  });
  return out;
}
