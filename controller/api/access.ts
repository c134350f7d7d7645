import type { Identity, Rights } from '../../agent/http/auth.js';
import { FlotillaError } from '../../core/domain/error.js';
import { mayAs } from '../../core/domain/user.js';
import type { Access } from '../../core/wire/access.js';
import type { View } from '../view.js';

/** Nodes by their certificates, and tests of what has no roles. */
const all: Rights = { role: 'admin', operates: [], operatesTags: [], user: null, session: false };

export const rightsOf = (who: Identity | null): Rights | null =>
  who === null ? null : who.kind === 'node' ? all : (who.rights ?? null);

/**
 * Lets only those on who may.
 *
 * @param vm - the VM in the path, by name or id: who operates it is an operator there
 * @throws FlotillaError `unauthenticated`, `forbidden`
 */
export function authorize(view: View, who: Identity | null, access: Access, vm: string | undefined): void {
  if (access === 'open') return;
  const rights = rightsOf(who);
  if (rights === null) {
    throw new FlotillaError('unauthenticated', 'This needs a login', {
      hint: 'Send "Authorization: Bearer <API token>", or log in at /login.',
    });
  }
  if (access === 'self' || mayAs(rights.role, access)) return;
  if (access === 'operator' && vm !== undefined) {
    const id = view.find('vm', vm);
    if (id !== null && rights.operates.includes(id)) return;
    const tags = id === null ? [] : (view.ledger.tables.vmSpec.get(id)?.value.tags ?? []);
    if (tags.some((t) => rights.operatesTags.includes(t))) return;
  }
  throw new FlotillaError('forbidden', `This is for the role ${access}; yours is ${rights.role}`, {
    hint: 'Ask an admin: flotilla user edit NAME --role ROLE, --operates VM, or --operates-tag TAG.',
    details: { role: rights.role, needs: access },
  });
}
