import type { Command } from 'commander';
import { formatSpan } from '../../core/domain/units.js';
import type { CaView, CertificateView } from '../../core/wire/rest.js';
import type { ApiClient } from './client.js';
import { opLine, type Io, type WaitOptions } from './io.js';
import { facts, type Column } from './table.js';
import { waiting } from './vm.js';

const day = (ms: number): string => new Date(ms).toISOString().slice(0, 10);

function stateOf(c: CertificateView): string {
  if (c.revoked !== null) {
    const why = c.revoked.why === 'removed' ? ', its node was removed' : '';
    return `revoked on ${day(c.revoked.atMs)}${why}`;
  }
  return c.member ? 'good' : 'good, of no node of the cluster';
}

const columns: readonly Column<CertificateView>[] = [
  { head: 'NODE', text: (c) => c.node },
  { head: 'SERIAL', text: (c) => c.id },
  { head: 'MADE', text: (c) => day(c.issuedMs) },
  {
    head: 'EXPIRES',
    text: (c) => (c.notAfterMs < Date.now() ? 'expired' : `in ${formatSpan(c.notAfterMs - Date.now())}`),
  },
  { head: 'STATE', text: stateOf, give: 1 },
];

async function all(client: ApiClient): Promise<CertificateView[]> {
  const rows: CertificateView[] = [];
  for await (const page of client.all('certificateList', {})) rows.push(...page.items);
  return rows;
}

/** Serial numbers of a node's certificates that are not revoked yet. */
export const certificatesOf = async (client: ApiClient, node: string): Promise<string[]> =>
  (await all(client)).filter((c) => c.node === node && c.revoked === null).map((c) => c.id);

const caText = (c: CaView): string =>
  [
    c.sentence,
    facts([
      ['CA', c.ca.sha256],
      ['Valid until', day(c.ca.notAfterMs)],
      ['Also trusted', c.other?.sha256 ?? null],
      ...c.waits.map((w): [string, string] => [`Waits: ${w.node}`, w.why]),
    ]),
    ...(c.op === null ? [] : [opLine(c.op)]),
  ].join('\n');

export function certificateCommands(program: Command, io: Io): void {
  const certificate = program.command('certificate').alias('cert').description('certificates of nodes');
  certificate
    .command('list')
    .alias('ls')
    .description('list certificates, the revoked ones too')
    .action(async () => {
      io.list(await all(await io.client()), columns, 'There are no certificates.');
    });
  certificate
    .command('revoke')
    .description('have every node refuse a certificate; removing a node does so with its own')
    .argument('<serial>')
    .option('--force', 'also that of a node of the cluster, which is cut off with its VMs')
    .action(async (serial: string, o: { force?: true }) => {
      const params = { serial: serial.toUpperCase().replaceAll(':', '') };
      const body = { force: o.force === true };
      const c = await (await io.client()).call('certificateRevoke', { params, body });
      io.show(c, () => `${c.id} of ${c.node} is revoked: within a minute no node lets it in.`);
    });
  certificate
    .command('ca')
    .description('the CA that signs them, and how far it is with being replaced')
    .action(async () => {
      const ca = await (await io.client()).call('caGet', {});
      io.show(ca, () => caText(ca));
    });
  waiting(certificate.command('rotate-ca'))
    .description('replace the CA, while all goes on; where that is under way, follow it')
    .option(
      '--without <nodes>',
      'do not wait for these, with commas between, while they are off; they catch up when they are back',
      (s) => s.split(','),
    )
    .action(async (o: WaitOptions & { without?: string[] }) => {
      const { op } = await (await io.client()).call('caRotate', { body: { without: o.without ?? [] } });
      const end = await io.follow(op, o);
      io.show(end, () => (o.wait ? end.step : opLine(end)));
    });
}
