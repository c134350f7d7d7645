import type { Role } from '../../../core/domain/user.js';
import { callApp, type Rig } from './rig.js';

export const password = (name: string): string => `the password of ${name}`;

/** Makes a user; by an admin. */
export async function person(
  r: Rig,
  name: string,
  role: Role,
  operates: readonly string[] = [],
): Promise<void> {
  const a = await r.call('POST', '/api/v1/users', { name, role, password: password(name), operates });
  if (a.status !== 201) throw new Error(`user ${name}: ${a.status} ${JSON.stringify(a.body)}`);
}

export interface LoginAnswer {
  readonly status: number;
  readonly body: { readonly token: string; readonly code: string };
}
export const logIn = (
  r: Rig,
  user: string,
  o: { password?: string; code?: string } = {},
): Promise<LoginAnswer> =>
  callApp(r.app, null, 'POST', '/api/v1/login', {
    user,
    password: o.password ?? password(user),
    ...(o.code === undefined ? {} : { code: o.code }),
  });

/** A session's token. */
export async function session(r: Rig, user: string): Promise<string> {
  const a = await logIn(r, user);
  if (a.status !== 200) throw new Error(`login of ${user}: ${a.status} ${JSON.stringify(a.body)}`);
  return a.body.token;
}
