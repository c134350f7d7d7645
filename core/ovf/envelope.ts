import { readAllocations, readHardware, type Surroundings } from './hardware.js';
import type {
  OvfCollection,
  OvfDeploymentOption,
  OvfEula,
  OvfHardware,
  OvfKept,
  OvfOs,
  OvfPackage,
  OvfStart,
  OvfSystem,
} from './model.js';
import { Products } from './properties.js';
import { readDisks, readFiles, readNetworks } from './references.js';
import { isKnown, keep, sectionName } from './sections.js';
import { readStrings, type Strings } from './strings.js';
import {
  anyAttribute,
  attribute,
  child,
  children,
  isOvf,
  isOvfNs,
  Reading,
  shown,
  textOf,
  type XmlElement,
} from './xml.js';

export interface EnvelopeOptions {
  /** The descriptor's name, for messages. */
  readonly file: string;
  /** Its text: what is not known is kept as it stands there. */
  readonly source: string;
  /** Roots of the files of texts, by the ids in the References. */
  readonly strings?: ReadonlyMap<string, XmlElement>;
  /** The deployment option whose values are wanted; absent: the package's default. */
  readonly configuration?: string;
  /** Language of texts, `de-DE`; absent: the package's own. */
  readonly language?: string;
  /** Values of properties that a person gave, by their ids. */
  readonly values?: ReadonlyMap<string, string>;
}

/** Systems and collections of one package, and how deep they may lie. */
const membersMax = 1_000;
const depthMax = 32;

/** A system or collection where it stands. */
interface Member {
  readonly at: XmlElement;
  /** Unique in the package. */
  readonly id: string;
  /** As written: some products give a collection the id of a system in it. */
  readonly writtenId: string;
  readonly kind: 'system' | 'collection';
  readonly collection: string | null;
  readonly namespaces: Readonly<Record<string, string>>;
}

/** One section, and whose it is. */
interface Placed {
  readonly at: XmlElement;
  readonly owner: string | null;
}

/**
 * Reads an OVF descriptor of version 1.0 to 2.0, of the drafts before, and of products that write it their way.
 *
 * @throws FlotillaError `bad-input`, with file and line in its message and details
 * @see DSP0243 1.1.1 and 2.1.1
 */
export function readEnvelope(root: XmlElement, o: EnvelopeOptions): OvfPackage {
  const r = new Reading(o.file);
  checkRoot(r, root);
  const members = findMembers(r, root);
  const kept: OvfKept[] = [];
  const sections = sort(r, root, members, o.source, kept);
  const of = (name: string): readonly Placed[] => sections.get(name) ?? [];
  const elements = (name: string): XmlElement[] => of(name).map((p) => p.at);

  const files = readFiles(r, root);
  const strings = readStrings(r, root, o.strings ?? new Map<string, XmlElement>(), o.language ?? null);
  const options = readOptions(r, elements('DeploymentOptionSection'), strings);
  const configuration = chooseOption(r, root, options, o.configuration);
  const given = o.values ?? new Map<string, string>();
  const products = new Products(r, { strings, configuration, given });
  for (const p of of('ProductSection')) products.read(p.at, p.owner);
  products.checkGiven(root);
  const disks = readDisks(r, elements('DiskSection'), files, (key) => products.valueOf(key));
  const networks = readNetworks(r, elements('NetworkSection'), strings);

  const configurations = new Set(options.map((c) => c.id));
  const around = (chosen: string | null): Surroundings => ({
    files,
    disks,
    networks,
    configuration: chosen,
    configurations,
  });
  const annotation = (owner: string | null): string =>
    of('AnnotationSection')
      .filter((p) => p.owner === owner)
      .map((p) => strings.text(child(p.at, 'Annotation')))
      .join('\n');
  const hardwareOf = hardwareReader(of('VirtualHardwareSection'));
  const systems = members
    .filter((m) => m.kind === 'system')
    .map((m): OvfSystem => ({
      id: m.id,
      ...about(m, strings),
      os: readOs(of('OperatingSystemSection').find((p) => p.owner === m.id)?.at ?? null, strings),
      annotation: annotation(m.id),
      ...hardwareOf(r, m, around(configuration)),
    }));
  const collections = members
    .filter((m) => m.kind === 'collection')
    .map((m): OvfCollection => {
      const limits = of('ResourceAllocationSection').find((p) => p.owner === m.id);
      return {
        id: m.id,
        ...about(m, strings),
        annotation: annotation(m.id),
        ...(limits === undefined
          ? { cpuAllocation: null, memoryAllocation: null }
          : readAllocations(r, limits.at, around(configuration))),
      };
    });
  const whole = members[0];
  return {
    version: root.ns.includes('vmware') ? '0.9' : /2\/?$/.test(root.ns) ? '2' : '1',
    versionText: attribute(root, 'version'),
    language: anyAttribute(root, 'lang'),
    id: whole?.id ?? '',
    name: whole === undefined ? '' : about(whole, strings).name,
    configuration,
    deploymentOptions: options.map((c) => ({
      ...c,
      systems: members
        .filter((m) => m.kind === 'system')
        .map((m) => {
          // Its remarks were made when the chosen one was read.
          const h = hardwareOf(new Reading(o.file), m, around(c.id));
          return { id: m.id, cpus: h.cpus, memoryMiB: h.memoryMiB };
        }),
    })),
    files: [...files.values()],
    disks: [...disks.values()],
    networks: [...networks.values()],
    systems,
    collections,
    startOrder: readStart(r, of('StartupSection'), members),
    products: products.products,
    properties: products.properties,
    values: products.values,
    eulas: of('EulaSection').map((p) => readEula(r, p, strings)),
    annotation: annotation(null),
    kept,
    warnings: r.warnings,
  };
}

