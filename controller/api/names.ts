import { FlotillaError } from '../../core/domain/error.js';
import { unique } from '../../core/wire/ledger-keys.js';
import type { ApiDeps } from './context.js';

type Named = Parameters<typeof unique.name>[0];

const words: Record<Named, string> = {
  vm: 'a VM',
  pool: 'a pool',
  image: 'an image',
  network: 'a network',
  token: 'a token',
  user: 'a user',
  vapp: 'a vApp',
  rule: 'a rule',
  class: 'a class',
  template: 'a template',
};

/**
 * Says early and plainly that a name is taken; the transaction makes sure of it.
 *
 * @throws FlotillaError `name-taken`
 */
export async function nameFree(deps: Pick<ApiDeps, 'ledger'>, of: Named, name: string): Promise<void> {
  const holder = await deps.ledger.get(unique.name(of, name));
  if (holder === null) return;
  throw new FlotillaError('name-taken', `There is ${words[of]} "${name}" already`, {
    hint: 'Choose another name: names compare without case.',
    details: { id: holder.value },
  });
}
