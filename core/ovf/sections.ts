import { attribute, isOvf, isOvfNs, type Reading, type XmlElement, booleanOf, children } from './xml.js';
import type { OvfKept } from './model.js';

/** Sections whose content we read; all others are kept or refused. */
const known = new Set([
  'AnnotationSection',
  'DeploymentOptionSection',
  'DiskSection',
  'EulaSection',
  'NetworkSection',
  'OperatingSystemSection',
  'ProductSection',
  'ResourceAllocationSection',
  'StartupSection',
  'VirtualHardwareSection',
]);

/**
 * Sections of OVF that are kept and not acted upon, because an import stays right without them: placement is ours, and
 * the others are about how often and from where a system is first installed.
 */
const passed = new Set([
  'BootDeviceSection',
  'EnvironmentFilesSection',
  'InstallSection',
  'PlacementGroupSection',
  'PlacementSection',
  'ScaleOutSection',
  'SharedDiskSection',
]);

/** What oVirt writes in the way of drafts, without a word on whether it is needed: snapshots and who may do what. */
const ovirts = new Set([
  'AffinityGroupsSection',
  'AffinityLabelsSection',
  'SnapshotsSection',
  'UserDomainsSection',
]);

/** Namespaces of makers that write sections without saying that nobody else needs them. */
const tolerated = [
  'http://www.vmware.com/',
  'http://www.virtualbox.org/',
  'http://www.citrix.com/',
  'http://schemas.citrix.com/',
  'http://schemas.oracle.com/',
  'http://www.oracle.com/',
  'http://www.ibm.com/',
];

/** What an element of an envelope or system is: a section by its OVF name, or something of its maker's. */
export function sectionName(e: XmlElement): string | null {
  if (!isOvf(e)) return null;
  if (e.name !== 'Section') return known.has(e.name) || passed.has(e.name) ? e.name : null;
  // Drafts: <Section xsi:type="ovf:DiskSection_Type">.
  for (const a of e.attributes) {
    const m = /^(?:[\w.-]+:)?(\w+Section)(?:_Type)?$/.exec(a.value.trim());
    if (m !== null && (a.name === 'type' || a.name === 'name')) return m[1] ?? null;
  }
  return null;
}

export const isKnown = (name: string | null): name is string => name !== null && known.has(name);

/** Elements of OVF that are no sections. */
const plainElements = new Set(['Info', 'Name', 'References', 'Strings', 'Content', 'System', 'Item']);

/**
 * Keeps what we do not know, for an export to give back.
 *
 * @throws FlotillaError `bad-input` when the package says that it cannot be used without it
 */
export function keep(
  r: Reading,
  e: XmlElement,
  where: { owner: string | null; source: string; namespaces: Readonly<Record<string, string>> },
  into: OvfKept[],
): void {
  if (isOvf(e) && plainElements.has(e.name)) return;
  const section = sectionName(e);
  const name = section ?? e.name;
  const required = attribute(e, 'required');
  const known = section !== null && (passed.has(section) || (e.name === 'Section' && ovirts.has(section)));
  if (!known && (required === null ? needed(e, name) : booleanOf(required) === true)) {
    throw r.refuse(
      e,
      `the section <${name}>${e.ns === '' || isOvfNs(e.ns) ? '' : ` of ${e.ns}`} is required, and Flotilla does not know it`,
      'The package says that it cannot be used without this. If you know better, set ovf:required="false" there.',
    );
  }
  if (e.name.endsWith('Section') || section !== null)
    r.warn(e, `the section <${name}> is kept, and not acted upon`);
  into.push({
    owner: where.owner,
    name,
    namespace: e.ns,
    line: e.line,
    xml: where.source.slice(e.from, e.to),
    namespaces: { ...where.namespaces, ...e.declared },
  });
}

/** Without a word about it a section is required; an element that is none is not. */
function needed(e: XmlElement, name: string): boolean {
  const looksLikeOne = name.endsWith('Section') || children(e, 'Info').length > 0;
  return looksLikeOne && !tolerated.some((ns) => e.ns.startsWith(ns));
}
