import type { Identity } from '../../agent/http/auth.js';
import { hashPassword } from '../../agent/pki/password.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { User } from '../../core/domain/user.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import type { Me, UserView } from '../../core/wire/rest.js';
import { newTotpSecret, totpUri } from '../../agent/pki/totp.js';
import type { View } from '../view.js';
import { Change, checkIfMatch, commit, etagOf } from './commit.js';
import { contentMark, type Kept } from '../tables.js';
import { operatedVapps } from './access.js';
import type { ApiDeps, Reply, Some } from './context.js';
import { roomForUser } from './login-desk.js';
import { idOf, notFound } from './lookup.js';
import { nameFree } from './names.js';
import { pageOfViews } from './page.js';

const shown = ({ password, totp, ...rest }: User): UserView => ({
  ...rest,
  secondFactor: totp !== null,
  passwordSet: password !== null,
});

/** Records changed in one transaction: a dozen of the largest are still half of what the ledger takes at once. */
const disownedAtOnce = 12;

export function meOf(view: View, who: Identity | null): Me {
  if (who?.kind !== 'token' || who.rights === undefined)
    return {
      name: who?.kind === 'node' ? `node ${who.node}` : 'nobody',
      via: 'certificate',
      role: 'admin',
      operates: [],
      operatesTags: [],
      operatesVapps: [],
      user: null,
    };
  const { role, operates, operatesTags, operatesVapps, user, session } = who.rights;
  const record = user === null ? undefined : view.ledger.tables.user.get(user)?.value;
  return {
    name: who.name,
    via: session ? 'session' : 'token',
    role,
    operates: [...operates],
    operatesTags: [...operatesTags],
    operatesVapps: [...operatesVapps],
    user: record === undefined ? null : shown(record),
  };
}

type Names =
  | 'login'
  | 'meGet'
  | 'logout'
  | 'mePassword'
  | 'totpNew'
  | 'totpPut'
  | 'userList'
  | 'userGet'
  | 'userCreate'
  | 'userPatch'
  | 'userDelete';

