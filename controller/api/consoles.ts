import type { Identity } from '../../agent/http/auth.js';
import { authorize } from './access.js';
import type { ApiDeps, Some } from './context.js';
import { idOf } from './lookup.js';

export function consoleHandlers(deps: ApiDeps): Some<'vmConsole'> {
  return {
    async vmConsole({ params, body, who, identity }) {
      const vm = await idOf(deps.view, 'vm', params.vm);
      return {
        body: deps.consoles.ticket({
          vm,
          kind: body.kind,
          history: body.history,
          who,
          may: () => still(deps, identity, vm),
        }),
      };
    },
  };
}

/** Whether who opened a console may still look: the token is there, and its user's rights are. */
function still({ view, door }: ApiDeps, who: Identity | null, vm: string): boolean {
  if (who?.kind !== 'token') return who !== null;
  const now = door.rightsOf(who.id);
  if (now === null) return false;
  try {
    authorize(view, { ...who, rights: now }, 'operator', { vm });
    return true;
  } catch {
    return false;
  }
}
