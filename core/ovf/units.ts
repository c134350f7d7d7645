/** Words that older descriptors use for bytes. */
const words: Readonly<Record<string, number>> = {
  '': 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

const longWords: Readonly<Record<string, string>> = {
  KILO: 'K',
  MEGA: 'M',
  GIGA: 'G',
  TERA: 'T',
  KIBI: 'K',
  MEBI: 'M',
  GIBI: 'G',
  TEBI: 'T',
};

/**
 * Bytes of one unit: `byte * 2^20`, `byte*1024*1024`, `MegaBytes`, `GB`, `KiB`.
 *
 * @returns null where it is no unit of bytes
 * @see DSP0004, programmatic units; OVF 0.9 drafts for the words
 */
export function unitBytes(text: string): number | null {
  const [base = '', ...factors] = text.split('*').map((p) => p.trim());
  const start = wordBytes(base);
  if (start === null || factors.length > 8) return null;
  let bytes = start;
  for (const f of factors) {
    const m = /^(\d{1,16})(?:\s*\^\s*(\d{1,3}))?$/.exec(f);
    if (m === null) return null;
    bytes *= Number(m[1]) ** Number(m[2] ?? 1);
  }
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : null;
}

function wordBytes(word: string): number | null {
  const m = /^(KILO|MEGA|GIGA|TERA|KIBI|MEBI|GIBI|TEBI|[KMGT])?I?(?:BYTES?|B)$/.exec(
    word.toUpperCase().replaceAll(' ', ''),
  );
  if (m === null) return null;
  const prefix = m[1] ?? '';
  return words[longWords[prefix] ?? prefix] ?? null;
}
