import { stat } from 'node:fs/promises';
import path from 'node:path';
import { errorRecord } from '../../../core/domain/error.js';
import { epochKey, recoveryKey } from '../../../core/wire/ledger-keys.js';
import type { Clock } from '../../env.js';
import { journalFile, readJournal } from '../../journal/read.js';
import { EtcdLedger } from '../../ledger/etcd.js';
import { LedgerMembers } from '../../ledger/members.js';
import { lackingCaKeys, readIfThere, readTls } from '../../pki/store.js';
import { snapshotsDir, storedSnapshots } from '../../snapshots/shelf.js';
import type { ClusterCache } from '../cache.js';
import type { AgentConfig } from '../config.js';
import { clientUrl, etcdDir } from '../etcd-settings.js';
import { readProgress } from './progress.js';

const askMs = 1_500;

/** What this node knows, in lines for a person who has to decide where and from what to recover. */
export async function recoverStatus(
  config: AgentConfig,
  cache: ClusterCache,
  clock: Clock,
): Promise<string[]> {
  const { stateDir } = config;
  const out = [`Node ${config.name} of cluster "${cache.name}" (${cache.clusterId})`];
  const ledger = new EtcdLedger({
    endpoints: cache.ledgerEndpoints,
    tls: await readTls(stateDir),
    deadlineMs: askMs,
  });
  try {
    const under = await ledger.list(epochKey).then(
      async ({ entries, revision }) => {
        const recovering = (await ledger.get(recoveryKey)) === null ? '' : '; a recovery is under way';
        return `The ledger answers: epoch ${entries[0]?.value ?? 'none'}, revision ${revision}${recovering}`;
      },
      (e: unknown) =>
        `The ledger does not answer: ${[errorRecord(e).message, ...errorRecord(e).causes].join(': ')}`,
    );
    out.push(under);
    const members = new LedgerMembers(ledger.gateway);
    const own = clientUrl(config.address, config.ports);
    for (const endpoint of new Set([own, ...cache.ledgerEndpoints])) {
      const where = endpoint === own ? 'This node’s voter' : `The voter at ${endpoint}`;
      const s = await members.status(endpoint).catch(() => null);
      if (s !== null) {
        const leader = s.leader === null ? 'without a leader' : 'with a leader';
        out.push(`${where} runs, ${leader}, at revision ${s.revision}, log ${s.raftIndex}`);
      } else if (endpoint === own) {
        const there = await stat(path.join(etcdDir(stateDir), 'member')).catch(() => null);
        out.push(
          there === null ? 'This node has no voter’s data' : `${where} does not run; its data are there`,
        );
      } else out.push(`${where} does not answer`);
    }
  } finally {
    await ledger.close();
  }
  const snapshots = await storedSnapshots(snapshotsDir(stateDir));
  if (snapshots.length === 0) out.push('No snapshot of the ledger is here');
  for (const s of snapshots.slice(0, 3)) {
    const minutes = Math.round((clock.wallMs() - s.takenMs) / 60_000);
    out.push(`Snapshot ${s.file}: ${minutes} min old, epoch ${s.epoch}, revision ${s.revision}`);
  }
  if (snapshots.length > 3)
    out.push(`… and ${snapshots.length - 3} older ones: flotilla-agent ledger snapshots`);
  const { last, unreadable } = await readJournal(journalFile(stateDir));
  const bad = unreadable.length === 0 ? '' : `, ${unreadable.length} lines cannot be read`;
  out.push(`The ownership journal here speaks of ${last.size} VMs${bad}`);
  const epoch = (await readIfThere(path.join(stateDir, 'epoch')))?.trim();
  out.push(
    epoch === undefined
      ? 'This node was never admitted to an epoch'
      : `This node is admitted to epoch ${epoch}`,
  );
  if ((await lackingCaKeys(stateDir)).length > 0)
    out.push(
      'The key of the CA is not here: nodes could not join or renew until it is put back from a voter’s disk',
    );
  const progress = await readProgress(stateDir);
  if (progress !== null)
    out.push(`A recovery by ${progress.file ?? 'this voter’s data'} was cut off here: give the same again`);
  return out;
}
