import { readFileSync } from 'node:fs';
import path from 'node:path';
import { readXml } from '../../../../agent/ovf/xml-reader.js';
import { readEnvelope, type EnvelopeOptions } from '../../../../core/ovf/envelope.js';
import type { OvfPackage } from '../../../../core/ovf/model.js';
import type { XmlElement } from '../../../../core/ovf/xml.js';

export const fixture = (name: string): string => readFileSync(path.join('test/fixtures/ovf', name), 'utf8');

export function read(
  source: string,
  o: Partial<Omit<EnvelopeOptions, 'source'>> & { strings?: ReadonlyMap<string, XmlElement> } = {},
): OvfPackage {
  return readEnvelope(readXml(source, 'x.ovf'), { file: 'x.ovf', source, ...o });
}

const ns = 'http://schemas.dmtf.org/ovf/envelope/1';
const rasd = 'http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData';

/** A package of one system; each part stands on a line of its own, from line 2 on. */
export function packageOf(o: {
  files?: string;
  disks?: string;
  sections?: string;
  items?: string;
  system?: string;
}): string {
  return [
    `<Envelope xmlns="${ns}" xmlns:ovf="${ns}" xmlns:rasd="${rasd}" xmlns:vmw="http://www.vmware.com/schema/ovf">`,
    `<References>${o.files ?? ''}</References>`,
    `<DiskSection><Info/>${o.disks ?? ''}</DiskSection>`,
    o.sections ?? '',
    '<VirtualSystem ovf:id="vm"><Info/>',
    `<VirtualHardwareSection><Info/>${o.items ?? ''}</VirtualHardwareSection>`,
    `${o.system ?? ''}</VirtualSystem></Envelope>`,
  ].join('\n');
}

/** One device by its fields. */
export const item = (fields: Record<string, string | number>, attributes = ''): string =>
  `<Item ${attributes}>${Object.entries({ ElementName: 'x', InstanceID: 1, ...fields })
    .map(([k, v]) => `<rasd:${k}>${v}</rasd:${k}>`)
    .join('')}</Item>`;
