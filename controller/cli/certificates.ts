import type { Command } from 'commander';
import { formatSpan } from '../../core/domain/units.js';
import type { CertificateView } from '../../core/wire/rest.js';
import type { ApiClient } from './client.js';
import type { Io } from './io.js';
import type { Column } from './table.js';

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
}
