import path from 'node:path';
import { rm } from 'node:fs/promises';
import { z } from 'zod';
import type { CrlRecord } from '../../core/domain/certificate.js';
import type { ClusterMeta } from '../../core/domain/cluster.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { NodeRecord } from '../../core/domain/node.js';
import { idSchema, nameSchema, parse } from '../../core/domain/schema.js';
import { passwordSchema, type User } from '../../core/domain/user.js';
import {
  crlKey,
  crlRecordSchema,
  epochKey,
  ledger as kinds,
  metaKey,
  metaSchema,
  readRecord,
  unique,
  writeRecord,
} from '../../core/wire/ledger-keys.js';
import type { Clock, Log, Random } from '../env.js';
import { EtcdLedger } from '../ledger/etcd.js';
import type { Ledger } from '../ledger/ledger.js';
import { absent, putRecord } from '../ledger/records.js';
import { certificateRecord, makeCa, makeCsr, signNode, type Ca } from '../pki/certificates.js';
import { crlMark, makeCrl, nextCrlNumber, readCrl } from '../pki/crl.js';
import { ensurePrivateKey } from '../pki/keys.js';
import { pkiPaths, readIfThere, readTls, writePublic, writeSecret } from '../pki/store.js';
import { hashPassword, madeUpPassword } from '../pki/password.js';
import { apiTokenText, makeToken, parseApiToken, secretSha256 } from '../pki/tokens.js';
import { readClusterCache, writeClusterCache } from './cache.js';
import { addressesOf, type AgentConfig } from './config.js';
import { clientUrl, etcdEnvFile, peerUrl, settingsText, voterSettings } from './etcd-settings.js';
import { installMosquitto } from './mosquitto.js';
import type { Services } from './services.js';

/** How long the first voter may take to answer, ms: it makes its files, elects itself, and the disk may be slow. */
const firstAnswerMs = 60_000;
const firstAnswerPauseMs = 250;

/** Written before anything else, so that founding that was cut off goes on as the same cluster. */
const planSchema = z.object({ clusterId: idSchema, name: nameSchema });

export interface FoundDeps {
  readonly config: AgentConfig;
  readonly services: Services;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** For tests; production speaks to the voter it has just started. */
  readonly ledger?: (endpoint: string) => Promise<Ledger>;
}

export interface Founded {
  readonly clusterId: string;
  readonly name: string;
  readonly apiToken: string;
  /** Of the user `admin`: made up, unless one was given. */
  readonly adminPassword: string;
}

/** The founder's API token, 0600: whoever can read it is root on this node anyway. */
/** The first user's password, 0600, until somebody changes it and removes the file. */
export const adminPasswordFile = (stateDir: string): string => path.join(stateDir, 'admin-password');
export const adminTokenFile = (stateDir: string): string => path.join(stateDir, 'admin-token');

/**
 * Founds a cluster of one node: keys, CA, the first voter, the first records. `cluster.json` is written last;
 * until it is there, calling this again with the same name goes on where it was cut off.
 *
 * @throws FlotillaError `already-founded`, `ledger-unavailable`, `tool-failed`
 */
