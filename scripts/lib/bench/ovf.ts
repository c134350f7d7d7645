import { decodeXml, readXml } from '../../../agent/ovf/xml-reader.js';
import { readEnvelope } from '../../../core/ovf/envelope.js';
import { median, percentile, report } from './report.js';

const bytesWanted = 5_000_000;
const ovf = 'http://schemas.dmtf.org/ovf/envelope/1';
const rasd = 'http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData';

/** A descriptor of this size: systems with a usual set of devices, properties and texts each. */
export function largeDescriptor(bytes: number): string {
  const item = (n: number, type: number, more: string): string =>
    `      <ovf:Item>\n        <rasd:AddressOnParent>${n}</rasd:AddressOnParent>\n        <rasd:ElementName>Device ${n} of the machine</rasd:ElementName>\n        <rasd:InstanceID>${n}</rasd:InstanceID>\n        ${more}\n        <rasd:ResourceType>${type}</rasd:ResourceType>\n      </ovf:Item>\n`;
  const system = (i: number): string =>
    `    <ovf:VirtualSystem ovf:id="vm${i}">\n      <ovf:Info>A machine</ovf:Info>\n      <ovf:ProductSection ovf:class="org.example.vm${i}">\n        <ovf:Info>Product</ovf:Info>\n${Array.from(
      { length: 8 },
      (_, k) =>
        `        <ovf:Property ovf:key="key${k}" ovf:type="string" ovf:userConfigurable="true" ovf:value="value ${k}"><ovf:Label>Label of it</ovf:Label><ovf:Description>What it is good for, in a sentence of usual length.</ovf:Description></ovf:Property>\n`,
    ).join(
      '',
    )}      </ovf:ProductSection>\n      <ovf:VirtualHardwareSection>\n      <ovf:Info>Hardware</ovf:Info>\n${
      item(1, 3, '<rasd:VirtualQuantity>2</rasd:VirtualQuantity>') +
      item(
        2,
        4,
        '<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>2048</rasd:VirtualQuantity>',
      ) +
      item(3, 6, '<rasd:ResourceSubType>lsilogic</rasd:ResourceSubType>') +
      Array.from({ length: 6 }, (_, k) =>
        item(4 + k, 17, '<rasd:HostResource>ovf:/disk/d</rasd:HostResource><rasd:Parent>3</rasd:Parent>'),
      ).join('') +
      Array.from({ length: 4 }, (_, k) =>
        item(
          10 + k,
          10,
          '<rasd:Connection>lan</rasd:Connection><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>',
        ),
      ).join('')
    }      </ovf:VirtualHardwareSection>\n    </ovf:VirtualSystem>\n`;
  const parts = [
    `<?xml version="1.0" encoding="UTF-8"?>\n<ovf:Envelope xmlns:ovf="${ovf}" xmlns:rasd="${rasd}">\n  <ovf:References><ovf:File ovf:id="f" ovf:href="d.vmdk"/></ovf:References>\n  <ovf:DiskSection><ovf:Info/><ovf:Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="1073741824"/></ovf:DiskSection>\n  <ovf:NetworkSection><ovf:Info/><ovf:Network ovf:name="lan"/></ovf:NetworkSection>\n  <ovf:VirtualSystemCollection ovf:id="all">\n    <ovf:Info>All</ovf:Info>\n    <ovf:EulaSection><ovf:Info/><ovf:License>${'You may use it. '.repeat(20_000)}</ovf:License></ovf:EulaSection>\n`,
  ];
  let length = parts[0]?.length ?? 0;
  for (let i = 0; length < bytes; i += 1) {
    const s = system(i);
    parts.push(s);
    length += s.length;
  }
  return `${parts.join('')}  </ovf:VirtualSystemCollection>\n</ovf:Envelope>\n`;
}

/** Bytes of a descriptor to what it says, in a process that has not read one before and in one that has. */
export function ovfParse(n: number): void {
  const bytes = Buffer.from(largeDescriptor(bytesWanted));
  const times: number[] = [];
  let systems = 0;
  for (let i = 0; i < n; i += 1) {
    const start = performance.now();
    const source = decodeXml(bytes, 'bench.ovf');
    systems = readEnvelope(readXml(source, 'bench.ovf'), { file: 'bench.ovf', source }).systems.length;
    times.push(performance.now() - start);
  }
  report({
    figure: 'ovf-parse',
    value: median(times),
    unit: 'ms',
    target: { atMost: 300 },
    n,
    median: median(times),
    p99: percentile(times, 0.99),
    compared: { bytes: bytes.length, systems, firstMs: Math.round(times[0] ?? NaN) },
  });
}
