import { Option, type Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { roleSchema, type Role } from '../../core/domain/user.js';
import type { Me, UserView } from '../../core/wire/rest.js';
import { collect } from './input.js';
import type { Io } from './io.js';
import { askSecret, readPassword } from './secret.js';
import { forgetSession } from './session.js';
import type { Column } from './table.js';

const columns: readonly Column<UserView>[] = [
  { head: 'NAME', text: (u) => u.name },
  {
    head: 'ROLE',
    text: (u) => u.role + operatesText(u),
  },
  { head: 'SECOND FACTOR', text: (u) => (u.secondFactor ? 'yes' : 'no') },
  { head: 'STATE', text: (u) => (u.disabled ? 'disabled' : 'enabled') },
];

/** What somebody operates beside the role. */
function operatesText(u: Pick<Me, 'operates' | 'operatesVapps'>): string {
  const parts = [
    ...(u.operates.length === 0 ? [] : [`${u.operates.length} VMs`]),
    ...(u.operatesVapps.length === 0 ? [] : [`${u.operatesVapps.length} vApps`]),
  ];
  return parts.length === 0 ? '' : ` (operates ${parts.join(', ')})`;
}

interface Edit {
  role?: Role;
  operates?: string[];
  operatesTag?: string[];
  operatesVapp?: string[];
  passwordFile?: string;
  /** False: none. */
  password?: boolean;
  signOn?: string;
  secondFactorOff?: true;
  disable?: true;
  enable?: true;
}

const role = (): Option => new Option('--role <role>', 'what the user may').choices(roleSchema.options);

/** `user`, `whoami`, `logout`, `password`, `second-factor`. */
export function userCommands(program: Command, io: Io): void {
  program
    .command('whoami')
    .description('who you are to the cluster, and what you may')
    .action(async () => {
      const me = await (await io.client()).call('meGet', {});
      io.show(me, () => `${me.name}: ${me.role}${operatesText(me)}`);
    });
  program
    .command('logout')
    .description('end the session and forget it')
    .action(async () => {
      const client = await io.client();
      const me = await client.call('meGet', {}).catch(() => null);
      if (me?.via === 'session') await client.call('logout', {});
      await forgetSession(io.terminal.env);
      io.show({ loggedOut: true }, () => 'Logged out.');
    });
  program
    .command('password')
    .description('change your own password; your other sessions end')
    .option('--old-file <file>', 'where the old one is; else it is asked for')
    .option('--new-file <file>', 'where the new one is; else it is asked for')
    .action(async (o: { oldFile?: string; newFile?: string }) => {
      const old = await secret(io, o.oldFile, 'Old password: ');
      const next = await newPassword(io, o.newFile);
      await (await io.client()).call('mePassword', { body: { old, new: next } });
      io.show({ changed: true }, () => 'The password is changed.');
    });
  program
    .command('second-factor')
    .description('ask for a code of an authenticator (TOTP) at each of your logins, or no more')
    .argument('<on|off>')
    .option('--password-file <file>', 'where your password is; else it is asked for')
    .action(async (what: string, o: { passwordFile?: string }) => {
      const client = await io.client();
      if (what !== 'on' && what !== 'off')
        throw new FlotillaError('bad-input', 'Say on or off', { hint: 'flotilla second-factor on' });
      const password = await secret(io, o.passwordFile, 'Password: ');
      let made: { secret: string; code: string } | null = null;
      if (what === 'on') {
        const fresh = await client.call('totpNew', {});
        io.say(`Give this to your authenticator:\n  ${fresh.secret}\n  ${fresh.uri}\n`);
        made = { secret: fresh.secret, code: await askSecret(io.terminal, 'The code that it shows: ') };
      }
      const body = { password, secret: made?.secret ?? null, code: made?.code ?? null };
      const me = await client.call('totpPut', { body });
      io.show(me, () => `The second factor is ${what}.`);
    });

  const user = program.command('user').description('people who may use the cluster');
  user
    .command('list')
    .alias('ls')
    .description('list users')
    .action(async () => {
      const rows: UserView[] = [];
      for await (const page of (await io.client()).all('userList', {})) rows.push(...page.items);
      io.list(rows, columns, 'There are no users.');
    });
  user
    .command('show')
    .description('one user')
    .argument('<user>', 'name or id')
    .action(async (name: string) => {
      const u = await (await io.client()).call('userGet', { params: { user: name } });
      io.facts(u, [
        ['name', u.name],
        ['role', u.role],
        ['operates', u.operates.join(', ') || 'nothing beyond the role'],
        ['operates tags', u.operatesTags.join(', ')],
        ['operates vApps', u.operatesVapps.join(', ')],
        ['password', u.passwordSet ? 'set' : 'none'],
        ['second factor', u.secondFactor ? 'yes' : 'no'],
        [
          'sign-on',
          u.signOn === null ? 'no' : `${u.signOn.name}${u.signOn.bound === null ? ', has not come yet' : ''}`,
        ],
        ['state', u.disabled ? 'disabled' : 'enabled'],
      ]);
    });
  user
    .command('create')
    .description('make a user')
    .argument('<name>')
    .addOption(role().default('viewer'))
    .option('--operates <vm>', 'a VM where the user is an operator in any case; again for more', collect)
    .option('--operates-tag <tag>', 'all VMs with this tag, as --operates; again for more', collect)
    .option('--operates-vapp <vapp>', 'a vApp and all that is in it; again for more', collect)
    .option(
      '--password-file <file>',
      'where the password is (- for the standard input); else it is asked for',
    )
    .option(
      '--sign-on <name>',
      'what the provider of identities calls the user; a password is not needed then',
    )
    .action(async (name: string, o: Edit & { role: Role }) => {
      const password =
        o.signOn !== undefined && o.passwordFile === undefined
          ? undefined
          : await newPassword(io, o.passwordFile);
      const body = {
        name,
        role: o.role,
        ...(password === undefined ? {} : { password }),
        ...(o.signOn === undefined ? {} : { signOn: o.signOn }),
        ...(o.operates === undefined ? {} : { operates: o.operates }),
        ...(o.operatesTag === undefined ? {} : { operatesTags: o.operatesTag }),
        ...(o.operatesVapp === undefined ? {} : { operatesVapps: o.operatesVapp }),
      };
      const u = await (await io.client()).call('userCreate', { body });
      io.show(u, () => `${u.name}: made, ${u.role}`);
    });
  user
    .command('edit')
    .description('change a user’s rights, password or second factor')
    .argument('<user>', 'name or id')
    .addOption(role())
    .option('--operates <vm>', 'VMs where the user is an operator, replaced as a whole; "" for none', collect)
    .option(
      '--operates-tag <tag>',
      'tags whose VMs the user operates, replaced as a whole; "" for none',
      collect,
    )
    .option('--operates-vapp <vapp>', 'vApps the user operates, replaced as a whole; "" for none', collect)
    .option('--password-file <file>', 'a new password (- for the standard input); the user’s sessions end')
    .option('--no-password', 'none any more: the user comes by the provider of identities')
    .option('--sign-on <name>', 'what the provider of identities calls the user; "" for not by it')
    .option('--second-factor-off', 'for who lost the authenticator')
    .option('--disable', 'sessions and tokens end, and no login is taken')
    .option('--enable', 'the other way round')
    .action(async (name: string, o: Edit) => {
      const body = {
        ...(o.role === undefined ? {} : { role: o.role }),
        ...(o.operates === undefined ? {} : { operates: o.operates.filter((v) => v !== '') }),
        ...(o.operatesTag === undefined ? {} : { operatesTags: o.operatesTag.filter((v) => v !== '') }),
        ...(o.operatesVapp === undefined ? {} : { operatesVapps: o.operatesVapp.filter((v) => v !== '') }),
        ...(o.password === false
          ? { password: null }
          : o.passwordFile === undefined
            ? {}
            : { password: await readPassword(io, o.passwordFile) }),
        ...(o.signOn === undefined ? {} : { signOn: o.signOn === '' ? null : o.signOn }),
        ...(o.secondFactorOff === true ? { secondFactor: false as const } : {}),
        ...(o.disable === true ? { disabled: true } : o.enable === true ? { disabled: false } : {}),
      };
      const u = await (await io.client()).call('userPatch', { params: { user: name }, body });
      io.show(u, () => `${u.name}: ${u.role}, ${u.disabled ? 'disabled' : 'enabled'}`);
    });
  user
    .command('delete')
    .alias('rm')
    .description('delete a user with all sessions and tokens')
    .argument('<user>', 'name or id')
    .action(async (name: string) => {
      await (await io.client()).call('userDelete', { params: { user: name } });
      io.show({ deleted: name }, () => `${name}: deleted`);
    });
}

const secret = (io: Io, file: string | undefined, question: string): Promise<string> =>
  file === undefined ? askSecret(io.terminal, question) : readPassword(io, file);

async function newPassword(io: Io, file: string | undefined): Promise<string> {
  if (file !== undefined) return readPassword(io, file);
  const first = await askSecret(io.terminal, 'New password: ');
  if (first === (await askSecret(io.terminal, 'Once more: '))) return first;
  throw new FlotillaError('bad-input', 'The two are not the same', {
    hint: 'Nothing was changed. Try again.',
  });
}