export async function found(
  d: FoundDeps,
  clusterName: string,
  password: string | null = null,
): Promise<Founded> {
  if (password !== null) parse(passwordSchema, password, 'the password of the first admin');
  const { config, clock } = d;
  const { stateDir } = config;
  const name = parse(nameSchema, clusterName, 'the name of the cluster');
  if (config.witness) {
    throw new FlotillaError('wrong-state', 'A witness founds no cluster: it would have nobody to vote with', {
      hint: 'Found it on a node that runs VMs, and join this one: flotilla-agent join --witness.',
    });
  }
  const cache = await readClusterCache(stateDir);
  if (cache !== null) throw alreadyIn(cache.name, cache.node);
  const plan = await ensurePlan(d, name);

  const p = pkiPaths(stateDir);
  const ca = await ensureCa(plan.clusterId, stateDir, clock.wallMs());
  await ensurePrivateKey(p.nodeKey);
  const csr = await makeCsr({ keyFile: p.nodeKey, commonName: config.name });
  const subject = { node: config.name, addresses: addressesOf(config) };
  await writePublic(p.nodeCert, await signNode({ cert: ca, keyFile: p.caKey }, csr, subject, clock.wallMs()));

  const { crl } = await ensureCrl({ cert: ca, keyFile: p.caKey }, p.crl, clock.wallMs());
  const settings = voterSettings({
    crl: true,
    node: config.name,
    address: config.address,
    stateDir,
    ports: config.ports,
    clusterId: plan.clusterId,
    state: 'new',
    members: [{ name: config.name, peerUrl: peerUrl(config.address, config.ports) }],
  });
  await writeSecret(etcdEnvFile(stateDir), settingsText(settings));
  await d.services.enable('flotilla-etcd');

  const endpoint = clientUrl(config.address, config.ports);
  const ledger = await (
    d.ledger ?? (async (e) => new EtcdLedger({ endpoints: [e], tls: await readTls(stateDir) }))
  )(endpoint);
  try {
    await untilAnswers(ledger, clock);
    const { apiToken, adminPassword } = await writeFirstRecords(d, ledger, plan, { ca, crl, password });
    await installMosquitto(config);
    await d.services.enable('flotilla-mosquitto');
    await writeClusterCache(stateDir, {
      clusterId: plan.clusterId,
      name,
      node: config.name,
      address: config.address,
      witness: false,
      ledgerEndpoints: [endpoint],
      peers: [{ node: config.name, address: config.address }],
    });
    await rm(planFile(stateDir), { force: true });
    d.log.info('founded a cluster', { cluster: name, clusterId: plan.clusterId });
    return { clusterId: plan.clusterId, name, apiToken, adminPassword };
  } finally {
    await ledger.close();
  }
}

const planFile = (stateDir: string): string => path.join(stateDir, 'founding.json');

export function alreadyIn(cluster: string, node: string): FlotillaError {
  return new FlotillaError('already-founded', `This node is "${node}" of the cluster "${cluster}" already`, {
    hint: 'A node is in one cluster. To start over, stop its services and move its state directory away.',
  });
}

async function ensurePlan(d: FoundDeps, name: string): Promise<z.output<typeof planSchema>> {
  const file = planFile(d.config.stateDir);
  const text = await readIfThere(file);
  if (text !== null) {
    const plan = parse(planSchema, JSON.parse(text), file);
    if (plan.name === name) return plan;
    throw new FlotillaError('already-founded', `The founding of "${plan.name}" on this node was cut off`, {
      hint: `Give the same name to go on with it, or move ${d.config.stateDir} away to start over.`,
    });
  }
  // Keys without a plan and without cluster.json are of a join that was cut off, or of a lost cache.
  if ((await readIfThere(pkiPaths(d.config.stateDir).caCert)) !== null) {
    throw new FlotillaError(
      'already-founded',
      'This node holds the certificate of a cluster, but no cluster.json',
      {
        hint: `If it is of a join that was cut off, join again. Else move ${d.config.stateDir} away.`,
      },
    );
  }
  const plan = { clusterId: d.random.uuid(), name };
  await writeSecret(file, JSON.stringify(plan));
  return plan;
}

async function ensureCa(clusterId: string, stateDir: string, wallMs: number): Promise<string> {
  const p = pkiPaths(stateDir);
  await ensurePrivateKey(p.caKey);
  const there = await readIfThere(p.caCert);
  if (there !== null) return there;
  const cert = await makeCa({ clusterId, keyFile: p.caKey, wallMs });
  await writePublic(p.caCert, cert);
  return cert;
}

/** The first list names nobody. It is there before etcd and mosquitto, so that they never have to start anew for it. */
async function ensureCrl(ca: Ca, file: string, wallMs: number): Promise<{ crl: CrlRecord }> {
  const there = await readIfThere(file);
  const pem = there ?? (await makeCrl(ca, nextCrlNumber(0, wallMs), []));
  if (there === null) await writePublic(file, pem);
  const { number, serials } = await readCrl(pem, ca.cert);
  return { crl: { number, mark: crlMark(serials), pem } };
}

