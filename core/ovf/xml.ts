import { FlotillaError } from '../domain/error.js';

export interface XmlAttribute {
  /** Namespace; empty: none. */
  readonly ns: string;
  readonly name: string;
  readonly value: string;
}

/** One element of a document, names without prefixes. */
export interface XmlElement {
  readonly ns: string;
  readonly name: string;
  readonly line: number;
  readonly attributes: readonly XmlAttribute[];
  readonly children: readonly XmlElement[];
  /** Its own text, without that of its children; as it stands. */
  readonly text: string;
  /** Where it begins and ends in the document's text. */
  readonly from: number;
  readonly to: number;
  /** Prefixes declared here. */
  readonly declared: Readonly<Record<string, string>> | null;
}

/** Namespaces of the envelope, of drafts and of products that write them a little otherwise. */
const envelopeNs =
  /^http:\/\/(?:schemas\.dmtf\.org\/ovf\/(?:1\/)?envelope(?:\/[12])?|www\.vmware\.com\/schema\/ovf\/1\/envelope)\/?$/;

export const isOvfNs = (ns: string): boolean => envelopeNs.test(ns);

/** An element of OVF, also where the writer forgot its namespace. */
export const isOvf = (e: XmlElement): boolean => e.ns === '' || isOvfNs(e.ns);

/** The attribute in OVF's namespace, else in none. */
export function attribute(e: XmlElement, name: string): string | null {
  let bare: string | null = null;
  for (const a of e.attributes) {
    if (a.name !== name) continue;
    if (isOvfNs(a.ns)) return a.value;
    if (a.ns === '') bare = a.value;
  }
  return bare;
}

/** The attribute of that name in whatever namespace. */
export const anyAttribute = (e: XmlElement, name: string): string | null =>
  e.attributes.find((a) => a.name === name)?.value ?? null;

export const children = (e: XmlElement, name: string): XmlElement[] =>
  e.children.filter((c) => c.name === name && isOvf(c));

export const child = (e: XmlElement, name: string): XmlElement | null =>
  e.children.find((c) => c.name === name && isOvf(c)) ?? null;

/** What a person reads of it, for descriptions: blanks at both ends are layout. */
export const textOf = (e: XmlElement | null): string => e?.text.trim() ?? '';

/** @returns null where the attribute is neither; `1` and `0` are XML's other way to write them */
export function booleanOf(text: string): boolean | null {
  const t = text.trim().toLowerCase();
  return t === 'true' || t === '1' ? true : t === 'false' || t === '0' ? false : null;
}

/** A remark on what was read otherwise than it is written, or left out. */
export interface Remark {
  /** Of the descriptor; null: it is about the package. */
  readonly line: number | null;
  readonly text: string;
}

/** Remarks are bounded: a hostile document would make one per element. */
const remarksMax = 500;

/** One reading of one document: where it says what is wrong, and what it passes over. */
export class Reading {
  readonly file: string;
  readonly warnings: Remark[] = [];

  constructor(file: string) {
    this.file = file;
  }

  warn(at: XmlElement, text: string): void {
    if (this.warnings.length < remarksMax) this.warnings.push({ line: at.line, text });
  }

  /** @returns the refusal to throw, with file and line */
  refuse(at: { readonly line: number }, text: string, hint: string): FlotillaError {
    return refusal(this.file, at.line, text, hint);
  }

  /** @throws FlotillaError `bad-input` where it is absent or empty */
  require(e: XmlElement, name: string): string {
    const value = attribute(e, name)?.trim() ?? '';
    if (value !== '') return value;
    throw this.refuse(
      e,
      `<${e.name}> has no ${name}`,
      `Its attribute ovf:${name} is needed. Ask the one who made the package.`,
    );
  }

  /** A yes or no; anything else is refused. */
  flag(e: XmlElement, name: string, unless: boolean): boolean {
    const value = attribute(e, name);
    if (value === null || value.trim() === '') return unless;
    const flag = booleanOf(value);
    if (flag !== null) return flag;
    throw this.refuse(e, `${name}="${shown(value)}" of <${e.name}> is neither true nor false`, 'Correct it.');
  }

  /** A whole number from 0 on; null where there is none. */
  count(e: XmlElement, name: string): number | null {
    const value = attribute(e, name)?.trim() ?? '';
    return value === '' ? null : this.number(e, name, value);
  }

  number(e: XmlElement, what: string, text: string): number {
    const n = /^\+?\d{1,16}$/.test(text) ? Number(text) : NaN;
    if (Number.isSafeInteger(n)) return n;
    throw this.refuse(
      e,
      `${what} of <${e.name}> is "${shown(text)}", ${/^\+?\d+$/.test(text) ? 'which is impossibly large' : 'not a whole number'}`,
      'Correct it; there is no sensible guess.',
    );
  }
}

export function refusal(file: string, line: number | null, text: string, hint: string): FlotillaError {
  const at = line === null ? file : `${file} line ${line}`;
  return new FlotillaError('bad-input', `${at}: ${text}`, {
    hint,
    details: line === null ? { file } : { file, line },
  });
}

/** A piece of the document inside a message: short, and on one line. */
export const shown = (text: string): string => {
  // eslint-disable-next-line no-control-regex -- what comes from a file may not command the terminal
  const plain = text.replaceAll(/[\u0000-\u001f\u007f-\u009f]+/g, ' ').trim();
  return plain.length > 60 ? `${plain.slice(0, 59)}…` : plain;
};
