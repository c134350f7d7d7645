import type { VmSpec } from '../domain/vm.js';
import type { Vapp } from '../domain/vapp.js';
import type { VappDoc } from '../wire/rest.js';
import { escaped } from './environment.js';
import { attribute, child, children, type XmlElement } from './xml.js';

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

const head = [
  '<?xml version="1.0" encoding="UTF-8"?>',
  `<Envelope xmlns="${envelope}" xmlns:ovf="${envelope}" xmlns:rasd="${cim}/CIM_ResourceAllocationSettingData" xmlns:vssd="${cim}/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">`,
];

/** The descriptor of a VM, OVF 1.1. @see DSP0243 1.1.1 */
export function descriptorOf(vm: ExportedVm): string {
  const { spec, disks } = vm;
  const networks = [...new Set(vm.nics.map((n) => n.network))];
  return [
    ...head,
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

/** A member of a vApp as it was packed by itself: the descriptor that {@link descriptorOf} wrote. */
export interface PackedMember {
  /** The member's VM. */
  readonly vm: string;
  readonly root: XmlElement;
  readonly source: string;
}

/** A file of a member's package, and its name in that of the vApp. */
export interface MovedFile {
  readonly vm: string;
  readonly was: string;
  readonly name: string;
}

/** Where our own description of a vApp stands in its package. */
export const vappNs = 'urn:flotilla:ovf:vapp:1';

/** What {@link vappNs} holds: the document, and what its networks are called in the package. */
export interface EmbeddedVapp {
  readonly document: VappDoc;
  readonly networks: Readonly<Record<string, string>>;
}

/**
 * The descriptor of a vApp of its members' own, whose systems are taken over as they were packed; files and disks get
 * names of their own.
 */
export function vappDescriptorOf(
  vapp: Vapp,
  packed: readonly PackedMember[],
  embedded: EmbeddedVapp,
): { readonly text: string; readonly files: readonly MovedFile[] } {
  const files: MovedFile[] = [];
  const fileLines: string[] = [];
  const diskLines: string[] = [];
  const networks = new Set(Object.values(embedded.networks));
  const systems = new Map<string, string>();
  for (const member of vapp.members) {
    const p = packed.find((x) => x.vm === member.vm);
    const system = p && child(p.root, 'VirtualSystem');
    if (p === undefined || system === null || system === undefined) continue;
    const files0 = children(child(p.root, 'References') ?? p.root, 'File');
    files0.forEach((f, i) => {
      const was = attribute(f, 'href') ?? '';
      const name = `${member.name}-disk${i + 1}.vmdk`;
      files.push({ vm: member.vm, was, name });
      fileLines.push(
        `    <File ovf:id="${member.name}-file${i + 1}" ovf:href="${name}" ovf:size="${attribute(f, 'size') ?? ''}"/>`,
      );
    });
    children(child(p.root, 'DiskSection') ?? p.root, 'Disk').forEach((d, i) =>
      diskLines.push(
        `    <Disk ovf:diskId="${member.name}-disk${i + 1}" ovf:fileRef="${member.name}-file${i + 1}" ovf:capacity="${attribute(d, 'capacity') ?? ''}" ovf:capacityAllocationUnits="byte" ovf:format="${streamOptimized}"/>`,
      ),
    );
    for (const n of children(child(p.root, 'NetworkSection') ?? p.root, 'Network'))
      networks.add(attribute(n, 'name') ?? '');
    systems.set(
      member.name,
      p.source
        .slice(system.from, system.to)
        .replace(/^<VirtualSystem ovf:id="[^"]*">/, `<VirtualSystem ovf:id="${member.name}">`)
        .replaceAll(
          /(<rasd:HostResource>ovf:\/disk\/)(disk\d+<\/rasd:HostResource>)/g,
          `$1${member.name}-$2`,
        ),
    );
  }
  const inside = (group: string | null): string[] => {
    const groups = vapp.groups.filter((g) => g.group === group);
    const members = vapp.members.filter((m) => m.group === group && systems.has(m.name));
    return [
      '    <StartupSection>',
      '      <Info>The order</Info>',
      ...[...members, ...groups].map(startItem),
      '    </StartupSection>',
      ...members.map((m) => `    ${systems.get(m.name) ?? ''}`),
      ...groups.flatMap((g) => [
        `    <VirtualSystemCollection ovf:id="${g.name}">`,
        '    <Info>A nested vApp</Info>',
        ...annotation(g.note),
        ...inside(g.name),
        '    </VirtualSystemCollection>',
      ]),
    ];
  };
  const text = [
    ...head,
    '  <References>',
    ...fileLines,
    '  </References>',
    '  <DiskSection>',
    '    <Info>Virtual disks</Info>',
    ...diskLines,
    '  </DiskSection>',
    '  <NetworkSection>',
    '    <Info>Networks</Info>',
    ...[...networks].map((n) => `    <Network ovf:name="${escaped(n)}"><Description/></Network>`),
    '  </NetworkSection>',
    `  <VirtualSystemCollection ovf:id="${escaped(vapp.name)}">`,
    '    <Info>A vApp</Info>',
    `    <Name>${escaped(vapp.name)}</Name>`,
    ...annotation(vapp.note),
    ...vapp.eulas.flatMap((e) => [
      '    <EulaSection>',
      '      <Info>A licence</Info>',
      `      <License>${escaped(e)}</License>`,
      '    </EulaSection>',
    ]),
    ...allocations(vapp),
    ...properties(vapp),
    `    <flotilla:VAppSection xmlns:flotilla="${vappNs}" ovf:required="false">`,
    '      <Info>What OVF has no words for</Info>',
    `      <flotilla:Document>${base64(JSON.stringify(embedded))}</flotilla:Document>`,
    '    </flotilla:VAppSection>',
    ...inside(null),
    '  </VirtualSystemCollection>',
    '</Envelope>',
    '',
  ].join('\n');
  return { text, files };
}

const annotation = (note: string): string[] =>
  note === ''
    ? []
    : [
        '    <AnnotationSection>',
        '      <Info>Notes</Info>',
        `      <Annotation>${escaped(note)}</Annotation>`,
        '    </AnnotationSection>',
      ];

function startItem({ name, start, stop }: Pick<Vapp['members'][number], 'name' | 'start' | 'stop'>): string {
  const attributes = {
    id: name,
    order: start.order,
    startDelay: start.wait === 'guest' ? start.timeoutS : start.delayS,
    waitingForGuest: start.wait === 'guest',
    startAction: start.action === 'none' ? 'none' : 'powerOn',
    stopDelay: stop.delayS,
    stopAction: { shutdown: 'guestShutdown', 'power-off': 'powerOff', none: 'none' }[stop.action],
  };
  return `      <Item ${Object.entries(attributes)
    .map(([k, v]) => `ovf:${k}="${v}"`)
    .join(' ')}/>`;
}

function allocations({ cpuAllocation, memoryAllocation }: Vapp): string[] {
  const of = (a: Vapp['cpuAllocation'], type: number, units: string): string[] => {
    if (a === null) return [];
    const fields = Object.entries({ Limit: a.limit, Reservation: a.reservation, Weight: a.weight });
    return [
      item({
        AllocationUnits: units,
        ElementName: type === 3 ? 'CPU' : 'Memory',
        InstanceID: type,
        ResourceType: type,
        ...Object.fromEntries(fields.flatMap(([k, n]) => (n === null ? [] : [[k, Math.round(n)]]))),
      }),
    ];
  };
  const items = [...of(cpuAllocation, 3, 'hertz * 10^6'), ...of(memoryAllocation, 4, 'byte * 2^20')];
  return items.length === 0
    ? []
    : [
        '    <ResourceAllocationSection>',
        '      <Info>Bounds</Info>',
        ...items,
        '    </ResourceAllocationSection>',
      ];
}

const propertyTypes = { string: 'string', integer: 'sint64', number: 'real64', boolean: 'boolean' } as const;

/** Values of secret ones are in no package. */
function properties(vapp: Vapp): string[] {
  if (vapp.properties.length === 0) return [];
  const one = (p: Vapp['properties'][number]): string => {
    const value = p.secret ? null : (p.value ?? p.default);
    const attributes = {
      key: p.name,
      type: propertyTypes[p.type],
      userConfigurable: p.userConfigurable,
      ...(p.secret ? { password: true } : {}),
      ...(value === null ? {} : { value }),
    };
    const written = Object.entries(attributes)
      .map(([k, v]) => `ovf:${k}="${escaped(String(v))}"`)
      .join(' ');
    return `      <Property ${written}><Label>${escaped(p.label)}</Label><Description>${escaped(p.description)}</Description></Property>`;
  };
  return [
    '    <ProductSection>',
    '      <Info>What can be said of it</Info>',
    `      <Product>${escaped(vapp.name)}</Product>`,
    ...vapp.properties.map(one),
    '    </ProductSection>',
  ];
}

function base64(text: string): string {
  let bytes = '';
  for (const b of new TextEncoder().encode(text)) bytes += String.fromCharCode(b);
  return btoa(bytes);
}
