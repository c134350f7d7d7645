import { readClusterCache } from '../cluster/cache.js';
import { readAgentConfig } from '../cluster/config.js';
import { options, usage } from '../cluster/usage.js';
import { EtcdLedger } from '../ledger/etcd.js';
import { LedgerMembers } from '../ledger/members.js';
import { readTls } from '../pki/store.js';
import { systemClock } from '../system.js';
import { FlotillaError } from '../../core/domain/error.js';
import { parseArgs } from 'node:util';
import { takeSnapshot } from './keep.js';
import { snapshotsDir, storedSnapshots, type StoredSnapshot } from './shelf.js';

const ledgerUsage = 'flotilla-agent ledger snapshots | snapshot now [--config FILE]';

/** `ledger snapshots`: those on this node. `ledger snapshot now`: takes one. @returns what is printed, as JSON */
export async function ledgerCommand(argv: readonly string[]): Promise<unknown> {
  const { values, positionals } = options(ledgerUsage, () =>
    parseArgs({ args: [...argv], allowPositionals: true, options: { config: { type: 'string' } } }),
  );
  const config = await readAgentConfig(values.config);
  const dir = snapshotsDir(config.stateDir);
  const shown = (s: StoredSnapshot): object => ({
    file: s.file,
    taken: new Date(s.takenMs).toISOString(),
    ageMs: systemClock.wallMs() - s.takenMs,
    epoch: s.epoch,
    revision: s.revision,
    bytes: s.bytes,
  });
  const verb = positionals.join(' ');
  if (verb === 'snapshots') return (await storedSnapshots(dir)).map(shown);
  if (verb !== 'snapshot now') throw usage(ledgerUsage);
  const cache = await readClusterCache(config.stateDir);
  if (cache === null) {
    throw new FlotillaError('not-found', 'This node is in no cluster', { hint: 'It has no ledger to keep.' });
  }
  const ledger = new EtcdLedger({ endpoints: cache.ledgerEndpoints, tls: await readTls(config.stateDir) });
  try {
    const members = new LedgerMembers(ledger.gateway);
    return shown(await takeSnapshot({ dir, ledger, members, clock: systemClock }));
  } finally {
    await ledger.close();
  }
}
