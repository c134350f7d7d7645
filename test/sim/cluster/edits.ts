/** A rule of the shipped program switched off: one expression of one compiled file, which must be there exactly once. */
export interface Edit {
  /** Below the folder of compiled files. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

/*
 * The rest are hooks of Node's module loader: edits are made where a file is loaded, so the shipped program needs no
 * switch of its own for them. What was edited is counted in `globalThis.flotillaEdits`.
 */

let edits: readonly Edit[] = [];

export function initialize(data: readonly Edit[]): void {
  edits = data;
}

interface Loaded {
  readonly source?: string | Uint8Array | null;
}

/** @throws Error where the text is not there exactly once: the mutation has to be written anew */
export async function load(
  url: string,
  context: unknown,
  next: (url: string, context: unknown) => Promise<Loaded>,
): Promise<Loaded> {
  const loaded = await next(url, context);
  const mine = edits.filter((e) => url.endsWith(`/build/js/${e.file}`));
  if (mine.length === 0) return loaded;
  let text = typeof loaded.source === 'string' ? loaded.source : Buffer.from(loaded.source ?? []).toString();
  for (const e of mine) {
    const parts = text.split(e.from);
    if (parts.length !== 2) throw new Error(`${e.file} has ${parts.length - 1} times, not once: ${e.from}`);
    text = parts.join(e.to);
  }
  const count = `\nglobalThis.flotillaEdits = (globalThis.flotillaEdits ?? 0) + ${mine.length};\n`;
  return { ...loaded, source: text + count };
}