export function userHandlers(deps: ApiDeps): Some<Names> {
  const { view, desk } = deps;
  const { tables } = view.ledger;

  return {
    async login({ body, from }) {
      const { token, record, user } = await desk.login({ ...body, code: body.code ?? null, from });
      const me = {
        name: user.name,
        via: 'session' as const,
        role: user.role,
        operates: user.operates,
        operatesTags: user.operatesTags,
        operatesVapps: operatedVapps(view, user),
        user: shown(user),
      };
      return { body: { token, expiresMs: record.expiresMs ?? 0, me } };
    },
    async meGet({ identity }) {
      return { body: meOf(view, identity) };
    },
    async logout({ identity }) {
      if (identity?.kind === 'token') await desk.logout(identity.id);
      return { body: null };
    },
    async mePassword({ identity, body, from }) {
      const me = self(identity);
      await desk.confirm(me.value, body.old, from);
      const password = await hashPassword(body.new);
      await change(
        me.value.id,
        null,
        (u) => ({ ...u, password, passwordMs: deps.clock.wallMs() }),
        tokenOf(identity),
      );
      return { body: null };
    },
    async totpNew({ identity }) {
      const me = self(identity);
      const secret = newTotpSecret();
      const cluster = view.ledger.meta?.name ?? '';
      return { body: { secret, uri: totpUri(secret, { user: me.value.name, cluster }) } };
    },
    async totpPut({ identity, body, from }) {
      const me = self(identity);
      await desk.confirm(me.value, body.password, from);
      if (body.secret !== null) {
        desk.useCode(me.value, body.secret, body.code ?? '', () => {
          const hint = 'Is the clock of the authenticator right? Each code is good once.';
          return new FlotillaError('bad-input', 'The code is not one of that secret', { hint });
        });
      }
      await change(me.value.id, null, (u) => ({ ...u, totp: body.secret }), tokenOf(identity));
      return { body: meOf(view, identity) };
    },

    async userList({ query }) {
      view.freshness();
      const users = [...tables.user.values()].map((k) => shown(k.value));
      users.sort((a, b) => (a.name < b.name ? -1 : 1));
      return pageOfViews(view, users, query, (u) => u.name);
    },
    async userGet({ params }) {
      const id = await idOf(view, 'user', params.user);
      const kept = tables.user.get(id);
      if (kept === undefined) throw notFound('user', params.user);
      return answer(kept);
    },
    async userCreate({ body }) {
      view.freshness();
      const operates = await idsOf('vm', body.operates ?? []);
      const operatesVapps = await idsOf('vapp', body.operatesVapps ?? []);
      const password = body.password === undefined ? null : await hashPassword(body.password);
      const signOn = body.signOn === undefined ? null : { name: body.signOn, bound: null };
      wayIn(password, signOn);
      const wallMs = deps.clock.wallMs();
      const user: User = {
        id: deps.chance.uuid(),
        name: body.name,
        role: body.role,
        operates,
        operatesTags: body.operatesTags ?? [],
        operatesVapps,
        disabled: false,
        password,
        totp: null,
        signOn,
        createdMs: wallMs,
        passwordMs: wallMs,
      };
      return commit(deps, `User "${body.name}"`, async () => {
        roomForUser(view);
        await nameFree(deps, 'user', user.name);
        const made = new Change()
          .at(kinds.user.key(user.id), null)
          .put(kinds.user, user.id, user)
          .take(unique.name('user', user.name), user.id);
        return { change: made, answer: (): Reply<'userCreate'> => ({ body: shown(user) }) };
      });
    },
    async userPatch({ params, body, identity, ifMatch }) {
      const id = await idOf(view, 'user', params.user);
      if (
        id === userOf(identity) &&
        (body.disabled === true || (body.role !== undefined && body.role !== 'admin'))
      )
        throw notOneself();
      const operates = body.operates === undefined ? undefined : await idsOf('vm', body.operates);
      const operatesVapps =
        body.operatesVapps === undefined ? undefined : await idsOf('vapp', body.operatesVapps);
      const password =
        body.password === undefined || body.password === null
          ? body.password
          : await hashPassword(body.password);
      const signOn =
        body.signOn === undefined || body.signOn === null ? body.signOn : { name: body.signOn, bound: null };
      const kept = await change(
        id,
        ifMatch,
        (u) => ({
          ...u,
          ...(body.role === undefined ? {} : { role: body.role }),
          ...(body.disabled === undefined ? {} : { disabled: body.disabled }),
          ...(operates === undefined ? {} : { operates }),
          ...(body.operatesTags === undefined ? {} : { operatesTags: body.operatesTags }),
          ...(operatesVapps === undefined ? {} : { operatesVapps }),
          ...(password === undefined ? {} : { password, passwordMs: deps.clock.wallMs() }),
          ...(signOn === undefined ? {} : { signOn }),
          ...(body.secondFactor === undefined ? {} : { totp: null }),
        }),
        id === userOf(identity) ? tokenOf(identity) : null,
      );
      return answer(kept);
    },
    async userDelete({ params, identity, ifMatch }) {
      const id = await idOf(view, 'user', params.user);
      if (id === userOf(identity)) throw notOneself();
      await view.ledger.refresh('user');
      const going = tables.user.get(id);
      if (going === undefined) throw notFound('user', params.user);
      checkIfMatch(ifMatch, contentMark(going), `User "${going.value.name}"`);
      await disown(going.value.name);
      return commit(deps, `User "${params.user}"`, async () => {
        await view.ledger.refresh('user');
        const kept = tables.user.get(id);
        if (kept === undefined) throw notFound('user', params.user);
        checkIfMatch(ifMatch, contentMark(kept), `User "${kept.value.name}"`);
        const gone = new Change()
          .at(kinds.user.key(id), kept)
          .del(kinds.user.key(id))
          .del(unique.name('user', kept.value.name));
        takeTokens(gone, id, () => true);
        return { change: gone, answer: (): Reply<'userDelete'> => ({ body: null }) };
      });
    },
  };

  function answer(kept: Kept<User>): Reply<'userGet'> {
    return { body: shown(kept.value), etag: etagOf(contentMark(kept)) };
  }

  /** A session's or own token's user. @throws FlotillaError `forbidden` */
  function self(identity: Identity | null): Kept<User> {
    const id = userOf(identity);
    const kept = id === null ? undefined : tables.user.get(id);
    const came = identity?.kind === 'token' && identity.rights?.session === true;
    if (kept !== undefined && came && kept.value.password !== null) return kept;
    throw new FlotillaError('forbidden', 'This is for who logged in with name and password', {
      hint: 'A token has neither, nor has who comes by a provider of identities. Admins change others: flotilla user edit.',
    });
  }

  /** Writes a user anew; a changed password ends the other sessions, being disabled all of them and the tokens. */
  async function change(
    id: string,
    ifMatch: string | null,
    edit: (u: User) => User,
    keep: string | null,
  ): Promise<Kept<User>> {
    await commit(deps, 'The user', async () => {
      await view.ledger.refresh('user');
      const kept = tables.user.get(id);
      if (kept === undefined) throw notFound('user', id);
      checkIfMatch(ifMatch, contentMark(kept), `User "${kept.value.name}"`);
      const next = edit(kept.value);
      wayIn(next.password, next.signOn);
      const c = new Change().at(kinds.user.key(id), kept).put(kinds.user, id, next);
      if (next.disabled) takeTokens(c, id, () => true);
      else if (next.passwordMs !== kept.value.passwordMs)
        takeTokens(c, id, (t) => t.kind === 'session' && t.id !== keep);
      return { change: c, answer: () => undefined };
    });
    const now = tables.user.get(id);
    if (now === undefined) throw notFound('user', id);
    return now;
  }

  function takeTokens(c: Change, user: string, which: (t: { id: string; kind: string }) => boolean): void {
    for (const { value: t } of tables.token.values()) {
      if (t.user !== user || !which(t)) continue;
      c.del(kinds.token.key(t.id));
      if (t.kind !== 'session') c.del(unique.name('token', t.name));
    }
  }

  /** vApps whose owner goes are nobody's: a later user of that name is somebody else. */
  async function disown(name: string): Promise<void> {
    for (let left = 1; left > 0;)
      left = await commit(deps, `The vApps of user "${name}"`, async () => {
        await view.ledger.refresh('vapp');
        const owned = [...tables.vapp.values()].filter((k) => k.value.owner === name);
        const c = owned.length === 0 ? null : new Change();
        for (const k of owned.slice(0, disownedAtOnce)) {
          const { value: v } = k;
          c?.at(kinds.vapp.key(v.id), k).put(kinds.vapp, v.id, {
            ...v,
            owner: '',
            generation: v.generation + 1,
          });
        }
        return { change: c, answer: () => owned.length - disownedAtOnce };
      });
  }

  async function idsOf(kind: 'vm' | 'vapp', refs: readonly string[]): Promise<string[]> {
    const ids: string[] = [];
    for (const ref of refs) ids.push(await idOf(view, kind, ref));
    return [...new Set(ids)];
  }
}

const userOf = (who: Identity | null): string | null =>
  who?.kind === 'token' ? (who.rights?.user ?? null) : null;
const tokenOf = (who: Identity | null): string | null => (who?.kind === 'token' ? who.id : null);

/** @throws FlotillaError `bad-input` */
function wayIn(password: User['password'], signOn: User['signOn']): void {
  if (password !== null || signOn !== null) return;
  throw new FlotillaError('bad-input', 'This user could not log in: with no password, and by no provider', {
    hint: 'Give a password, or the name that the provider of identities has for the user.',
  });
}

const notOneself = (): FlotillaError =>
  new FlotillaError('wrong-state', 'Nobody takes the rights of an admin from themselves', {
    hint: 'Another admin can: so there is always one.',
  });
