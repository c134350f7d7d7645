import { FlotillaError } from '../../core/domain/error.js';
import { signOnSettingsSchema, type SignOnSettings } from '../../core/domain/sign-on.js';
import { signOnKey, writeRecord } from '../../core/wire/ledger-keys.js';
import type { SignOnView } from '../../core/wire/rest.js';
import { keysOf, providerOf } from '../sign-on/provider.js';
import { callbackPath } from '../sign-on/sign-on.js';
import { Change, commit } from './commit.js';
import type { ApiDeps, Some } from './context.js';

const sealKeyBytes = 32;

/** The provider of identities: set, shown without its secrets, asked. */
export function signOnHandlers(
  deps: ApiDeps,
): Some<'signOnGet' | 'signOnPut' | 'signOnDelete' | 'signOnTest'> {
  const { view, signOn } = deps;
  const shown = (s: SignOnSettings | null): SignOnView => {
    if (s === null) return { provider: null, callbackPath };
    const { clientSecret, sealKey: _, ...provider } = s;
    return { provider: { ...provider, clientSecretSet: clientSecret !== null }, callbackPath };
  };
  return {
    async signOnGet() {
      view.freshness();
      return { body: shown((await signOn.settings())?.value ?? null) };
    },
    async signOnPut({ body }) {
      view.freshness();
      return commit(deps, 'The provider of identities', async () => {
        const kept = await signOn.settings();
        const had = kept?.value;
        // A secret is for one client of one provider: sent to another it would be given away.
        const same = had !== undefined && had.issuer === body.issuer && had.clientId === body.clientId;
        if (body.clientSecret === undefined && !same) {
          throw new FlotillaError('bad-input', 'The client’s secret is missing', {
            hint: 'For another provider or client it is given again; null says that the client has none.',
          });
        }
        const next: SignOnSettings = {
          ...body,
          clientSecret: body.clientSecret === undefined ? (had?.clientSecret ?? null) : body.clientSecret,
          // Sign-ins on their way end with the settings they began under.
          sealKey: deps.chance.hex(sealKeyBytes),
        };
        const value = writeRecord({ schema: signOnSettingsSchema }, next);
        const change = new Change().at(signOnKey, kept).write({ put: signOnKey, value });
        return {
          change,
          answer: () => {
            signOn.forget();
            return { body: shown(next) };
          },
        };
      });
    },
    async signOnDelete() {
      view.freshness();
      return commit(deps, 'The provider of identities', async () => {
        const kept = await signOn.settings();
        const answer = (): { body: null } => {
          signOn.forget();
          return { body: null };
        };
        return { change: kept === null ? null : new Change().at(signOnKey, kept).del(signOnKey), answer };
      });
    },
    async signOnTest() {
      view.freshness();
      const s = await signOn.settings();
      if (s === null) {
        throw new FlotillaError('wrong-state', 'No provider of identities is set', {
          hint: 'Set one first: flotilla sign-on set --help.',
        });
      }
      const config = await providerOf(s.value);
      const about = config.serverMetadata();
      return {
        body: {
          issuer: about.issuer,
          authorizationEndpoint: about.authorization_endpoint ?? '',
          keys: await keysOf(s.value, config),
          endsSessions: about.end_session_endpoint !== undefined,
        },
      };
    },
  };
}
