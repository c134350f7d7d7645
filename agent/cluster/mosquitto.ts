import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { pemsIn } from '../pki/bundle.js';
import { pkiPaths, readIfThere } from '../pki/store.js';
import { writeFileDurably } from '../pki/files.js';
import { brokerAcl, brokerConfig } from '../radio/broker-config.js';
import type { AgentConfig } from './config.js';

/** Where the node's broker writes its errors for us to count; its unit makes the directory. */
export const brokerLogFile = '/run/flotilla-mosquitto/errors.log';

export const mosquittoDir = (stateDir: string): string => path.join(stateDir, 'mosquitto');

/**
 * Writes what the node's broker needs: its configuration, the access list, and copies of certificate and key, since
 * the broker is not root and cannot reach ours. Its unit gives the directory to it.
 *
 * @param logFile - where the broker writes its errors besides the journal; null: nowhere
 * @returns what must be done for it to count: `restart` (configuration), `reload` (certificates, access list), nothing
 */
export async function installMosquitto(
  config: Pick<AgentConfig, 'stateDir' | 'ports' | 'address'>,
  logFile: string | null = brokerLogFile,
): Promise<'restart' | 'reload' | null> {
  const dir = mosquittoDir(config.stateDir);
  const pki = pkiPaths(config.stateDir);
  const text = (file: string) => readFile(file, 'utf8');
  // Everywhere: the agent itself speaks to its broker at 127.0.0.1, peers at the address. Nodes that share a
  // machine have loopback addresses and keep to theirs.
  const address = config.address.startsWith('127.') ? config.address : null;
  const crl = await readIfThere(pki.crl);
  const files: [name: string, text: string, means: 'restart' | 'reload'][] = [
    // Before the configuration that names it.
    ...(crl === null ? [] : [['ca.crl', crl, 'reload'] satisfies [string, string, 'reload']]),
    [
      'mosquitto.conf',
      brokerConfig({ dir, port: config.ports.radio, address, logFile, crl: crl !== null }),
      'restart',
    ],
    ['acl', brokerAcl, 'reload'],
    // It reads the CAs as it starts, and then no more; which of them signs is all the same to it.
    [
      'ca.crt',
      pemsIn(await text(pki.caCert))
        .sort()
        .join(''),
      'restart',
    ],
    ['node.crt', await text(pki.nodeCert), 'reload'],
    ['node.key', await text(pki.nodeKey), 'reload'],
  ];
  let due: 'restart' | 'reload' | null = null;
  for (const [name, wanted, means] of files) {
    const file = path.join(dir, name);
    if ((await readIfThere(file)) === wanted) continue;
    await writeFileDurably(file, wanted, { mode: 0o640 });
    if (due !== 'restart') due = means;
  }
  return due;
}
