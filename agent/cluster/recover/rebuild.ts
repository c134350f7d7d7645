import { cp, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { FlotillaError } from '../../../core/domain/error.js';
import type { Recovery } from '../../../core/domain/recovery.js';
import {
  epochKey,
  ledgerRoot,
  metaKey,
  metaSchema,
  readRecord,
  recoveryKey,
  recoverySchema,
  writeRecord,
} from '../../../core/wire/ledger-keys.js';
import type { Clock } from '../../env.js';
import { journalFile, readJournal } from '../../journal/read.js';
import { EtcdLedger } from '../../ledger/etcd.js';
import type { Ledger } from '../../ledger/ledger.js';
import { LedgerMembers } from '../../ledger/members.js';
import { pemsIn } from '../../pki/bundle.js';
import { pkiPaths, readIfThere, readTls, writeSecret } from '../../pki/store.js';
import { snapshotFault } from '../../snapshots/check.js';
import { readClusterCache, writeClusterCache, type ClusterCache } from '../cache.js';
import type { AgentConfig } from '../config.js';
import { clientUrl, etcdDir, etcdEnvFile, peerUrl, settingsText, voterSettings } from '../etcd-settings.js';
import type { Services } from '../services.js';
import { withEtcdAside } from './etcd-aside.js';
import { endProgress, readProgress, writeProgress, type Progress } from './progress.js';

/** Unpacking a snapshot of 2 GiB on a slow disk, ms. */
const restoreMs = 600_000;
/** How long the rebuilt voter may take to answer, ms. */
const answerMs = 60_000;
/** Revisions are raised so far beyond the snapshot's, so that none means two things. An hour of writes is far below. */
const revisionLeap = 1_000_000_000;
const askMs = 1_500;

export interface RebuildDeps {
  readonly config: AgentConfig;
  readonly services: Services;
  readonly clock: Clock;
  /** Told of each step before it is done, in words. */
  readonly say: (text: string) => void;
  readonly programs?: { readonly etcd: string; readonly etcdutl: string };
}

export type Source = { readonly how: 'voter' } | { readonly how: 'snapshot'; readonly file: string };

/**
 * Makes a ledger of one voter on this node: of its own data, or of a snapshot. Its first record, written before
 * anybody else reaches it, is a new epoch and that a recovery is under way. Cut off anywhere, the same call goes on.
 *
 * @returns the new epoch
 * @throws FlotillaError `wrong-state` (the ledger answers, a voter answers, no data, another recovery was begun),
 *   `bad-input` (no snapshot, another cluster's), `tool-failed`, `not-found`
 */
export async function rebuildLedger(d: RebuildDeps, source: Source): Promise<number> {
  const { config, say } = d;
  const { stateDir } = config;
  const cache = await readClusterCache(stateDir);
  if (cache === null) throw refuse('not-found', 'This node is in no cluster', 'There is nothing to recover.');
  const file = source.how === 'snapshot' ? path.resolve(source.file) : null;
  let progress = await readProgress(stateDir);
  if (progress === null) {
    await check(d, cache, file);
    progress = { how: source.how, file, epoch: null };
    await writeProgress(stateDir, progress);
  } else if (progress.how !== source.how || progress.file !== file) {
    const was = progress.file === null ? '--i-know-others-are-off' : `--snapshot ${progress.file}`;
    throw refuse(
      'wrong-state',
      `A recovery by ${was} was begun here and cut off`,
      'Give the same to go on with it.',
    );
  }
  say('stops etcd on this node');
  await d.services.disable('flotilla-etcd');
  if (progress.epoch === null) progress = await makeAside(d, cache, progress);
  await swap(d);
  await serve(d, cache, progress.epoch ?? 0);
  await endProgress(stateDir);
  return progress.epoch ?? 0;
}

const aside = (stateDir: string): string => `${etcdDir(stateDir)}.recover`;

/** Everything that speaks against it, before anything is touched. */
async function check(d: RebuildDeps, cache: ClusterCache, file: string | null): Promise<void> {
  const { config, say } = d;
  if (file === null) {
    if (!(await isThere(path.join(etcdDir(config.stateDir), 'member')))) {
      const hint = 'Run it on a node that has them, or give --snapshot FILE: flotilla-agent recover status.';
      throw refuse('wrong-state', 'This node has no data of a voter', hint);
    }
  } else {
    const fault = await snapshotFault(file).catch((cause: unknown) => {
      throw new FlotillaError('not-found', `The snapshot ${file} cannot be read`, {
        hint: 'See which there are: flotilla-agent ledger snapshots.',
        cause,
      });
    });
    if (fault !== null) {
      throw refuse('bad-input', `${file} is no snapshot to recover from: ${fault}`, 'Take another one.');
    }
  }
  say('asks whether the ledger answers after all');
  const tls = await readTls(config.stateDir);
  const own = clientUrl(config.address, config.ports);
  const ledger = new EtcdLedger({ endpoints: cache.ledgerEndpoints, tls, deadlineMs: askMs });
  try {
    const answers = await ledger.get(metaKey).then(
      () => true,
      () => false,
    );
    if (answers) {
      throw refuse('wrong-state', 'The ledger answers: it has a quorum', 'There is nothing to recover.');
    }
    const members = new LedgerMembers(ledger.gateway);
    for (const endpoint of cache.ledgerEndpoints.filter((e) => e !== own)) {
      const there = await members.status(endpoint).catch(() => null);
      if (there === null) continue;
      throw refuse(
        'wrong-state',
        `The voter at ${endpoint} answers, at revision ${there.revision}: it is not off`,
        'Recover on that node if it is the most advanced. Else end it there: systemctl disable --now flotilla-etcd.',
      );
    }
  } finally {
    await ledger.close();
  }
}

/** The new data, beside the old: complete and marked before it takes its place. */
async function makeAside(d: RebuildDeps, cache: ClusterCache, p: Progress): Promise<Progress> {
  const { config, say } = d;
  const dir = aside(config.stateDir);
  const programs = d.programs ?? { etcd: '/usr/bin/etcd', etcdutl: '/usr/bin/etcdutl' };
  await rm(dir, { recursive: true, force: true });
  if (p.file === null) {
    say('copies this voter’s data');
    await cp(etcdDir(config.stateDir), dir, { recursive: true });
  } else {
    say(`unpacks ${p.file}`);
    await unpack(d, programs.etcdutl, p.file, cache.clusterId);
  }
  say('makes it a ledger of this voter alone, of a new epoch');
  const o = { config, clusterId: cache.clusterId, clock: d.clock, program: programs.etcd, dataDir: dir };
  const epoch = await withEtcdAside({ ...o, force: p.file === null }, (ledger) =>
    mark(d, cache, p, ledger),
  ).catch(async (error: unknown) => {
    if (!(error instanceof FlotillaError) || error.code !== 'bad-input') throw error;
    // The wrong one was given: as if nothing had been.
    await rm(dir, { recursive: true, force: true });
    await endProgress(config.stateDir);
    if (await isThere(etcdEnvFile(config.stateDir))) await d.services.enable('flotilla-etcd');
    throw error;
  });
  // A copy, and a database that etcd unpacked, may still be in memory only.
  await execa('sync', ['-f', dir]);
  const made = { ...p, epoch };
  await writeProgress(config.stateDir, made);
  return made;
}

async function unpack(d: RebuildDeps, etcdutl: string, file: string, clusterId: string): Promise<void> {
  const { config } = d;
  const peer = peerUrl(config.address, config.ports);
  const args = ['snapshot', 'restore', file, '--data-dir', aside(config.stateDir)];
  args.push('--name', config.name, '--initial-cluster', `${config.name}=${peer}`);
  args.push('--initial-advertise-peer-urls', peer, '--initial-cluster-token', clusterId);
  args.push('--bump-revision', String(revisionLeap), '--mark-compacted');
  try {
    await execa(etcdutl, args, { timeout: restoreMs, stdin: 'ignore' });
  } catch (cause) {
    throw new FlotillaError('tool-failed', `The snapshot ${file} could not be unpacked`, {
      hint: 'Take another one, or make room on the disk; then run the same again.',
      cause,
    });
  }
}

/** First of all: a new epoch, and that nothing may be started. Who was alive then is not now. */
async function mark(d: RebuildDeps, cache: ClusterCache, p: Progress, ledger: Ledger): Promise<number> {
  const { config } = d;
  const entry = await ledger.get(metaKey);
  if (entry === null) throw refuse('bad-input', 'That ledger holds no cluster', 'Take another snapshot.');
  const meta = readRecord({ schema: metaSchema }, metaKey, entry.value);
  if (meta.id !== cache.clusterId) {
    const hint = `This node is of "${cache.name}". Take a snapshot of this cluster.`;
    throw refuse('bad-input', `That ledger is of another cluster, "${meta.name}"`, hint);
  }
  const journal = await readJournal(journalFile(config.stateDir));
  const admitted = Number((await readIfThere(path.join(config.stateDir, 'epoch'))) ?? 0);
  const known = [meta.epoch, admitted || 0, ...[...journal.last.values()].map((e) => e.epoch)];
  const epoch = Math.max(...known) + 1;
  const recovery: Recovery = {
    epoch,
    fromEpoch: meta.epoch,
    how: p.how,
    node: config.name,
    startedMs: d.clock.wallMs(),
    peers: cache.peers,
  };
  // The snapshot may be of before the CA was replaced; nodes believe no CA that theirs does not vouch for.
  const pki = pkiPaths(config.stateDir);
  const [ca = meta.ca, otherCa] = pemsIn((await readIfThere(pki.caCert)) ?? '');
  const handover = (await readIfThere(pki.handover)) ?? undefined;
  const cas = { ca, otherCa, handover };
  const r = await ledger.txn(
    [{ key: metaKey, modRevision: entry.modRevision }],
    [
      { put: metaKey, value: writeRecord({ schema: metaSchema }, { ...meta, ...cas, epoch }) },
      { put: epochKey, value: String(epoch) },
      { put: recoveryKey, value: writeRecord({ schema: recoverySchema }, recovery) },
      ...['live', 'lead', 'fenced', 'fencing', 'admitted'].map((k) => ({ delPrefix: `${ledgerRoot}${k}/` })),
    ],
  );
  if (!r.done) throw new Error('somebody else wrote to a ledger that nobody else can reach');
  return epoch;
}

/** The new data takes the place of the old, which is kept. Done again it does nothing. */
async function swap(d: RebuildDeps): Promise<void> {
  const { config, say } = d;
  const dir = etcdDir(config.stateDir);
  if (!(await isThere(aside(config.stateDir)))) return;
  say(`puts the former data aside, in ${dir}.former`);
  if (await isThere(dir)) {
    await rm(`${dir}.former`, { recursive: true, force: true });
    await rename(dir, `${dir}.former`);
  }
  await rename(aside(config.stateDir), dir);
}

async function serve(d: RebuildDeps, cache: ClusterCache, epoch: number): Promise<void> {
  const { config, clock, say } = d;
  const { stateDir } = config;
  const own = clientUrl(config.address, config.ports);
  const settings = voterSettings({
    node: config.name,
    address: config.address,
    stateDir,
    ports: config.ports,
    clusterId: cache.clusterId,
    state: 'existing',
    members: [{ name: config.name, peerUrl: peerUrl(config.address, config.ports) }],
    crl: (await readIfThere(pkiPaths(stateDir).crl)) !== null,
  });
  say('starts etcd with it');
  await writeSecret(etcdEnvFile(stateDir), settingsText(settings));
  await writeClusterCache(stateDir, { ...cache, ledgerEndpoints: [own] });
  await d.services.enable('flotilla-etcd');
  const ledger = new EtcdLedger({ endpoints: [own], tls: await readTls(stateDir) });
  try {
    const endMs = clock.nowMs() + answerMs;
    for (;;) {
      const cause = await ledger.get(epochKey).then(
        (e) => (e?.value === String(epoch) ? null : new Error(`it is of epoch ${e?.value ?? 'none'}`)),
        (e: unknown) => e,
      );
      if (cause === null) return;
      if (clock.nowMs() > endMs) {
        const hint = 'Look at "journalctl -u flotilla-etcd"; then run the same again.';
        throw new FlotillaError('ledger-unavailable', 'The rebuilt ledger does not answer', { hint, cause });
      }
      await clock.sleep(200);
    }
  } finally {
    await ledger.close();
  }
}

const refuse = (
  code: 'wrong-state' | 'bad-input' | 'not-found',
  message: string,
  hint: string,
): FlotillaError => new FlotillaError(code, message, { hint });

async function isThere(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    (error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
      throw error;
    },
  );
}
