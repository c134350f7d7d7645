import type { OvfPackage, OvfSystem } from './model.js';

const escapes: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&apos;',
  '\n': '&#10;',
  '\r': '&#13;',
  '\t': '&#9;',
};

/** Text for an attribute's value; characters that XML cannot hold are left out. */
export const escaped = (text: string): string =>
  text
    // eslint-disable-next-line no-control-regex -- exactly these XML cannot hold
    .replaceAll(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '')
    .replaceAll(/[&<>"'\n\r\t]/g, (c) => escapes[c] ?? c);

/** What a VM's record can hold of it. */
export const environmentCharsMax = 16_384;

/**
 * What the guest of a system is told of its package: the values of its properties, of the collections around it and of
 * the systems beside it, as `ovf-env.xml`. It holds secrets. Where all that is too long, nothing is told of the systems
 * beside it.
 *
 * @see DSP0243 1.1.1, section 11
 */
export function environmentOf(p: OvfPackage, system: OvfSystem): string {
  const above = collectionsOf(p, system.collection);
  const siblings = p.systems.filter((s) => s.id !== system.id && s.collection === system.collection);
  const property = (owner: string | null): string =>
    p.properties
      .filter((x) => x.owner === owner)
      .map((x) => `    <Property oe:key="${escaped(x.id)}" oe:value="${escaped(p.values.get(x) ?? '')}"/>\n`)
      .join('');
  const section = (owners: readonly (string | null)[]): string =>
    `  <PropertySection>\n${owners.map(property).join('')}  </PropertySection>\n`;
  const ns = 'http://schemas.dmtf.org/ovf/environment/1';
  const own = section([system.id, ...above, null]);
  const beside = siblings
    .map((s) => `  <Entity oe:id="${escaped(s.id)}">\n${section([s.id])}  </Entity>\n`)
    .join('');
  const whole = [
    '<?xml version="1.0" encoding="UTF-8"?>\n',
    `<Environment xmlns="${ns}" xmlns:oe="${ns}" oe:id="${escaped(system.id)}">\n`,
    '  <PlatformSection>\n    <Kind>Flotilla</Kind>\n    <Vendor>Flotilla</Vendor>\n  </PlatformSection>\n',
    // Nearer ones stand first: the guest takes the first of a key.
    own,
    beside,
    '</Environment>\n',
  ];
  const text = whole.join('');
  return text.length <= environmentCharsMax ? text : whole.filter((part) => part !== beside).join('');
}

function collectionsOf(p: OvfPackage, first: string | null): string[] {
  const out: string[] = [];
  for (let id = first; id !== null;) {
    out.push(id);
    const here = id;
    id = p.collections.find((c) => c.id === here)?.collection ?? null;
  }
  return out;
}
