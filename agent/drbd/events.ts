import { z } from 'zod';
import { copyStates, type PairSeen, type VolumeSeen } from '../../core/domain/replica.js';
import { vmOfResource } from './config.js';

/*
 * What `drbdsetup events2` of DRBD 8.4 says: one line an object, `exists resource name:r role:Secondary …`. It is the one
 * output of 8.4 that programs can read; there is no JSON. @see test/fixtures/drbd
 */

const kinds = ['resource', 'connection', 'device', 'peer-device', 'helper'] as const;

export interface DrbdLine {
  readonly event: 'exists' | 'create' | 'change' | 'destroy' | 'call' | 'response';
  readonly kind: (typeof kinds)[number];
  readonly words: ReadonlyMap<string, string>;
}

/** @returns null: the end of a dump, a line about resources left out, or one that is not understood */
export function parseLine(text: string): DrbdLine | null {
  // With --timestamps a line begins with one.
  const [first = '', ...others] = text.trim().split(/\s+/);
  const [event = '', kind = '', ...rest] = /^\d{4}-/.test(first) ? others : [first, ...others];
  if (!['exists', 'create', 'change', 'destroy', 'call', 'response'].includes(event)) return null;
  if (!(kinds as readonly string[]).includes(kind)) return null;
  const words = new Map<string, string>();
  for (const w of rest) {
    const at = w.indexOf(':');
    if (at > 0) words.set(w.slice(0, at), w.slice(at + 1));
  }
  return { event, kind, words } as DrbdLine;
}

const copy = z.enum(copyStates);
const role = z.enum(['Primary', 'Secondary', 'Unknown']);
const count = z.coerce.number().int().nonnegative();

interface Building {
  role: PairSeen['role'];
  peerRole: PairSeen['peerRole'];
  connection: string;
  suspended: boolean;
  volumes: Map<number, VolumeSeen>;
}

/** What a dump says, and what in it was not understood: shown, never passed over. */
export interface Dump {
  readonly pairs: ReadonlyMap<string, PairSeen>;
  readonly unreadable: readonly string[];
}

/**
 * Reads a dump (`events2 --now --statistics`). A pair of which any line cannot be read is left out: what is not known is
 * not taken for well. So is everything where the dump has no end.
 */
export function parseDump(text: string): Dump {
  const found = new Map<string, Building>();
  const bad = new Set<string>();
  const unreadable: string[] = [];
  const lines = text.split('\n').filter((l) => l.trim() !== '');
  for (const l of lines) {
    if (/^exists -( |$)/.test(l)) continue;
    const line = parseLine(l);
    const name = line?.words.get('name') ?? '';
    const vm = vmOfResource(name);
    if (line !== null && name !== '' && vm === null) continue; // somebody else's
    try {
      if (line?.event !== 'exists' || vm === null) throw new Error('not understood');
      take(line, building(found, vm));
    } catch {
      unreadable.push(l.slice(0, 200));
      if (vm !== null) bad.add(vm);
    }
  }
  const ended = lines.some((l) => /^exists -( |$)/.test(l));
  if (!ended) return { pairs: new Map(), unreadable: [...unreadable, 'the dump has no end'] };
  const pairs = [...found]
    .filter(([vm]) => !bad.has(vm))
    .map(([vm, b]): [string, PairSeen] => [
      vm,
      { ...b, vm, volumes: [...b.volumes.values()].sort((x, y) => x.volume - y.volume) },
    ]);
  return { pairs: new Map(pairs), unreadable };
}

function building(found: Map<string, Building>, vm: string): Building {
  const b = found.get(vm) ?? {
    role: 'Unknown',
    peerRole: 'Unknown',
    connection: 'StandAlone',
    suspended: false,
    volumes: new Map<number, VolumeSeen>(),
  };
  found.set(vm, b);
  return b;
}

function take(line: DrbdLine, b: Building): void {
  const word = (key: string): string => {
    const value = line.words.get(key);
    if (value === undefined) throw new Error(`no ${key}`);
    return value;
  };
  switch (line.kind) {
    case 'resource':
      b.role = role.parse(word('role'));
      b.suspended = word('suspended') !== 'no';
      return;
    case 'connection':
      b.connection = word('connection');
      b.peerRole = role.parse(word('role'));
      return;
    case 'device': {
      const v = volume(b, count.parse(word('volume')));
      b.volumes.set(v.volume, {
        ...v,
        minor: count.parse(word('minor')),
        here: copy.parse(word('disk')),
        sizeBytes: count.parse(line.words.get('size') ?? '0') * 1024,
      });
      return;
    }
    case 'peer-device': {
      const v = volume(b, count.parse(word('volume')));
      b.volumes.set(v.volume, {
        ...v,
        replication: word('replication'),
        there: copy.parse(word('peer-disk')),
        behindBytes: count.parse(word('out-of-sync')) * 1024,
      });
      return;
    }
    case 'helper':
      throw new Error('a dump has no calls');
  }
}

const volume = (b: Building, n: number): VolumeSeen =>
  b.volumes.get(n) ?? {
    volume: n,
    minor: 0,
    here: 'DUnknown',
    there: 'DUnknown',
    replication: 'Off',
    sizeBytes: 0,
    behindBytes: 0,
  };
