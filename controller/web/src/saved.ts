/** A filter of the VM list that this browser keeps. */
export interface SavedFilter {
  readonly name: string;
  readonly query: string;
}

const key = 'flotilla.filters';
const savedMax = 50;

/** What is kept may be of another version, or somebody's joke. */
export function readSaved(): readonly SavedFilter[] {
  try {
    const list: unknown = JSON.parse(localStorage.getItem(key) ?? '[]');
    if (!Array.isArray(list)) return [];
    return list
      .filter(
        (f: Partial<SavedFilter> | null): f is SavedFilter =>
          typeof f?.name === 'string' && typeof f.query === 'string',
      )
      .slice(0, savedMax);
  } catch {
    return [];
  }
}

export function saveFilter(name: string, query: string): readonly SavedFilter[] {
  return write([...readSaved().filter((f) => f.name !== name), { name, query }].slice(-savedMax));
}

export function deleteSaved(name: string): readonly SavedFilter[] {
  return write(readSaved().filter((f) => f.name !== name));
}

function write(list: readonly SavedFilter[]): readonly SavedFilter[] {
  localStorage.setItem(key, JSON.stringify(list));
  return list;
}