async function untilAnswers(ledger: Ledger, clock: Clock): Promise<void> {
  const endMs = clock.nowMs() + firstAnswerMs;
  for (;;) {
    try {
      await ledger.get(metaKey);
      return;
    } catch (cause) {
      if (clock.nowMs() < endMs) {
        await clock.sleep(firstAnswerPauseMs);
        continue;
      }
      throw new FlotillaError('ledger-unavailable', 'The first voter does not answer', {
        hint: 'Look at "journalctl -u flotilla-etcd"; then run the same command again.',
        cause,
      });
    }
  }
}

/** Meta, epoch, this node, the first API token and the first user in one transaction; the secrets' files are written before. */
async function writeFirstRecords(
  d: FoundDeps,
  ledger: Ledger,
  plan: z.output<typeof planSchema>,
  { ca, crl, password }: { ca: string; crl: CrlRecord; password: string | null },
): Promise<{ apiToken: string; adminPassword: string }> {
  const { config, clock } = d;
  const file = adminTokenFile(config.stateDir);
  const wallMs = clock.wallMs();
  const kept = parseApiToken(((await readIfThere(file)) ?? '').trim());
  const made = makeToken({ kind: 'api', name: 'admin', ttlMs: null, uses: null }, wallMs);
  const bearer = kept ?? { id: made.record.id, secret: made.secret };
  const token = { ...made.record, id: bearer.id, sha256: secretSha256(bearer.secret) };
  await writeSecret(file, `${apiTokenText(bearer)}\n`);
  const passwordFile = adminPasswordFile(config.stateDir);
  const adminPassword = ((await readIfThere(passwordFile)) ?? '').trim() || (password ?? madeUpPassword());
  await writeSecret(passwordFile, `${adminPassword}\n`);
  const user: User = {
    id: d.random.uuid(),
    name: 'admin',
    role: 'admin',
    operates: [],
    operatesTags: [],
    operatesVapps: [],
    disabled: false,
    password: await hashPassword(adminPassword),
    totp: null,
    signOn: null,
    createdMs: wallMs,
    passwordMs: wallMs,
  };

  const meta: ClusterMeta = {
    schema: 1,
    id: plan.clusterId,
    name: plan.name,
    epoch: 1,
    ca,
    foundedMs: wallMs,
    founder: config.name,
  };
  const own = certificateRecord((await readIfThere(pkiPaths(config.stateDir).nodeCert)) ?? '', wallMs);
  const node: NodeRecord = {
    id: config.name,
    addresses: addressesOf(config),
    voter: true,
    desired: 'active',
    rack: null,
    witness: false,
    fingerprint: own.fingerprint,
    joinedMs: wallMs,
  };
  const r = await ledger.txn(
    [absent(metaKey)],
    [
      { put: metaKey, value: writeRecord({ schema: metaSchema }, meta) },
      { put: epochKey, value: String(meta.epoch) },
      { put: crlKey, value: writeRecord({ schema: crlRecordSchema }, crl) },
      putRecord(kinds.cert, own.serial, own),
      putRecord(kinds.node, node.id, node),
      ...node.addresses.map((a) => ({ put: unique.nodeAddress(a), value: node.id })),
      putRecord(kinds.token, token.id, token),
      { put: unique.name('token', token.name), value: token.id },
      putRecord(kinds.user, user.id, user),
      { put: unique.name('user', user.name), value: user.id },
    ],
  );
  if (!r.done) {
    // A former try got this far; its token file is the one we have read.
    const there = await ledger.get(metaKey);
    const theirs = there && readRecord({ schema: metaSchema }, metaKey, there.value);
    if (theirs?.id !== plan.clusterId) {
      throw new FlotillaError('already-founded', 'The ledger on this node holds another cluster', {
        hint: `Move ${config.stateDir} away to start over.`,
      });
    }
  }
  return { apiToken: apiTokenText(bearer), adminPassword };
}
