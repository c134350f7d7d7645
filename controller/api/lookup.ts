import { FlotillaError } from '../../core/domain/error.js';
import type { Image } from '../../core/domain/image.js';
import type { Pool } from '../../core/domain/pool.js';
import type { View } from '../view.js';

export type Kind =
  'vm' | 'pool' | 'image' | 'network' | 'token' | 'user' | 'node' | 'rule' | 'vapp' | 'class' | 'template';

const words: Record<Kind, string> = {
  vm: 'VM',
  pool: 'pool',
  image: 'image',
  network: 'network',
  token: 'token',
  user: 'user',
  node: 'node',
  rule: 'rule',
  vapp: 'vApp',
  class: 'class',
  template: 'template',
};

export function notFound(kind: Kind | 'certificate', ref: string): FlotillaError {
  return new FlotillaError(
    'not-found',
    `There is no ${kind === 'certificate' ? kind : words[kind]} "${ref}"`,
    {
      hint: `See which there are: flotilla ${kind} list.`,
    },
  );
}

/**
 * The id of what a person named. What this view does not know may be new: the ledger is read once before saying no.
 *
 * @throws FlotillaError `not-found`, `ledger-unavailable`
 */
export async function idOf(view: View, kind: Kind, ref: string): Promise<string> {
  view.freshness();
  const known = view.find(kind, ref);
  if (known !== null) return known;
  await view.ledger.refresh(kind === 'vm' ? 'vmSpec' : kind);
  const now = view.find(kind, ref);
  if (now === null) throw notFound(kind, ref);
  return now;
}

/** The pool named, or the one to be taken where none is: `local`, else the only one. */
export function poolOf(view: View, ref: string | undefined): Pool {
  const pools = view.ledger.tables.pool;
  const id = ref === undefined ? (view.find('pool', 'local') ?? onlyOne(pools)) : view.find('pool', ref);
  const pool = id === null ? undefined : pools.get(id)?.value;
  if (pool !== undefined) return pool;
  if (ref !== undefined) throw notFound('pool', ref);
  const names = [...pools.values()].map((p) => p.value.name).sort();
  throw new FlotillaError(
    'bad-input',
    names.length === 0 ? 'The cluster has no pool' : 'Which pool is not said',
    {
      hint: names.length === 0 ? 'Make one: flotilla pool create.' : `Name one of: ${names.join(', ')}.`,
    },
  );
}

function onlyOne(m: ReadonlyMap<string, unknown>): string | null {
  const [first] = m.keys();
  return m.size === 1 && first !== undefined ? first : null;
}

/** An image that can be used. @throws FlotillaError `not-found`, `wrong-state` */
export function readyImage(view: View, ref: string): Image {
  const id = view.find('image', ref);
  const image = id === null ? undefined : view.ledger.tables.image.get(id)?.value;
  if (image === undefined) throw notFound('image', ref);
  if (image.state !== 'ready') {
    throw new FlotillaError('wrong-state', `The image "${image.name}" is not ready: it is ${image.state}`, {
      hint:
        image.state === 'failed'
          ? 'Delete it and import it again.'
          : 'Wait until its import is done: flotilla image list.',
    });
  }
  return image;
}
