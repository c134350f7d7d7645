import type { Role } from '../domain/user.js';
import { rest, restStreams, type RestName, type RestRoute } from './rest.js';

/** Who may use a route: everybody; whoever is logged in (it shows and changes their own only); a role. */
export type Access = 'open' | 'self' | Role;

/** What operators change; of what is new nobody but admins does, until it is named here or in its row. */
const operated = /^\/(vms|vapps|templates|images|ops)(\/|$)/;

export function accessOf(name: RestName): Access {
  const r: RestRoute = rest[name];
  if (r.access !== undefined) return r.access;
  if (r.method === 'get') return 'viewer';
  return operated.test(r.path) ? 'operator' : 'admin';
}

export const streamAccess = {
  imageContent: 'operator',
  exportContent: 'operator',
  vappPackage: 'operator',
  events: 'viewer',
  // Its ticket says it.
  console: 'viewer',
} as const satisfies Record<keyof typeof restStreams, Access>;
