/** A filter of a list that this browser keeps. */
export interface SavedFilter {
  /** Path of the list. */
  readonly at: string;
  readonly name: string;
  readonly query: string;
}

const key = 'flotilla.filters';
const savedMax = 100;

/** What is kept may be of another version, or somebody's joke. */
export function readSaved(): readonly SavedFilter[] {
  try {
    const list: unknown = JSON.parse(localStorage.getItem(key) ?? '[]');
    if (!Array.isArray(list)) return [];
    return list
      .filter(
        (
          f: { at?: unknown; name?: unknown; query?: unknown } | null,
        ): f is {
          at?: unknown;
          name: string;
          query: string;
        } => typeof f?.name === 'string' && typeof f.query === 'string',
      )
      .map(({ at, name, query }) => ({
        // The VMs had them first.
        at: typeof at === 'string' && /^\/[a-z]+$/.test(at) ? at : '/vms',
        name,
        query,
      }))
      .slice(0, savedMax);
  } catch {
    return [];
  }
}

export const savedAt = (at: string): readonly SavedFilter[] => readSaved().filter((f) => f.at === at);

const others = (at: string, name: string): readonly SavedFilter[] =>
  readSaved().filter((f) => f.at !== at || f.name !== name);

/** @returns those of that list */
export function saveFilter(at: string, name: string, query: string): readonly SavedFilter[] {
  return write([...others(at, name), { at, name, query }].slice(-savedMax), at);
}

/** @returns those of that list that are left */
export const deleteSaved = (at: string, name: string): readonly SavedFilter[] => write(others(at, name), at);

function write(list: readonly SavedFilter[], at: string): readonly SavedFilter[] {
  localStorage.setItem(key, JSON.stringify(list));
  return list.filter((f) => f.at === at);
}
