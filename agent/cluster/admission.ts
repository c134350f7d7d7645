import type { CertificateRecord } from '../../core/domain/certificate.js';
import type { ClusterMeta } from '../../core/domain/cluster.js';
import { certificatesMax, isOver, perKeyMax, revokedKey } from '../../core/decide/revocation.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { NodeRecord } from '../../core/domain/node.js';
import { crlKey, crlRecordSchema, ledger as kinds, readRecord, unique } from '../../core/wire/ledger-keys.js';
import type { Clock } from '../env.js';
import {
  absent,
  changeTriesMax,
  putRecord,
  unchanged,
  type RecordStore,
  type Stored,
} from '../ledger/records.js';
import {
  certificateRecord,
  checkCsr,
  isFor,
  signNode,
  type Ca,
  type NodeSubject,
} from '../pki/certificates.js';
import { checkToken } from '../pki/tokens.js';
import { addressesOf, type Ports } from './config.js';
import { clientUrl } from './etcd-settings.js';
import type { JoinAnswer, JoinRequest } from './join-wire.js';

/** Most nodes of a cluster. The radio was measured with 999 peers, the ledger's clients with 27 per voter. */
export const nodesMax = 256;

export interface AdmissionDeps {
  readonly store: RecordStore;
  readonly meta: ClusterMeta;
  readonly ca: Ca;
  /** All CAs that are trusted, first the one that signs, PEM. */
  readonly trusted: string;
  readonly ports: Ports;
  readonly clock: Clock;
}

/**
 * Admits a node with a token: its certificate is signed, and its record, its address and the token's use are
 * written in one transaction. Repeating it with the same key is answered again, without another use, since the
 * first answer may have been lost.
 *
 * @param from - the address the request came from
 * @throws FlotillaError `token-unknown`, `token-expired`, `token-used-up`, `name-taken`, `address-taken`,
 *   `bad-input`, `too-large`, `wrong-state`, `edit-conflict`, and of the ledger
 */
export async function admit(d: AdmissionDeps, request: JoinRequest, from: string): Promise<JoinAnswer> {
  const bearer = { id: request.tokenId, secret: request.secret };
  // The token first: who has none learns nothing, and costs no openssl.
  await checkToken(d.store, 'join', bearer, d.clock.wallMs());
  const fingerprint = await checkCsr(request.csr);
  checkAddress(request, from);
  let cert: CertificateRecord | null = null;
  for (let i = 0; i < changeTriesMax; i++) {
    const token = await checkToken(d.store, 'join', bearer, d.clock.wallMs());
    const nodes = await d.store.list(kinds.node);
    const own = nodes.items.find((n) => n.id === request.name);
    const again = own !== undefined && isSame(own.value, request, fingerprint);
    const certs = await goodCertificates(d, fingerprint);
    if (!again) {
      const used = token.value.usesLeft === 0;
      if (used) throw usedUp(token.value.name);
      const known = [...nodes.items.map((n) => n.id), ...nodes.unreadable.map((u) => kinds.node.idOf(u.key))];
      checkFree(
        request,
        known,
        nodes.items.map((n) => n.value),
      );
    }
    // Signed before it is written: a signer that fails has admitted nobody.
    const addresses = addressesOf(request);
    const subject = { node: request.name, addresses };
    if (again) {
      const fits = (pem: string) => addresses.every((a) => isFor(pem, a));
      const kept =
        certs.find((c) => c.pem !== null && fits(c.pem))?.pem ?? (await issue(d, own, request.csr, subject));
      return answer(
        d,
        request,
        kept,
        nodes.items.map((n) => n.value),
      );
    }
    cert ??= await signed(d, request.csr, subject);
    const record: NodeRecord = {
      id: request.name,
      addresses,
      voter: false,
      desired: 'active',
      rack: null,
      witness: request.witness,
      fingerprint,
      joinedMs: d.clock.wallMs(),
    };
    const keys = addresses.map((a) => unique.nodeAddress(a));
    const left = token.value.usesLeft;
    const r = await d.store.txn(
      [unchanged(token), absent(kinds.node.key(request.name)), ...keys.map(absent)],
      [
        putRecord(kinds.token, token.id, { ...token.value, usesLeft: left === null ? null : left - 1 }),
        putRecord(kinds.node, record.id, record),
        ...keys.map((put) => ({ put, value: record.id })),
        putRecord(kinds.cert, cert.serial, cert),
      ],
    );
    if (r.done) return answer(d, request, cert.pem ?? '', [...nodes.items.map((n) => n.value), record]);
    for (const [i, key] of keys.entries()) {
      const holder = await d.store.ledger.get(key);
      if (holder !== null && holder.value !== request.name)
        throw addressTaken(addresses[i] ?? '', holder.value);
    }
  }
  throw new FlotillaError('edit-conflict', `The admission of ${request.name} lost ${changeTriesMax} races`, {
    hint: 'Many nodes join at once: try again.',
  });
}

const signed = async (
  d: Pick<AdmissionDeps, 'ca' | 'clock'>,
  csr: string,
  subject: NodeSubject,
): Promise<CertificateRecord> => {
  const wallMs = d.clock.wallMs();
  return certificateRecord(await signNode(d.ca, csr, subject, wallMs), wallMs);
};

