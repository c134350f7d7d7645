import type { Clock, Random } from '../env.js';
import { EtcdLedger } from '../ledger/etcd.js';
import { RecordStore } from '../ledger/records.js';
import { certificateSha256 } from '../pki/bundle.js';
import { caKeyFile, readTls } from '../pki/store.js';
import { apiTokenText, createToken, joinTokenText, type NewToken } from '../pki/tokens.js';
import { FlotillaError } from '../../core/domain/error.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import { readClusterCache } from './cache.js';
import { portsSchema, type AgentConfig } from './config.js';

/** Somebody waits at a command, and can wait longer than the agent's own calls may: a node may have just booted, ms. */
const commandDeadlineMs = 15_000;

export interface TokenDeps {
  readonly config: AgentConfig;
  readonly clock: Clock;
  readonly random?: Random;
}

export interface MadeToken {
  readonly id: string;
  readonly name: string;
  readonly kind: 'join' | 'api';
  /** The text to hand over; shown this once. */
  readonly token: string;
  readonly expiresMs: number | null;
  readonly uses: number | null;
}

/**
 * The text of a join token: a voter to ask, and the CA's hash to know it by.
 *
 * @param address - of a node that holds the CA's key
 */
export function joinTokenFor(
  bearer: { id: string; secret: string },
  o: { address: string; agentPort: number; ca: string },
): string {
  const usual = portsSchema.parse({}).agent;
  return joinTokenText({
    ...bearer,
    address: o.address,
    port: o.agentPort === usual ? null : o.agentPort,
    caSha256: certificateSha256(o.ca),
  });
}

/**
 * Makes a token on a node of the cluster, with the node's certificate.
 *
 * @throws FlotillaError `not-found` (the node is in no cluster), `name-taken`, `wrong-state`, and of the ledger
 */
export async function createTokenOnNode(d: TokenDeps, o: NewToken): Promise<MadeToken> {
  const { config, clock } = d;
  const cache = await readClusterCache(config.stateDir);
  if (cache === null) {
    throw new FlotillaError('not-found', 'This node is in no cluster', {
      hint: 'Found one or join one first.',
    });
  }
  const ledger = new EtcdLedger({
    endpoints: cache.ledgerEndpoints,
    tls: await readTls(config.stateDir),
    deadlineMs: commandDeadlineMs,
  });
  try {
    const { store, meta } = await RecordStore.open(ledger);
    const made = await createToken(store, o, clock.wallMs());
    const { name, expiresMs, usesLeft } = made.record;
    const { kind } = o;
    const base = { id: made.id, name, kind, expiresMs, uses: usesLeft };
    if (kind === 'api') return { ...base, token: apiTokenText(made) };
    const address = await signerAddress(store, config, meta.ca);
    return { ...base, token: joinTokenFor(made, { address, agentPort: config.ports.agent, ca: meta.ca }) };
  } finally {
    await ledger.close();
  }
}

/** This node where it can sign, else the first voter. */
async function signerAddress(store: RecordStore, config: AgentConfig, ca: string): Promise<string> {
  if ((await caKeyFile(config.stateDir, ca)) !== null) return config.address;
  const { items } = await store.list(kinds.node);
  const voter = items.find((n) => n.value.voter)?.value.addresses[0];
  if (voter !== undefined) return voter;
  throw new FlotillaError('wrong-state', 'No voter of the ledger is known', { hint: 'See any node page.' });
}
