import type { Identity, Rights } from '../../agent/http/auth.js';
import { FlotillaError } from '../../core/domain/error.js';
import { mayAs, type Role, type User } from '../../core/domain/user.js';
import type { Vapp } from '../../core/domain/vapp.js';
import type { Access } from '../../core/wire/access.js';
import type { View } from '../view.js';

/** Nodes by their certificates, and tests of what has no roles. */
const all: Rights = {
  role: 'admin',
  operates: [],
  operatesTags: [],
  operatesVapps: [],
  user: null,
  session: false,
};

export const rightsOf = (who: Identity | null): Rights | null =>
  who === null ? null : who.kind === 'node' ? all : (who.rights ?? null);

/** vApps a user operates: those named, and those whose owner has the user's name. */
export function operatedVapps(view: View, user: User): string[] {
  const owned = [...view.ledger.tables.vapp.values()].filter((k) => k.value.owner === user.name);
  return [...new Set([...user.operatesVapps, ...owned.map((k) => k.value.id)])];
}

/** What a request is about, as its path names it. */
export interface About {
  readonly vm?: string | undefined;
  readonly vapp?: string | undefined;
  readonly op?: string | undefined;
  /** It is about a vApp that only its body names: its handler asks {@link checkApply}. */
  readonly apply?: boolean;
}

/**
 * Lets only those on who may.
 *
 * @param about - objects in the path, by name or id: who operates them is an operator there
 * @throws FlotillaError `unauthenticated`, `forbidden`
 */
export function authorize(view: View, who: Identity | null, access: Access, about: About): void {
  if (access === 'open') return;
  const rights = rightsOf(who);
  if (rights === null) {
    throw new FlotillaError('unauthenticated', 'This needs a login', {
      hint: 'Send "Authorization: Bearer <API token>", or log in at /login.',
    });
  }
  if (access === 'self' || mayAs(rights.role, access)) return;
  if (access === 'operator' && operatesIt(view, rights, about)) return;
  throw forbidden(rights, access);
}

const forbidden = (rights: Rights, needs: Role): FlotillaError =>
  new FlotillaError('forbidden', `This is for the role ${needs}; yours is ${rights.role}`, {
    hint: 'Ask an admin: flotilla user edit NAME --role ROLE, --operates VM, --operates-tag TAG, or --operates-vapp VAPP.',
    details: { role: rights.role, needs },
  });

function operatesIt(view: View, rights: Rights, about: About): boolean {
  const { tables } = view.ledger;
  const vmIs = (id: string): boolean => {
    const spec = tables.vmSpec.get(id)?.value;
    return (
      rights.operates.includes(id) ||
      spec?.tags.some((t) => rights.operatesTags.includes(t)) === true ||
      (spec?.vapp !== undefined && rights.operatesVapps.includes(spec.vapp.id))
    );
  };
  const vm = about.vm === undefined ? null : view.find('vm', about.vm);
  const vapp = about.vapp === undefined ? null : view.find('vapp', about.vapp);
  const op = about.op === undefined ? undefined : tables.op.get(about.op)?.value.subject;
  return (
    (vm !== null && vmIs(vm)) ||
    (vapp !== null && rights.operatesVapps.includes(vapp)) ||
    (op?.kind === 'vm' && vmIs(op.id)) ||
    (op?.kind === 'vapp' && rights.operatesVapps.includes(op.id)) ||
    (about.apply === true && rights.operatesVapps.length > 0)
  );
}

/**
 * Whether a vApp may be made so. Its own operators change what is in it, and nothing of what it may take of the
 * cluster: that is up to operators of the cluster.
 *
 * @param before - null: it is new
 * @throws FlotillaError `forbidden`
 */
export function checkApply(who: Identity | null, before: Vapp | null, next: Vapp | null): void {
  const rights = rightsOf(who);
  if (rights === null || mayAs(rights.role, 'operator')) return;
  if (before === null || !rights.operatesVapps.includes(before.id)) throw forbidden(rights, 'operator');
  if (next === null) return;
  const known = new Set(before.networks.map((n) => n.network));
  const faults = [
    ...(['owner', 'class', 'cpuAllocation', 'memoryAllocation'] as const).filter(
      (k) => JSON.stringify(before[k]) !== JSON.stringify(next[k]),
    ),
    ...next.networks.filter((n) => !n.own && !known.has(n.network)).map((n) => `network "${n.name}"`),
  ];
  if (faults.length === 0) return;
  throw new FlotillaError('forbidden', `Of vApp "${before.name}" you may not change: ${faults.join(', ')}`, {
    hint: 'What a vApp takes of the cluster is set by operators of the cluster; ask one of them.',
    details: { role: rights.role, needs: 'operator' },
  });
}
