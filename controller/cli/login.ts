import { createInterface } from 'node:readline/promises';
import type { Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { ApiClient } from './client.js';
import type { Io } from './io.js';
import { askSecret, readPassword } from './secret.js';
import { checkServer, lookAtCa, readText, readToken, saveSession } from './session.js';

interface LoginOptions {
  server: string;
  user?: string;
  passwordFile?: string;
  code?: string;
  tokenFile?: string;
  ca?: string;
  fingerprint?: string;
}

export function loginCommand(program: Command, io: Io): void {
  program
    .command('login')
    .description('log in, and keep server and session (12 h) or token for the commands that follow')
    .requiredOption('--server <url>', 'a controller, e.g. https://n1:8443')
    .option('--user <name>', 'log in by name and password, which is asked for')
    .option('--password-file <file>', 'where the password is, - for the standard input')
    .option('--code <digits>', 'of the second factor; asked for where it is wanted')
    .option('--token-file <file>', 'a file with an API token; tokens never stand on the command line')
    .option('--ca <file>', 'the cluster’s CA; else its fingerprint is shown and asked about')
    .option('--fingerprint <sha256>', 'the fingerprint of the CA that is expected, for scripts')
    .action(async (o: LoginOptions) => {
      const server = checkServer(o.server);
      if ((o.user === undefined) === (o.tokenFile === undefined)) {
        throw new FlotillaError('bad-input', 'Say who logs in', {
          hint: 'Give --user NAME or --token-file FILE.',
        });
      }
      const ca =
        o.ca === undefined ? await trusted(io, server, o.fingerprint) : await readText(o.ca, 'The CA');
      const token =
        o.tokenFile === undefined ? await session(io, { ...o, server, ca }) : await readToken(o.tokenFile);
      const client = new ApiClient({ server, token, ca });
      try {
        const c = await client.call('clusterGet', {});
        const file = await saveSession(io.terminal.env, { server, token, ca });
        io.show({ server, cluster: c.meta?.name ?? null, file }, () =>
          [`Logged in to ${c.meta?.name ?? 'the cluster'} at ${server}; kept in ${file}.`, c.sentence].join(
            '\n',
          ),
        );
      } finally {
        client.close();
      }
    });
}

/** A session's token, by name and password. */
async function session(io: Io, o: LoginOptions & { ca: string }): Promise<string> {
  const password =
    o.passwordFile === undefined
      ? await askSecret(io.terminal, `Password of ${o.user}: `)
      : await readPassword(io, o.passwordFile);
  const client = new ApiClient({ server: o.server, token: null, ca: o.ca });
  const login = async (code: string | undefined): Promise<string> => {
    const body = { user: o.user ?? '', password, ...(code === undefined ? {} : { code }) };
    return (await client.call('login', { body })).token;
  };
  try {
    return await login(o.code).catch(async (error: unknown) => {
      if (!(error instanceof FlotillaError) || error.code !== 'code-wanted' || !io.terminal.tty) throw error;
      return login(await askSecret(io.terminal, 'Code of the second factor: '));
    });
  } finally {
    client.close();
  }
}

async function trusted(io: Io, server: string, expected: string | undefined): Promise<string> {
  const { pem, sha256 } = await lookAtCa(server);
  if (expected !== undefined) {
    if (expected.toLowerCase().replaceAll(/[:\s]/g, '') === sha256) return pem;
    throw new FlotillaError('wrong-certificate', `The CA of ${server} has another fingerprint: ${sha256}`, {
      hint: 'If the cluster was not founded anew, somebody stands between: do not go on.',
    });
  }
  if (!io.terminal.tty) {
    throw new FlotillaError(
      'wrong-certificate',
      `Nobody has said that the CA ${sha256} of ${server} is to be trusted`,
      {
        hint: `Compare it on a node (openssl x509 -in /var/lib/flotilla/pki/ca.crt -noout -fingerprint -sha256), then give --fingerprint ${sha256}, or --ca FILE.`,
      },
    );
  }
  const ask = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await ask.question(
    `The cluster's CA has the fingerprint\n  ${sha256.replaceAll(/(.{4})/g, '$1 ').trim()}\nIs that the one shown on a node? (yes/no) `,
  );
  ask.close();
  if (/^y(es)?$/i.test(answer.trim())) return pem;
  throw new FlotillaError('wrong-certificate', `The CA of ${server} is not trusted`, {
    hint: 'Nothing was kept.',
  });
}