function checkRoot(r: Reading, root: XmlElement): void {
  if (root.name !== 'Envelope')
    throw r.refuse(
      root,
      `it begins with <${shown(root.name)}>, not with an Envelope`,
      'It is no OVF descriptor.',
    );
  if (isOvfNs(root.ns)) return;
  // Some products declare OVF's prefix and forget it at the envelope itself.
  if (root.ns === '' && Object.values(root.declared ?? {}).some(isOvfNs)) {
    r.warn(root, 'its Envelope is in no namespace: read as OVF');
    return;
  }
  throw r.refuse(
    root,
    root.ns === ''
      ? 'its Envelope is in no namespace'
      : `its Envelope is of "${shown(root.ns)}", which is no version of OVF that Flotilla knows`,
    'Versions 0.9, 1.x and 2.x are read. Export it anew in one of them.',
  );
}

/** `<VirtualSystem>`, or in drafts `<Content xsi:type="ovf:VirtualSystem_Type">`. */
function memberKind(e: XmlElement): Member['kind'] | null {
  if (!isOvf(e)) return null;
  if (e.name === 'VirtualSystem') return 'system';
  if (e.name === 'VirtualSystemCollection') return 'collection';
  if (e.name !== 'Content') return null;
  const type = anyAttribute(e, 'type') ?? '';
  return type.includes('Collection') ? 'collection' : type.includes('VirtualSystem') ? 'system' : null;
}

function findMembers(r: Reading, root: XmlElement): Member[] {
  const out: Member[] = [];
  // A system keeps its id; a collection that has the same one is called otherwise.
  const reserved = systemIds(root);
  const ids = new Set<string>();
  const walk = (
    at: XmlElement,
    collection: string | null,
    above: Readonly<Record<string, string>>,
    depth: number,
  ): void => {
    const namespaces = { ...above, ...at.declared };
    for (const e of at.children) {
      const kind = memberKind(e);
      if (kind === null) continue;
      // Some products give collections none.
      const writtenId = kind === 'collection' ? (attribute(e, 'id') ?? 'collection') : r.require(e, 'id');
      if (out.some((m) => m.writtenId === writtenId && m.collection === collection && m.kind === kind))
        throw r.refuse(e, `the id "${shown(writtenId)}" is there twice`, 'Ids are unique: correct one.');
      const id = freeId(writtenId, kind === 'system' ? [ids] : [ids, reserved]);
      if (id !== writtenId)
        r.warn(e, `the id "${shown(writtenId)}" is there twice: this one is called "${shown(id)}"`);
      if (out.length >= membersMax || depth >= depthMax)
        throw r.refuse(
          e,
          'it has too many or too deeply nested systems',
          `At most ${membersMax} systems, nested at most ${depthMax} deep, are taken.`,
        );
      ids.add(id);
      out.push({ at: e, id, writtenId, kind, collection, namespaces });
      if (kind === 'collection') walk(e, id, namespaces, depth + 1);
    }
  };
  walk(root, null, {}, 0);
  const first = out[0];
  if (first === undefined)
    throw r.refuse(
      root,
      'there is no VirtualSystem in it',
      'It describes no machine: ask for a whole package.',
    );
  const tops = out.filter((m) => m.collection === null);
  if (tops[1] !== undefined)
    r.warn(tops[1].at, `${tops.length} systems stand beside each other without a collection: all are taken`);
  return out;
}

