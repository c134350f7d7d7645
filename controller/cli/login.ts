import { createInterface } from 'node:readline/promises';
import type { Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { ApiClient } from './client.js';
import type { Io } from './io.js';
import { checkServer, lookAtCa, readText, readToken, saveSession } from './session.js';

interface LoginOptions {
  server: string;
  tokenFile: string;
  ca?: string;
  fingerprint?: string;
}

export function loginCommand(program: Command, io: Io): void {
  program
    .command('login')
    .description('keep a server and a token for the commands that follow')
    .requiredOption('--server <url>', 'a controller, e.g. https://n1:8443')
    .requiredOption('--token-file <file>', 'a file with an API token; tokens never stand on the command line')
    .option('--ca <file>', 'the cluster’s CA; else its fingerprint is shown and asked about')
    .option('--fingerprint <sha256>', 'the fingerprint of the CA that is expected, for scripts')
    .action(async (o: LoginOptions) => {
      const server = checkServer(o.server);
      const token = await readToken(o.tokenFile);
      const ca =
        o.ca === undefined ? await trusted(io, server, o.fingerprint) : await readText(o.ca, 'The CA');
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
