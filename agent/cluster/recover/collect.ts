import { errorRecord, FlotillaError } from '../../../core/domain/error.js';
import type { Recovery } from '../../../core/domain/recovery.js';
import { parse } from '../../../core/domain/schema.js';
import { reachOf } from '../../../core/decide/standby.js';
import type { RecoverNode, RecoverView } from '../../../core/decide/recover.js';
import { poolHasNode } from '../../../core/domain/pool.js';
import { readRecord, recoveryKey, recoverySchema } from '../../../core/wire/ledger-keys.js';
import { journalAnswerBytesMax, journalAnswerSchema, type JournalAnswer } from '../../journal/http.js';
import { journalFile, readJournal } from '../../journal/read.js';
import type { Ledger } from '../../ledger/ledger.js';
import { readTls } from '../../pki/store.js';
import { Snapshots, type Snapshot } from '../../snapshot.js';
import { valuesOf } from '../../vm/ownership.js';
import type { AgentConfig } from '../config.js';
import { request } from '../join.js';

/** A node that says nothing for so long counts as one that does not answer, ms. */
const askMs = 5_000;

/** A node's journal, or why there is none. */
export interface Asked {
  readonly node: string;
  readonly address: string;
  readonly journal: JournalAnswer | null;
  /** It gives none, but its kernel refuses the connection: the machine is on, whoever says that it is off. */
  readonly on: boolean;
  /** Why not, in words. */
  readonly why: string;
}

export interface Collected {
  readonly snapshot: Snapshot;
  readonly recovery: { readonly value: Recovery; readonly modRevision: bigint };
  readonly asked: readonly Asked[];
  readonly view: RecoverView;
}

/** The recovery under way. @throws FlotillaError `wrong-state`: there is none */
export async function readRecovery(ledger: Ledger): Promise<Collected['recovery']> {
  const entry = await ledger.get(recoveryKey);
  if (entry === null) {
    throw new FlotillaError('wrong-state', 'No recovery of this ledger is under way', {
      hint: 'It begins with "flotilla-agent recover --i-know-others-are-off" or "--snapshot FILE".',
    });
  }
  const value = readRecord({ schema: recoverySchema }, recoveryKey, entry.value);
  return { value, modRevision: entry.modRevision };
}

/** The journal of one node, by its own file or from its agent. */
export async function askJournal(config: AgentConfig, node: string, address: string): Promise<Asked> {
  try {
    if (node === config.name) {
      const { last, unreadable } = await readJournal(journalFile(config.stateDir));
      const journal = { node, entries: [...last.values()], unreadable: unreadable.length };
      return { node, address, journal, on: true, why: '' };
    }
    const o = { address, port: config.ports.agent, path: '/v1/journal', method: 'GET' } as const;
    const tls = await readTls(config.stateDir);
    const answer = await request({ ...o, tls, timeoutMs: askMs, answerBytesMax: journalAnswerBytesMax });
    const journal = parse(journalAnswerSchema, answer, `the journal of ${node}`);
    if (journal.node === node) return { node, address, journal, on: true, why: '' };
    throw new Error(`${journal.node} answers at its address`);
  } catch (error) {
    const { message, causes } = errorRecord(error);
    const silent = error instanceof FlotillaError && ['node-unreachable', 'timeout'].includes(error.code);
    if (silent) {
      const on = causes.some((c) => c.includes('ECONNREFUSED'));
      return { node, address, journal: null, on, why: [message, ...causes].join(': ') };
    }
    throw new FlotillaError('unreadable-record', `Node ${node} answers, but gives no journal`, {
      hint: 'Mend what it says, or switch it off and say so: recover confirm --off NODE.',
      cause: error,
    });
  }
}

/** Asks all nodes that the rebuilt ledger or this node knows of for their journals. */
export async function collect(
  config: AgentConfig,
  ledger: Ledger,
  ask: typeof askJournal = askJournal,
): Promise<Collected> {
  const recovery = await readRecovery(ledger);
  const snapshot = await new Snapshots(ledger).read();
  if (snapshot.unreadable.length > 0) {
    throw new FlotillaError(
      'unreadable-record',
      `The ledger has records that cannot be read: ${snapshot.unreadable.slice(0, 3).join(', ')}`,
      {
        hint: 'Use the version of Flotilla that wrote them, or take another snapshot.',
      },
    );
  }
  const records = new Map([...snapshot.nodes].map(([id, k]) => [id, k.value]));
  const addresses = new Map(recovery.value.peers.map((p) => [p.node, p.address]));
  for (const n of records.values()) addresses.set(n.id, n.addresses[0] ?? '');
  const asked = await Promise.all(
    [...addresses].sort(([a], [b]) => (a < b ? -1 : 1)).map(([node, address]) => ask(config, node, address)),
  );
  const nodes = asked.map((a): RecoverNode => {
    const record = records.get(a.node);
    const runsVms = record?.desired === 'active' && !record.witness;
    return { id: a.node, reachable: a.journal !== null, runsVms };
  });
  const pools = valuesOf(snapshot.pools);
  const disks = valuesOf(snapshot.disks);
  const vms = [...snapshot.owns].map(([id, { value: own }]) => {
    const spec = snapshot.specs.get(id)?.value;
    const reach = spec === undefined ? null : reachOf(spec, disks, pools);
    // Whether the other copy of a disk has every write, only its owner knows now.
    const heirs =
      reach?.ok === true && !reach.copied
        ? nodes.filter((n) => reach.pools.every((p) => poolHasNode(p, n.id)))
        : [];
    return {
      id,
      name: spec?.name ?? id,
      memoryMiB: spec?.memoryMiB ?? 0,
      ha: spec?.ha.enabled ?? false,
      own: { owner: own.owner, gen: own.gen, standby: own.standby },
      heirs: heirs.map((n) => n.id),
    };
  });
  const journals = asked.flatMap((a) =>
    a.journal === null ? [] : [{ node: a.node, entries: a.journal.entries }],
  );
  return { snapshot, recovery, asked, view: { fromEpoch: recovery.value.fromEpoch, nodes, vms, journals } };
}
