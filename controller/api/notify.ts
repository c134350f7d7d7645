import { FlotillaError } from '../../core/domain/error.js';
import {
  notifySettingsSchema,
  notifyStateNone,
  notifyStateSchema,
  notifyTestSchema,
  type NotifySettings,
} from '../../core/domain/notify.js';
import {
  notifyKey,
  notifyStateKey,
  notifyTestKey,
  readRecord,
  writeRecord,
} from '../../core/wire/ledger-keys.js';
import type { NotifyView } from '../../core/wire/rest.js';
import { Change, commit } from './commit.js';
import type { ApiDeps, Some } from './context.js';

/** Whom to tell what happens. What is told is found and sent by the agents' leader: no controller is needed for it. */
export function notifyHandlers(deps: ApiDeps): Some<'notifyGet' | 'notifyPatch' | 'notifyTest'> {
  const { ledger, view } = deps;
  const settings = async (): Promise<{ value: NotifySettings; kept: { modRevision: bigint } | null }> => {
    const kept = await ledger.get(notifyKey);
    if (kept === null) return { value: { mail: null, webhook: null }, kept };
    return { value: readRecord({ schema: notifySettingsSchema }, notifyKey, kept.value), kept };
  };
  const shown = async (): Promise<NotifyView> => {
    const [{ value: s }, state, test] = await Promise.all([
      settings(),
      ledger.get(notifyStateKey),
      ledger.get(notifyTestKey),
    ]);
    const { open, last } =
      state === null
        ? notifyStateNone
        : readRecord({ schema: notifyStateSchema }, notifyStateKey, state.value);
    const { password, ...mail } = s.mail ?? { password: null };
    return {
      mail:
        s.mail === null
          ? null
          : { ...(mail as Omit<typeof s.mail, 'password'>), passwordSet: password !== null },
      webhook: s.webhook === null ? null : new URL(s.webhook).origin,
      open,
      last,
      test: test === null ? null : readRecord({ schema: notifyTestSchema }, notifyTestKey, test.value),
    };
  };
  return {
    async notifyGet() {
      view.freshness();
      return { body: await shown() };
    },
    async notifyPatch({ body }) {
      view.freshness();
      await commit(deps, 'Whom to notify', async () => {
        const { value: before, kept } = await settings();
        const next = { ...before };
        if (body.webhook !== undefined) next.webhook = body.webhook;
        if (body.mail === null) next.mail = null;
        else if (body.mail !== undefined) {
          // A password is for one server and one user: sent to another it would be given away.
          const had = before.mail;
          const same = had !== null && had.host === body.mail.host && had.user === body.mail.user;
          const password = body.mail.password === undefined && same ? had.password : body.mail.password;
          next.mail = { ...body.mail, password: password ?? null };
        }
        if (next.mail !== null && (next.mail.user === null) !== (next.mail.password === null)) {
          throw new FlotillaError(
            'bad-input',
            'A mail server that wants a login needs a user and a password',
            {
              hint: 'Give both, or neither. For another server or user the password is given again.',
            },
          );
        }
        const value = writeRecord({ schema: notifySettingsSchema }, next);
        // What was tried was something else.
        const change = new Change().at(notifyKey, kept).write({ put: notifyKey, value }).del(notifyTestKey);
        return { change, answer: () => undefined };
      });
      return { body: await shown() };
    },
    async notifyTest({ who }) {
      view.freshness();
      return commit(deps, 'The try of notifications', async () => {
        const { value, kept } = await settings();
        if (value.mail === null && value.webhook === null) {
          throw new FlotillaError('wrong-state', 'Nobody is set who could be notified', {
            hint: 'Set a mail server or a webhook first: flotilla notify set --help.',
          });
        }
        const test = { askedMs: deps.clock.wallMs(), askedBy: who.slice(0, 128), result: null };
        const change = new Change()
          .at(notifyKey, kept)
          .write({ put: notifyTestKey, value: writeRecord({ schema: notifyTestSchema }, test) });
        return { change, answer: () => ({ body: test }) };
      });
    },
  };
}
