import { Option, type Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { roleSchema, type Role } from '../../core/domain/user.js';
import type { RestCall, SignOnView } from '../../core/wire/rest.js';
import { collect } from './input.js';
import type { Io } from './io.js';
import { readPassword } from './secret.js';
import { readText } from './session.js';
import { defined } from './vm.js';

interface SetOptions {
  issuer?: string;
  clientId?: string;
  clientSecretFile?: string;
  publicClient?: true;
  caFile?: string;
  name?: string;
  scope?: string[];
  nameClaim?: string;
  roleClaim?: string;
  role?: string[];
  otherRole?: Role | 'none';
  makeUsers?: boolean;
}

/** `flotilla sign-on` */
export function signOnCommands(program: Command, io: Io): void {
  const signOn = program
    .command('sign-on')
    .description('the provider by which people log in to the page (OpenID Connect)');
  signOn
    .command('show')
    .description('the provider, without its secret')
    .action(async () => shown(io, await (await io.client()).call('signOnGet', {})));
  signOn
    .command('set')
    .description('set the provider, or change what is given; the rest stays')
    .option('--issuer <url>', 'its address, to the letter as its tokens say it')
    .option('--client-id <id>', 'what the cluster is called there')
    .option('--client-secret-file <file>', 'the secret of that client; - is the standard input')
    .option('--public-client', 'the client has no secret')
    .option('--ca-file <file>', 'CA of its certificate; "" for those that everybody trusts')
    .option('--name <name>', 'what the button on the login form says')
    .option(
      '--scope <scope>',
      'asked for beside openid; again for more; profile and email unless given',
      collect,
    )
    .option('--name-claim <claim>', 'the claim that names people; preferred_username unless given')
    .option('--role-claim <claim>', 'the claim with groups or roles, dots lead inside; groups unless given')
    .option(
      '--role <value=role>',
      'who has that value there is of that role; again for more; "" for none',
      collect,
    )
    .addOption(
      new Option('--other-role <role>', 'of those without any such value; none: they stay out').choices([
        ...roleSchema.options,
        'none',
      ]),
    )
    .option('--make-users', 'make users at their first sign-in')
    .option('--no-make-users', 'let in only users who were named before: flotilla user create --sign-on')
    .action(async (o: SetOptions) => {
      const client = await io.client();
      const before = (await client.call('signOnGet', {})).provider;
      const { clientSecretSet: _, ...old } = before ?? { clientSecretSet: false };
      const body = {
        ...old,
        ...defined({
          issuer: o.issuer,
          clientId: o.clientId,
          clientSecret:
            o.publicClient === true
              ? null
              : o.clientSecretFile === undefined
                ? undefined
                : await readPassword(io, o.clientSecretFile),
          ca:
            o.caFile === undefined ? undefined : o.caFile === '' ? null : await readText(o.caFile, 'The CA'),
          name: o.name,
          scopes: o.scope,
          nameClaim: o.nameClaim,
          roleClaim: o.roleClaim,
          roles: o.role?.filter((r) => r !== '').map(roleOf),
          otherRole: o.otherRole === 'none' ? null : o.otherRole,
          makesUsers: o.makeUsers,
        }),
      } as RestCall<'signOnPut'>['body'];
      shown(io, await client.call('signOnPut', { body }));
    });
  signOn
    .command('off')
    .description('forget the provider; users and sessions stay')
    .action(async () => {
      await (await io.client()).call('signOnDelete', {});
      io.show({ off: true }, () => 'People log in by name and password.');
    });
  signOn
    .command('test')
    .description('ask the provider for its description and keys, as a sign-in would')
    .action(async () => {
      const r = await (await io.client()).call('signOnTest', {});
      io.facts(r, [
        ['Issuer', r.issuer],
        ['People go to', r.authorizationEndpoint],
        ['Keys', String(r.keys)],
        ['Ends sessions', r.endsSessions ? 'yes' : 'no'],
      ]);
    });
}

/** `value=role`; the value may have a = itself. @throws FlotillaError `bad-input` */
function roleOf(text: string): { value: string; role: Role } {
  const at = text.lastIndexOf('=');
  const role = roleSchema.safeParse(text.slice(at + 1));
  if (at > 0 && role.success) return { value: text.slice(0, at), role: role.data };
  throw new FlotillaError('bad-input', `--role "${text}" does not say of whom and which`, {
    hint: `Give VALUE=ROLE, e.g. admins=admin; roles are ${roleSchema.options.join(', ')}.`,
  });
}

function shown(io: Io, v: SignOnView): void {
  const p = v.provider;
  if (p === null) {
    io.show(v, () => 'No provider is set: people log in by name and password.');
    return;
  }
  io.facts(v, [
    ['Name', p.name],
    ['Issuer', p.issuer],
    ['Client', `${p.clientId}, ${p.clientSecretSet ? 'with a secret' : 'without a secret'}`],
    ['CA', p.ca === null ? 'those that everybody trusts' : 'its own'],
    ['Scopes', ['openid', ...p.scopes].join(' ')],
    ['Name by', p.nameClaim],
    ['Roles by', p.roles.length === 0 ? 'hand' : p.roleClaim],
    ...p.roles.map((r) => [`  ${r.value}`, r.role] as const),
    ['Others', p.otherRole ?? 'stay out'],
    ['Users', p.makesUsers ? 'are made at their first sign-in' : 'are named before'],
    ['Sends back to', `https://CONTROLLER${v.callbackPath}`],
  ]);
}
