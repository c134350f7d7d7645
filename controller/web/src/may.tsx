import { createContext, useContext, type ReactNode } from 'react';
import { mayAs, type Role } from '../../../core/domain/user';
import type { Me } from '../../../core/wire/rest';

/** Who looks at the page; null: not known yet. */
export const MeContext = createContext<Me | null>(null);

/** Whether whoever looks may what that role may, on that VM where one is named. The server decides; this hides dead buttons. */
export function useMay(role: Role, vm?: string): boolean {
  const me = useContext(MeContext);
  if (me === null) return false;
  return mayAs(me.role, role) || (role === 'operator' && vm !== undefined && me.operates.includes(vm));
}

/** Shown only to who may. */
export function May(p: {
  readonly role: Role;
  readonly vm?: string;
  readonly children: ReactNode;
}): ReactNode {
  return useMay(p.role, p.vm) ? p.children : null;
}
