import { createContext, useContext, type ReactNode } from 'react';
import { mayAs, type Role } from '../../../core/domain/user';
import { useAll, useOne } from './live';
import type { Me } from '../../../core/wire/rest';

/** Who looks at the page; null: not known yet. */
export const MeContext = createContext<Me | null>(null);

/** Whether whoever looks may what that role may, on that VM or vApp where one is named. The server decides; this hides dead buttons. */
export function useMay(role: Role, vm?: string, vapp?: string): boolean {
  const me = useContext(MeContext);
  const tags = useOne('vm', vm ?? '')?.tags ?? [];
  const vapps = useAll('vapp').filter((v) => v.id === vapp || v.members.some((m) => m.vm === vm));
  if (me === null) return false;
  if (mayAs(me.role, role)) return true;
  if (role !== 'operator') return false;
  if (vapps.some((v) => me.operatesVapps.includes(v.id) || v.owner === me.user?.name)) return true;
  return vm !== undefined && (me.operates.includes(vm) || tags.some((t) => me.operatesTags.includes(t)));
}

/** Shown only to who may. */
export function May(p: {
  readonly role: Role;
  readonly vm?: string;
  readonly vapp?: string;
  readonly children: ReactNode;
}): ReactNode {
  return useMay(p.role, p.vm, p.vapp) ? p.children : null;
}