function freeId(wanted: string, taken: readonly ReadonlySet<string>[]): string {
  let id = wanted;
  for (let n = 2; taken.some((t) => t.has(id)); n += 1) id = `${wanted}-${n}`;
  return id;
}

function systemIds(at: XmlElement, depth = 0): Set<string> {
  const out = new Set<string>();
  for (const e of at.children) {
    const kind = memberKind(e);
    const id = attribute(e, 'id');
    if (kind === 'system' && id !== null) out.add(id);
    if (kind === 'collection' && depth < depthMax)
      for (const inner of systemIds(e, depth + 1)) out.add(inner);
  }
  return out;
}

/** Sorts all sections by name; what is not known is kept or refused. */
function sort(
  r: Reading,
  root: XmlElement,
  members: readonly Member[],
  source: string,
  kept: OvfKept[],
): Map<string, Placed[]> {
  const out = new Map<string, Placed[]>();
  const take = (
    at: XmlElement,
    owner: string | null,
    above: Readonly<Record<string, string>>,
    hardware: boolean,
  ): void => {
    const where = { owner, source, namespaces: { ...above, ...at.declared } };
    for (const e of at.children) {
      const name = sectionName(e);
      if (memberKind(e) !== null) continue;
      if (!isKnown(name)) {
        keep(r, e, where, kept);
        continue;
      }
      if (name === 'VirtualHardwareSection' && !hardware)
        throw r.refuse(
          e,
          'hardware stands outside of a system',
          'Nobody can tell whose it is: move it into one.',
        );
      if (child(e, 'Info') === null) r.warn(e, `the ${name} has no Info`);
      const list = out.get(name) ?? [];
      list.push({ at: e, owner });
      out.set(name, list);
      // Sections may be extended, too.
      for (const inner of e.children) if (inner.name.endsWith('Section')) keep(r, inner, where, kept);
    }
  };
  take(root, null, {}, false);
  for (const m of members) take(m.at, m.id, m.namespaces, m.kind === 'system');
  return out;
}

/** What a system and a collection say of themselves alike. */
function about(
  m: Member,
  strings: Strings,
): { name: string; info: string; collection: string | null; line: number } {
  const name = strings.text(child(m.at, 'Name'));
  return {
    name: name === '' ? m.id : name,
    info: strings.text(child(m.at, 'Info')),
    collection: m.collection,
    line: m.at.line,
  };
}

function readOptions(
  r: Reading,
  sections: readonly XmlElement[],
  strings: Strings,
): Omit<OvfDeploymentOption, 'systems'>[] {
  const elements = sections.flatMap((s) => children(s, 'Configuration'));
  const defaults = elements.filter((e) => r.flag(e, 'default', false));
  const chosen = defaults[0] ?? elements[0];
  if (defaults[1] !== undefined) r.warn(defaults[1], 'more than one deployment option is the default');
  const out = elements.map((e) => ({
    id: r.require(e, 'id'),
    label: strings.text(child(e, 'Label')),
    description: strings.text(child(e, 'Description')),
    default: e === chosen,
  }));
  const at = elements[optionsMax];
  if (at !== undefined)
    throw r.refuse(at, `it has more than ${optionsMax} deployment options`, 'No appliance needs as many.');
  elements.forEach((e, i) => {
    if (out.findIndex((c) => c.id === out[i]?.id) < i)
      throw r.refuse(e, `deployment option "${shown(out[i]?.id ?? '')}" is there twice`, 'Correct one id.');
  });
  return out;
}

/** Each is read for all systems. */
const optionsMax = 64;

function chooseOption(
  r: Reading,
  root: XmlElement,
  options: readonly { readonly id: string; readonly default: boolean }[],
  wanted: string | undefined,
): string | null {
  if (wanted === undefined) return options.find((c) => c.default)?.id ?? null;
  if (options.some((c) => c.id === wanted)) return wanted;
  throw r.refuse(
    root,
    `there is no deployment option "${shown(wanted)}"`,
    options.length === 0 ? 'The package has none.' : `There are: ${options.map((c) => c.id).join(', ')}.`,
  );
}

