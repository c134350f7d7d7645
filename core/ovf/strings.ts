import { anyAttribute, attribute, children, textOf, type Reading, type XmlElement } from './xml.js';

/** Texts by their key in one language. */
interface Bundle {
  readonly language: string;
  readonly texts: Map<string, string>;
}

/** Names the files that hold texts: `<Strings ovf:fileRef="…">`. */
export const stringFileRefs = (envelope: XmlElement): string[] =>
  children(envelope, 'Strings')
    .map((s) => attribute(s, 'fileRef'))
    .filter((f) => f !== null);

/** Translations of a package's texts. */
export class Strings {
  readonly #bundles: readonly Bundle[];

  constructor(bundles: readonly Bundle[]) {
    this.#bundles = bundles;
  }

  /** What a person is shown for this element: its translation, else what stands in it, else any translation. */
  text(e: XmlElement | null): string {
    if (e === null) return '';
    const key = attribute(e, 'msgid');
    if (key === null) return textOf(e);
    const own = textOf(e);
    const [first, ...others] = this.#bundles;
    return (
      first?.texts.get(key) ??
      (own === '' ? (others.find((b) => b.texts.has(key))?.texts.get(key) ?? '') : own)
    );
  }
}

/**
 * Reads the bundles of an envelope.
 *
 * @param files - roots of the files that bundles refer to, by the id of the file; those not here are passed over
 * @param language - wanted, `de-DE`; null: the package's own
 */
export function readStrings(
  r: Reading,
  envelope: XmlElement,
  files: ReadonlyMap<string, XmlElement>,
  language: string | null,
): Strings {
  const wanted = (language ?? anyAttribute(envelope, 'lang') ?? 'en-US').toLowerCase();
  const bundles = children(envelope, 'Strings').map((s): Bundle => {
    const ref = attribute(s, 'fileRef');
    const file = ref === null ? null : (files.get(ref) ?? null);
    if (ref !== null && file === null) r.warn(s, `the texts in file "${ref}" are not here`);
    const texts = new Map<string, string>();
    for (const m of [...children(s, 'Msg'), ...(file === null ? [] : children(file, 'Msg'))]) {
      const key = attribute(m, 'msgid');
      if (key !== null) texts.set(key, textOf(m));
    }
    return { language: (anyAttribute(s, 'lang') ?? '').toLowerCase(), texts };
  });
  const rank = (b: Bundle): number =>
    b.language === wanted ? 0 : b.language.split('-')[0] === wanted.split('-')[0] ? 1 : 2;
  const best = [...bundles].sort((a, b) => rank(a) - rank(b));
  // In another language than the one wanted, what stands in the element itself goes first.
  return new Strings(
    best[0] === undefined || rank(best[0]) < 2 ? best : [{ language: wanted, texts: new Map() }, ...best],
  );
}
