import type { ApiDeps, Some } from './context.js';
import { idOf } from './lookup.js';

export function consoleHandlers(deps: ApiDeps): Some<'vmConsole'> {
  return {
    async vmConsole({ params, body, who }) {
      const vm = await idOf(deps.view, 'vm', params.vm);
      return {
        body: deps.consoles.ticket({ vm, kind: body.kind, history: body.history, who, may: () => true }),
      };
    },
  };
}
