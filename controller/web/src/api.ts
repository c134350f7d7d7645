import { useCallback, useEffect, useState } from 'react';
import type { Problem, RestAnswer, RestName } from '../../../core/wire/rest';
import { requestOf, type CallOf } from '../../../core/wire/rest-call';
import { live, type Kind, type Kinds } from './live';

/** A refusal, in the server's words. */
export class Refused extends Error {
  readonly code: string;
  readonly hint: string;
  readonly causes: readonly string[];
  constructor(p: Pick<Problem, 'code' | 'message' | 'hint' | 'causes'>) {
    super(p.message);
    this.code = p.code;
    this.hint = p.hint;
    this.causes = p.causes;
  }
}

/** One key for one wish: the same click sent again by the browser or after a lost answer does it once. */
export const newKey = (): string => crypto.randomUUID();

/** @throws Refused */
export async function call<N extends RestName>(
  name: N,
  args: CallOf<N>,
  o: { ifMatch?: string; key?: string } = {},
): Promise<RestAnswer<N>> {
  const { key = newKey(), ...more } = o;
  const { method, path, headers, body } = requestOf(name, args, { key, ...more });
  let res: Response;
  try {
    res = await fetch(path, { method, headers, ...(body === undefined ? {} : { body }) });
  } catch {
    throw new Refused({
      code: 'node-unreachable',
      message: 'The controller does not answer',
      hint: 'Nobody knows whether this was done: look, or send it again. Any node can run a controller.',
      causes: [],
    });
  }
  if (res.status === 401) location.assign('/login');
  if (res.status === 204) return null as RestAnswer<N>;
  const json: unknown = await res.json().catch(() => null);
  if (res.ok) return json as RestAnswer<N>;
  throw new Refused(
    (json as Problem | null) ?? {
      code: 'node-unreachable',
      message: `The server answered with status ${res.status}, not as Flotilla does`,
      hint: 'Is a proxy in between?',
      causes: [],
    },
  );
}

/** What can be done by a button: runs, and keeps what was refused until the next try. */
export function useDo(): {
  readonly busy: boolean;
  readonly refused: Refused | null;
  readonly run: (act: () => Promise<unknown>) => Promise<boolean>;
  readonly clear: () => void;
} {
  const [busy, setBusy] = useState(false);
  const [refused, setRefused] = useState<Refused | null>(null);
  const run = useCallback(async (act: () => Promise<unknown>): Promise<boolean> => {
    setBusy(true);
    setRefused(null);
    try {
      await act();
      return true;
    } catch (e) {
      setRefused(
        e instanceof Refused
          ? e
          : new Refused({ code: 'internal', message: String(e), hint: 'Load the page again.', causes: [] }),
      );
      return false;
    } finally {
      setBusy(false);
    }
  }, []);
  return { busy, refused, run, clear: useCallback(() => setRefused(null), []) };
}

/** Something that the stream does not carry whole: asked anew whenever `mark` changes. */
export function useAsked<N extends RestName>(
  name: N,
  args: CallOf<N>,
  mark: unknown,
  /** False: it is not asked at all. */
  wanted = true,
): { readonly value: RestAnswer<N> | null; readonly refused: Refused | null } {
  const [value, setValue] = useState<RestAnswer<N> | null>(null);
  const [refused, setRefused] = useState<Refused | null>(null);
  const text = JSON.stringify(args);
  useEffect(() => {
    if (!wanted) return;
    let ended = false;
    call(name, JSON.parse(text) as CallOf<N>).then(
      (v) => {
        if (ended) return;
        setValue(v);
        setRefused(null);
      },
      (e: unknown) => {
        if (!ended && e instanceof Refused) setRefused(e);
      },
    );
    return () => {
      ended = true;
    };
  }, [name, text, mark, wanted]);
  return { value, refused };
}

/** An answer brings an object before the stream does: it is shown at once. */
export function saw<K extends Kind>(kind: K, item: Kinds[K] | null | undefined): void {
  const table = live.tables[kind];
  if (item === null || item === undefined || table.get(item.id) !== undefined) return;
  table.put.call(table, item);
  table.bell.ring();
}
