import { LibvirtError } from './error.js';

/*
 * The few facts that libvirt only tells inside XML. The documents come from the daemon, are well-formed, and
 * these elements are plain text, so a pattern does and the module needs no parser.
 */

/** Text of the first element of that name. @throws LibvirtError `protocol` when there is none */
export function elementText(xml: string, name: string): string {
  const text = new RegExp(`<${name}(?:\\s[^>]*)?>([^<]*)</${name}>`).exec(xml)?.[1];
  if (text === undefined) throw missing(`<${name}>`);
  return unescapeXml(text.trim());
}

/** An attribute of the first element of that name. @throws LibvirtError `protocol` when there is none */
export function elementAttribute(xml: string, name: string, attribute: string): string {
  const value = new RegExp(`<${name}\\s[^>]*?\\b${attribute}=(['"])(.*?)\\1`).exec(xml)?.[2];
  if (value === undefined) throw missing(`<${name} ${attribute}>`);
  return unescapeXml(value);
}

const ENTITIES: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

function unescapeXml(text: string): string {
  return text.replace(/&(lt|gt|amp|quot|apos);/g, (_, name: string) => ENTITIES[name] ?? '');
}

function missing(what: string): LibvirtError {
  return new LibvirtError(`the daemon's document has no ${what}`, { code: 'protocol', outcome: 'refused' });
}
