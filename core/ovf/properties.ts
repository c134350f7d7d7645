import type { OvfProduct, OvfProperty } from './model.js';
import { wordsOf } from './hardware.js';
import type { Strings } from './strings.js';
import {
  anyAttribute,
  attribute,
  child,
  children,
  isOvf,
  shown,
  textOf,
  type Reading,
  type XmlElement,
} from './xml.js';

/** Appliances have up to some hundreds. */
const propertiesMax = 10_000;
const valueCharsMax = 16_384;

/** The software of a system or of the whole, and what can be told to it. */
export class Products {
  readonly products: OvfProduct[] = [];
  readonly properties: OvfProperty[] = [];
  readonly values = new Map<OvfProperty, string>();
  readonly #reading: Reading;
  readonly #strings: Strings;
  readonly #configuration: string | null;
  readonly #given: ReadonlyMap<string, string>;
  readonly #seen = new Set<string>();

  constructor(
    reading: Reading,
    o: {
      readonly strings: Strings;
      readonly configuration: string | null;
      /** Given by a person, by id of the property. */
      readonly given: ReadonlyMap<string, string>;
    },
  ) {
    this.#reading = reading;
    this.#strings = o.strings;
    this.#configuration = o.configuration;
    this.#given = o.given;
  }

  /** @throws FlotillaError `bad-input`: a value was given for a property that there is not */
  checkGiven(root: XmlElement): void {
    for (const id of this.#given.keys()) {
      if (this.properties.some((p) => p.id === id)) continue;
      const asked = this.properties.filter((p) => p.userConfigurable).map((p) => p.id);
      throw this.#reading.refuse(
        root,
        `there is no property "${shown(id)}"`,
        asked.length === 0 ? 'It asks for none.' : `It asks for: ${asked.slice(0, 20).join(', ')}.`,
      );
    }
  }

  /** The default of a property by its key or whole id; undefined: there is none. */
  valueOf(key: string): string | null | undefined {
    const property = this.properties.find((p) => p.key === key || p.id === key);
    return property === undefined ? undefined : (this.values.get(property) ?? null);
  }

  read(section: XmlElement, owner: string | null): void {
    const text = (name: string): string => this.#strings.text(child(section, name));
    const product: OvfProduct = {
      owner,
      class: attribute(section, 'class') ?? '',
      instance: attribute(section, 'instance') ?? '',
      name: text('Product'),
      vendor: text('Vendor'),
      version: text('Version'),
      fullVersion: text('FullVersion'),
      productUrl: text('ProductUrl'),
      vendorUrl: text('VendorUrl'),
    };
    this.products.push(product);
    let category: string | null = null;
    for (const e of section.children) {
      if (!isOvf(e)) continue;
      if (e.name === 'Category') category = this.#strings.text(e);
      if (e.name === 'Property') this.#property(e, product, category);
    }
  }

  #property(e: XmlElement, product: OvfProduct, category: string | null): void {
    const r = this.#reading;
    const key = r.require(e, 'key');
    const id = [product.class, key, product.instance].filter((p) => p !== '').join('.');
    const place = `${product.owner ?? ''}\n${id}`;
    if (this.#seen.has(place))
      throw r.refuse(
        e,
        `property "${shown(id)}" is there twice`,
        'Nobody can tell which value the guest is to get: rename one.',
      );
    this.#seen.add(place);
    if (this.properties.length >= propertiesMax)
      throw r.refuse(e, `it has more than ${propertiesMax} properties`, 'No appliance needs as many.');
    const type = attribute(e, 'type')?.trim() ?? '';
    if (type === '') r.warn(e, `property "${shown(id)}" has no type: it is read as text`);
    const secret =
      r.flag(e, 'password', false) || /^password/i.test(type) || /^password/i.test(makerType(e) ?? '');
    const value = this.#value(e);
    this.#checkValue(e, id, type, secret, value);
    const userConfigurable = r.flag(e, 'userConfigurable', false);
    const property: OvfProperty = {
      id,
      key,
      class: product.class,
      instance: product.instance,
      owner: product.owner,
      product: product.name === '' ? null : product.name,
      category,
      label: this.#strings.text(child(e, 'Label')),
      description: this.#strings.text(child(e, 'Description')),
      type: type === '' ? 'string' : type,
      qualifiers: attribute(e, 'qualifiers') ?? anyAttribute(e, 'qualifiers'),
      default: secret ? null : value,
      hasDefault: value !== null && value !== '',
      userConfigurable,
      secret,
      line: e.line,
    };
    this.properties.push(property);
    const told = this.#givenValue(e, property) ?? value;
    if (told !== null) this.values.set(property, told);
  }

  /** What a person gave instead of the default. */
  #givenValue(e: XmlElement, p: OvfProperty): string | undefined {
    const value = this.#given.get(p.id);
    if (value === undefined) return undefined;
    const bad = (why: string): Error =>
      this.#reading.refuse(e, `property "${shown(p.id)}" ${why}`, `Its type is ${shown(p.type)}.`);
    if (!p.userConfigurable) throw bad('is not one to be set: its maker says its value');
    if (value.length > valueCharsMax) throw bad('got an overlong value');
    if (types[p.type.toLowerCase()]?.(value.trim()) === false)
      throw bad('got a value that is not of its type');
    return value;
  }

  /** The value for the deployment option, else the one that holds always. */
  #value(e: XmlElement): string | null {
    for (const v of children(e, 'Value')) {
      const configurations = wordsOf(attribute(v, 'configuration'));
      const holds =
        configurations.length === 0 ||
        (this.#configuration !== null && configurations.includes(this.#configuration));
      if (holds) return attribute(v, 'value') ?? textOf(v);
    }
    // `defaultValue`: drafts.
    return attribute(e, 'value') ?? attribute(e, 'defaultValue');
  }

  #checkValue(e: XmlElement, id: string, type: string, secret: boolean, value: string | null): void {
    const fits = types[type.toLowerCase()];
    if (type !== '' && fits === undefined && !makersType.test(type))
      this.#reading.warn(e, `property "${shown(id)}" is of type "${shown(type)}", which is not known`);
    if (fits === undefined || value === null || value === '' || fits(value.trim())) return;
    const what = secret ? 'its default' : `its default "${shown(value)}"`;
    this.#reading.warn(e, `property "${shown(id)}" is of type ${type}, and ${what} is not`);
  }
}