const noHardware: OvfHardware = {
  families: [],
  cpus: null,
  coresPerSocket: null,
  memoryMiB: null,
  cpuAllocation: null,
  memoryAllocation: null,
  firmware: 'bios',
  secureBoot: false,
  tpm: false,
  transports: [],
  controllers: [],
  disks: [],
  drives: [],
  nics: [],
  others: [],
};

/** Families of machines that we can be, in the order in which alternatives are preferred. */
const familiesTaken = [/^(?:kvm|qemu|flotilla)/i, /^vmx-/i, /^virtualbox/i, /^xen/i];

function hardwareReader(
  sections: readonly Placed[],
): (r: Reading, m: Member, s: Surroundings) => OvfHardware {
  return (r, m, s) => {
    const all = sections.filter((p) => p.owner === m.id).map((p) => p.at);
    const first = all[0];
    if (first === undefined) {
      r.warn(m.at, `system "${shown(m.id)}" says nothing of its hardware`);
      return noHardware;
    }
    if (all.length === 1) return readHardware(r, first, m.at, s);
    r.warn(
      m.at,
      `system "${shown(m.id)}" describes ${all.length} alternatives of its hardware: one is taken`,
    );
    const read = all.map((e) => {
      const one = new Reading(r.file);
      return { e, hardware: readHardware(one, e, m.at, s) };
    });
    const best =
      familiesTaken
        .map((f) => read.find((x) => x.hardware.families.some((name) => f.test(name))))
        .find((x) => x !== undefined) ?? read[0];
    return best === undefined ? noHardware : readHardware(r, best.e, m.at, s);
  };
}

function readEula(r: Reading, { at, owner }: Placed, strings: Strings): OvfEula {
  const e = child(at, 'License');
  const text = strings.text(e);
  const ref = e === null ? null : attribute(e, 'fileRef');
  if (text !== '' || ref === null) return { owner, text };
  r.warn(at, `the text of a licence is in the file "${shown(ref)}"`);
  return { owner, text: `(in the file ${shown(ref)})` };
}

function readOs(e: XmlElement | null, strings: Strings): OvfOs | null {
  if (e === null) return null;
  const id = attribute(e, 'id')?.trim() ?? '';
  const maker =
    e.attributes.find((a) => a.name === 'osType')?.value ??
    textOf(e.children.find((c) => c.name === 'OSType' && !isOvfNs(c.ns)) ?? null);
  return {
    id: /^\d{1,5}$/.test(id) ? Number(id) : null,
    type: maker === '' ? null : maker,
    version: attribute(e, 'version'),
    description: strings.text(child(e, 'Description')),
  };
}

function readStart(r: Reading, sections: readonly Placed[], members: readonly Member[]): OvfStart[] {
  return sections.flatMap((p) => {
    const items = children(p.at, 'Item').map((e): OvfStart => {
      const written = r.require(e, 'id');
      const named = members.filter((m) => m.writtenId === written);
      const member = named.find((m) => m.collection === p.owner) ?? named[0];
      if (member === undefined)
        throw r.refuse(e, `the start order names "${shown(written)}", which there is not`, 'Correct its id.');
      if (member.collection !== p.owner && member.id !== p.owner)
        r.warn(
          e,
          `the start order names "${shown(written)}", which is not in ${shown(p.owner ?? 'the package')}`,
        );
      return {
        collection: p.owner,
        id: member.id,
        order: r.count(e, 'order') ?? 0,
        startDelayS: r.count(e, 'startDelay') ?? 0,
        waitForGuest: r.flag(e, 'waitingForGuest', false),
        startAction: word(r, e, 'startAction', ['powerOn', 'none'] as const),
        stopDelayS: r.count(e, 'stopDelay') ?? 0,
        stopAction: word(r, e, 'stopAction', ['powerOff', 'guestShutdown', 'none'] as const),
      };
    });
    return items.sort((a, b) => a.order - b.order);
  });
}

/** One of the words known, the first one unless told. */
function word<T extends string>(r: Reading, e: XmlElement, name: string, known: readonly [T, ...T[]]): T {
  const said = attribute(e, name)?.trim() ?? '';
  const found = known.find((k) => k.toLowerCase() === said.toLowerCase());
  if (found === undefined && said !== '') r.warn(e, `${name} "${shown(said)}" is read as ${known[0]}`);
  return found ?? known[0];
}
