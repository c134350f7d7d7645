import { execa } from 'execa';
import { errorRecord } from '../../core/domain/error.js';
import type { Log } from '../env.js';

/** libvirt's socket for other nodes, by TLS with the node's certificate (images/rootfs/etc/libvirt/libvirtd.conf). */
const port = 'libvirtd-tls.socket';
/** How it is told of new certificates and revoked ones while it runs; for root on this node alone. */
const admin = 'libvirtd-admin.socket';
const timeoutMs = 60_000;

/**
 * Opens the port on which peers' libvirt migrates VMs to this node. libvirtd takes its sockets only as it starts, so a
 * running one is ended first, which no VM notices; that is once in a boot of the machine. Without it this node runs
 * VMs as ever, and none migrates here.
 *
 * @returns what is wrong, in words; null: it is open
 */
export async function openMigrationPort(log: Log): Promise<string | null> {
  const systemctl = (...args: string[]) => execa('systemctl', args, { timeout: timeoutMs, stdin: 'ignore' });
  try {
    const states = await Promise.all(
      [port, admin].map((unit) => execa('systemctl', ['is-active', '--quiet', unit], { reject: false })),
    );
    if (states.every((s) => s.exitCode === 0)) return null;
    await systemctl('stop', 'libvirtd.service');
    await systemctl('start', port, admin);
    log.info('the port for migrations from other nodes is open');
    return null;
  } catch (e) {
    const text = `no VM can migrate to this node: ${errorRecord(e).message.split('\n')[0] ?? ''}`;
    log.warn(text);
    return text;
  }
}