/** VMware's own type beside the one of OVF. */
const makerType = (e: XmlElement): string | null =>
  e.attributes.find((a) => a.name === 'type' && a.ns.includes('vmware'))?.value ?? null;

const within =
  (low: bigint, high: bigint) =>
  (v: string): boolean =>
    /^[+-]?\d{1,20}$/.test(v) && BigInt(v) >= low && BigInt(v) <= high;
const unsigned = (bits: bigint) => within(0n, 2n ** bits - 1n);
const signed = (bits: bigint) => within(-(2n ** (bits - 1n)), 2n ** (bits - 1n) - 1n);
const real = (v: string): boolean => v !== '' && Number.isFinite(Number(v));

/** CIM's types, and VMware's `int`, with what their values look like. */
const types: Readonly<Record<string, (value: string) => boolean>> = {
  string: () => true,
  boolean: (v) => /^(?:true|false|0|1)$/i.test(v),
  uint8: unsigned(8n),
  uint16: unsigned(16n),
  uint32: unsigned(32n),
  uint64: unsigned(64n),
  sint8: signed(8n),
  sint16: signed(16n),
  sint32: signed(32n),
  sint64: signed(64n),
  int: signed(32n),
  real: real,
  real32: real,
  real64: real,
};

/** `ip`, `ip:Network 1`, `password(8..)`, `string["a","b"]`, `string(1..64)`, `int(0..10)`, `expression`. */
const makersType = /^(?:ip|password|string|int|real|boolean|expression)\b/i;
