import type { VappProperty } from '../domain/vapp.js';

type Value = string | number | boolean;

/** What somebody gave for a property, as it is of its type; null: it is not. */
export function typedValue(v: Value, type: VappProperty['type']): Value | null {
  switch (type) {
    case 'string':
      return typeof v === 'string' ? v : String(v);
    case 'boolean':
      return typeof v === 'boolean' ? v : v === 'true' ? true : v === 'false' ? false : null;
    case 'integer':
    case 'number': {
      const n = typeof v === 'number' ? v : typeof v === 'string' && v.trim() !== '' ? Number(v) : NaN;
      return Number.isFinite(n) && (type === 'number' || Number.isSafeInteger(n)) ? n : null;
    }
  }
}

/** What is wrong with a value, in words; null: nothing. */
export function valueFault(
  v: Value,
  p: Pick<VappProperty, 'type'> & { readonly choices?: readonly Value[] | undefined },
): string | null {
  const typed = typedValue(v, p.type);
  if (typed === null) return `is no ${p.type}`;
  if (p.choices === undefined || p.choices.some((c) => c === typed)) return null;
  return `is none of ${p.choices.map(String).join(', ').slice(0, 200)}`;
}
