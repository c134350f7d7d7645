import { execa } from 'execa';
import { FlotillaError } from '../../core/domain/error.js';

/** Both answer at once. */
const commandMs = 30_000;

/** What of the daemons of this node must learn of a new list of revoked certificates, besides reading its file. */
export interface Connections {
  /** libvirt reads certificates and the list again; connections and VMs stay. */
  reloadMigrationPort(): Promise<void>;
  /** Ends every connection that another machine has to one of these ports. Those who may, connect again at once. */
  cut(ports: readonly number[]): Promise<void>;
}

/** By the kernel and by libvirt's administration. */
export class SystemConnections implements Connections {
  readonly #address: string;

  /** @param address - this node's own: who comes from there is here */
  constructor(address: string) {
    this.#address = address;
  }

  /** @see virt-admin(1), libvirt 11: it reads the files at their usual places, whatever libvirtd.conf names */
  async reloadMigrationPort(): Promise<void> {
    await run('virt-admin', ['server-update-tls', 'libvirtd'], 'libvirt goes on with its former list.');
  }

  /** @see ss(8), iproute2 6: a kernel without INET_DIAG_DESTROY refuses */
  async cut(ports: readonly number[]): Promise<void> {
    if (ports.length === 0) return;
    const at = ports.map((p) => `sport = :${p}`).join(' or ');
    const filter = `( ${at} ) and not dst 127.0.0.0/8 and not dst ${this.#address}`;
    const args = ['-K', '-H', '-n', '-t', 'state', 'established', filter];
    await run('ss', args, 'Who was let in before stays connected: restart the node.');
  }
}

async function run(program: string, args: readonly string[], hint: string): Promise<void> {
  const r = await execa(program, args, { timeout: commandMs, stdin: 'ignore', reject: false });
  // ss ends well also where the kernel refused; virt-admin has notes to make where all is well.
  if (r.exitCode === 0 && (r.stderr === '' || program !== 'ss')) return;
  throw new FlotillaError('tool-failed', `${program} ${args[0] ?? ''} failed`, {
    hint,
    cause: new Error(r.stderr.slice(0, 500) || r.message),
  });
}
