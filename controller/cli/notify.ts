import { setTimeout as sleep } from 'node:timers/promises';
import { Option, type Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { formatSpan } from '../../core/domain/units.js';
import type { NotifyView, RestCall } from '../../core/wire/rest.js';
import { collect, wholeNumber } from './input.js';
import type { Io } from './io.js';
import { readPassword } from './secret.js';
import { readText } from './session.js';
import { defined } from './vm.js';

/** A mail server may take its time, s. */
const testSMax = 60;

interface SetOptions {
  smtpHost?: string;
  smtpPort?: number;
  smtpSecurity?: 'starttls' | 'tls' | 'none';
  smtpUser?: string;
  smtpPasswordFile?: string;
  from?: string;
  to?: string[];
  webhookFile?: string;
}

/** `flotilla notify` */
export function notifyCommands(program: Command, io: Io): void {
  const notify = program.command('notify').description('who is told of failures, by mail and webhook');
  notify
    .command('show')
    .description('who is told, what is open, what became of the last one')
    .action(async () => shown(io, await (await io.client()).call('notifyGet', {})));
  notify
    .command('set')
    .description('tell people by mail, or a chat service by webhook')
    .option('--smtp-host <host>', 'the mail server')
    .option('--smtp-port <n>', '587 unless given', wholeNumber)
    .addOption(new Option('--smtp-security <how>').choices(['starttls', 'tls', 'none']))
    .option('--smtp-user <name>', 'where the server wants a login')
    .option('--smtp-password-file <file>', 'its password; - is the standard input')
    .option('--from <address>', 'whose mail it is')
    .option('--to <address>', 'who gets it; several times for several', collect)
    .option('--webhook-file <file>', 'a file with the address to post to: it holds a secret')
    .action(async (o: SetOptions) => {
      const mail = defined({
        host: o.smtpHost,
        port: o.smtpPort,
        security: o.smtpSecurity,
        user: o.smtpUser,
        password: o.smtpPasswordFile === undefined ? undefined : await readPassword(io, o.smtpPasswordFile),
        from: o.from,
        to: o.to,
      });
      const body = defined({
        mail: Object.keys(mail).length === 0 ? undefined : mail,
        webhook:
          o.webhookFile === undefined ? undefined : (await readText(o.webhookFile, 'The address')).trim(),
      }) as RestCall<'notifyPatch'>['body'];
      shown(io, await (await io.client()).call('notifyPatch', { body }));
    });
  notify
    .command('off')
    .description('tell nobody')
    .action(async () => {
      const body = { mail: null, webhook: null };
      shown(io, await (await io.client()).call('notifyPatch', { body }));
    });
  notify
    .command('test')
    .description('send a test, by the node that would send the real ones')
    .action(async () => {
      const client = await io.client();
      const { askedMs } = await client.call('notifyTest', {});
      for (let tries = 0; tries < testSMax; tries++) {
        await sleep(1_000, undefined, { signal: io.terminal.signal });
        const { test } = await client.call('notifyGet', {});
        if (test === null || test.askedMs !== askedMs) break;
        const { result } = test;
        if (result === null) continue;
        if (!result.ok)
          throw new FlotillaError('tool-failed', `Node ${result.by} could not send it: ${result.text}`, {
            hint: 'Correct it: flotilla notify set --help.',
          });
        io.show(test, () => `Node ${result.by} sent it. Look whether it arrived.`);
        return;
      }
      throw new FlotillaError('timeout', `No node has sent the test within ${testSMax} s`, {
        hint: 'The node that leads the voters sends it: has the ledger a majority?',
      });
    });
}

function shown(io: Io, n: NotifyView): void {
  const m = n.mail;
  io.facts(n, [
    [
      'Mail',
      m === null
        ? 'nobody'
        : `${m.to.join(', ')}, by ${m.host}:${m.port} (${m.security}${m.user === null ? '' : `, as ${m.user}`})`,
    ],
    ['Webhook', n.webhook ?? 'none'],
    [
      'Last',
      n.last === null
        ? 'none yet'
        : `${formatSpan(Date.now() - n.last.atMs)} ago by ${n.last.by}: ${n.last.text}`,
    ],
    ...n.open.map((i) => ['Open', `${i.text}, told ${formatSpan(Date.now() - i.sinceMs)} ago`] as const),
  ]);
}