/**
 * Signs one more certificate of a node for its key, and writes it down: what is not written down could not be revoked.
 *
 * @returns the certificate, PEM
 * @throws FlotillaError `forbidden`: its key was revoked; `wrong-state`: there are too many; `edit-conflict`
 */
export async function issue(
  d: Pick<AdmissionDeps, 'store' | 'ca' | 'clock'>,
  node: Stored<NodeRecord>,
  csr: string,
  subject: NodeSubject,
): Promise<string> {
  await goodCertificates(d, node.value.fingerprint);
  const cert = await signed(d, csr, subject);
  const r = await d.store.txn(
    [unchanged(node), absent(kinds.cert.key(cert.serial))],
    [putRecord(kinds.cert, cert.serial, cert)],
  );
  if (r.done) return cert.pem ?? '';
  throw new FlotillaError('edit-conflict', `The node ${node.id} was changed just now`, {
    hint: 'Try again.',
  });
}

/**
 * The certificates of a key that are good now.
 *
 * @throws FlotillaError `forbidden`: the key was revoked; `wrong-state`: no more can be kept
 */
async function goodCertificates(
  d: Pick<AdmissionDeps, 'store' | 'clock'>,
  fingerprint: string,
): Promise<CertificateRecord[]> {
  const all = (await d.store.list(kinds.cert)).items.map((c) => c.value);
  const was = revokedKey(all, fingerprint);
  if (was !== null) {
    const when = new Date(was.revoked?.atMs ?? 0).toISOString().slice(0, 10);
    throw new FlotillaError(
      'forbidden',
      `The key of this machine is that of node "${was.node}", revoked on ${when}`,
      {
        hint: 'It does not come back by itself. To take it in again give it a new key: remove pki from its state directory.',
      },
    );
  }
  const good = all.filter((c) => c.fingerprint === fingerprint && !isOver(c, d.clock.wallMs()));
  if (good.length >= perKeyMax || all.length >= certificatesMax) {
    throw new FlotillaError('wrong-state', 'The cluster keeps no more certificates', {
      hint: 'See which there are: flotilla certificate list. They are forgotten a day after they expire.',
    });
  }
  return good;
}

const isSame = (node: NodeRecord, request: JoinRequest, fingerprint: string): boolean =>
  node.fingerprint === fingerprint &&
  node.addresses[0] === request.address &&
  node.witness === request.witness;

/**
 * The address goes into the certificate, so it must be the one the request comes from: else whoever holds a token
 * could get a certificate for the address of a voter. One of the storage network must only be nobody else's: it is used for
 * this node alone.
 */
function checkAddress(request: JoinRequest, from: string): void {
  const source = from.startsWith('::ffff:') ? from.slice('::ffff:'.length) : from;
  if (source === request.address) return;
  throw new FlotillaError('bad-input', `${request.name} claims ${request.address} but asks from ${source}`, {
    hint: 'Write the address by which the other nodes reach it into its /etc/flotilla/agent.json.',
  });
}

function checkFree(
  request: JoinRequest,
  names: readonly (string | null)[],
  nodes: readonly NodeRecord[],
): void {
  if (names.includes(request.name)) {
    throw new FlotillaError('name-taken', `There is a node "${request.name}" already, with another key`, {
      hint: 'Give this machine another name. If it replaces a dead one, remove that node first.',
    });
  }
  for (const a of addressesOf(request)) {
    const holder = nodes.find((n) => n.addresses.includes(a));
    if (holder !== undefined) throw addressTaken(a, holder.id);
  }
  if (names.length >= nodesMax) {
    throw new FlotillaError('wrong-state', `The cluster has ${nodesMax} nodes, the most it takes`, {
      hint: 'Found another cluster.',
    });
  }
}

function addressTaken(address: string, node: string): FlotillaError {
  return new FlotillaError('address-taken', `The address ${address} belongs to the node "${node}"`, {
    hint: 'Give this machine another address, or remove that node first.',
  });
}

function usedUp(name: string): FlotillaError {
  return new FlotillaError('token-used-up', `The join token "${name}" was used up`, {
    hint: 'Make a new one: "flotilla token create --kind join --uses N".',
  });
}

/** The lists of revoked certificates, PEM; null: there is none yet. */
export async function crlNow(store: RecordStore): Promise<string | null> {
  const crl = await store.ledger.get(crlKey);
  return crl === null ? null : readRecord({ schema: crlRecordSchema }, crlKey, crl.value).pem;
}

async function answer(
  d: AdmissionDeps,
  request: JoinRequest,
  cert: string,
  nodes: readonly NodeRecord[],
): Promise<JoinAnswer> {
  const crl = await crlNow(d.store);
  const at = (n: NodeRecord) => n.addresses[0] ?? '';
  return {
    cluster: { id: d.meta.id, name: d.meta.name, epoch: d.meta.epoch },
    node: request.name,
    address: request.address,
    cert,
    ca: d.trusted,
    crl,
    peers: nodes.map((n) => ({ node: n.id, address: at(n) })),
    ledgerEndpoints: nodes.filter((n) => n.voter).map((n) => clientUrl(at(n), d.ports)),
    voterPlan: nodes.filter((n) => n.voter).length >= 3 ? 'client' : 'may-become-voter',
  };
}
