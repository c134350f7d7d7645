import { type z } from 'zod';
import { balanceRecordSchema } from '../domain/balance.js';
import { certificateRecordSchema, crlRecordSchema, trustRecordSchema } from '../domain/certificate.js';
import { clusterMetaSchema, liveSchema, tokenRecordSchema } from '../domain/cluster.js';
import { diskSchema } from '../domain/disk.js';
import { FlotillaError } from '../domain/error.js';
import { bmcTestSchema, fencingDeviceSchema } from '../domain/fencing.js';
import { fencedSchema, policySchema, seenSchema } from '../domain/ha.js';
import { imageSchema } from '../domain/image.js';
import { networkSchema } from '../domain/network.js';
import { nodeRecordSchema } from '../domain/node.js';
import { opSchema } from '../domain/op.js';
import { poolSchema } from '../domain/pool.js';
import { powerRecordSchema } from '../domain/power.js';
import { recoverySchema } from '../domain/recovery.js';
import { replicaSchema } from '../domain/replica.js';
import { ledgerValueBytesMax, parse } from '../domain/schema.js';
import { userSchema } from '../domain/user.js';
import { vappSchema, vappSecretSchema } from '../domain/vapp.js';
import { ruleSchema } from '../domain/rule.js';
import { serviceClassSchema } from '../domain/service-class.js';
import { templateSchema } from '../domain/template.js';
import { vmOwnSchema, vmSpecSchema } from '../domain/vm.js';
import { vmSnapshotSchema } from '../domain/vm-snapshot.js';
import { epochKey, ledgerRoot, policyKey } from './key-names.js';

/** All of Flotilla's keys start so; another cluster's etcd never does. */
export { ledgerRoot };

/** One kind of ledger record: where it stands and what it must look like. */
export interface RecordKind<S extends z.ZodType> {
  readonly prefix: string;
  readonly schema: S;
  key(id: string): string;
  /** The id in a key of this kind, or null where the key is of another. */
  idOf(key: string): string | null;
}

function kind<S extends z.ZodType>(name: string, schema: S, suffix = ''): RecordKind<S> {
  const prefix = `${ledgerRoot}${name}/`;
  return {
    prefix,
    schema,
    key: (id) => `${prefix}${id}${suffix}`,
    idOf: (key) => {
      if (!key.startsWith(prefix) || !key.endsWith(suffix)) return null;
      const id = key.slice(prefix.length, key.length - suffix.length);
      return id === '' || id.includes('/') ? null : id;
    },
  };
}

export const metaKey = `${ledgerRoot}meta`;
export const metaSchema = clusterMetaSchema;

/**
 * The epoch of `meta` once more, alone: small enough to be compared by value in every transaction, so that none
 * of before a restore of the ledger is done after it. @see safety 10
 */
export { epochKey };

/** Switches of the whole cluster; absent until somebody sets one. */
export { policyKey };
export { policySchema };

/** The list of revoked certificates that every node is to use; absent until a voter has made the first. */
export const crlKey = `${ledgerRoot}crl`;
export { crlRecordSchema };

/** There while the ledger is being recovered. */
export const recoveryKey = `${ledgerRoot}recovery`;
export { recoverySchema };

/** Whom to tell what happens, with secrets; what was told; a try by hand. No view has the first. */
export const notifyKey = `${ledgerRoot}notify`;
export const notifyStateKey = `${ledgerRoot}notify-state`;
export const notifyTestKey = `${ledgerRoot}notify-test`;

/** The provider of identities, with its secrets. No view has it. */
export const signOnKey = `${ledgerRoot}sign-on`;

/** Admins whom nodes let in at their own pages, signed by the CA, with hashes of passwords. No view has it. */
export const breakGlassKey = `${ledgerRoot}break-glass`;

/** Every record kind of the ledger. Names are stable: every agent ever shipped knows them. */
export const ledger = {
  node: kind('node', nodeRecordSchema),
  live: kind('live', liveSchema),
  vmSpec: kind('vm', vmSpecSchema, '/spec'),
  vmOwn: kind('vm', vmOwnSchema, '/own'),
  disk: kind('disk', diskSchema),
  /** Of VMs' disks; the ledger's own are files of its nodes. */
  vmSnapshot: kind('snapshot', vmSnapshotSchema),
  pool: kind('pool', poolSchema),
  image: kind('image', imageSchema),
  network: kind('network', networkSchema),
  op: kind('op', opSchema),
  token: kind('token', tokenRecordSchema),
  /** With hashes of passwords and secrets of second factors: no view has them. */
  user: kind('user', userSchema),
  seen: kind('seen', seenSchema),
  fenced: kind('fenced', fencedSchema),
  /** How to power a node off from outside, with the secret: read where it is used, never kept. */
  bmc: kind('bmc', fencingDeviceSchema),
  /** The two copies of a VM's disks, with the secret of the pair: for the agents of its two nodes alone. */
  replica: kind('replica', replicaSchema),
  bmcTest: kind('bmc-test', bmcTestSchema),
  vapp: kind('vapp', vappSchema),
  /** Read where a guest is told of them, never kept. */
  vappSecret: kind('vapp-secret', vappSecretSchema),
  /** Affinity and anti-affinity of VMs. */
  rule: kind('rule', ruleSchema),
  /** Levels of service that VMs and vApps ask for by name. */
  class: kind('class', serviceClassSchema),
  /** What vApps are made of. */
  template: kind('template', templateSchema),
  /** One record: the plan that evens the cluster out, and what was moved of late. */
  balance: kind('balance', balanceRecordSchema),
  /** One record: what power could be saved, and what was done of late. */
  power: kind('power', powerRecordSchema),
  /** By serial. */
  cert: kind('cert', certificateRecordSchema),
  /** By node. */
  trust: kind('trust', trustRecordSchema),
} as const;

/** Who does one of the few jobs that one node does for all; bound to that node's lease. */
export const leadKey = (role: 'voters' | 'etcd-restart'): string => `${ledgerRoot}lead/${role}`;

/** Who is switching the power of that node now, so that one does it at a time; bound to the lease of the node that does. */
export const fencingKey = (node: string): string => `${ledgerRoot}fencing/${node}`;

/**
 * Keys whose existence alone is the fact: a transaction creates them with "must not exist yet", so that a name,
 * an address or a MAC is given once in the cluster. The value is the id of the holder.
 */
export const unique = {
  /** Names compare without case, in NFC. */
  name: (
    of: 'vm' | 'pool' | 'image' | 'network' | 'token' | 'user' | 'vapp' | 'rule' | 'class' | 'template',
    name: string,
  ): string => `${ledgerRoot}name/${of}/${name.normalize('NFC').toLocaleLowerCase('en')}`,
  address: (networkId: string, address: string): string => `${ledgerRoot}address/${networkId}/${address}`,
  addressPrefix: (networkId: string): string => `${ledgerRoot}address/${networkId}/`,
  mac: (mac: string): string => `${ledgerRoot}mac/${mac}`,
  /** A number of an isolated network. */
  vni: (vni: number): string => `${ledgerRoot}vni/${vni}`,
  /** A device number and a port of the pair of a VM. */
  minor: (minor: number): string => `${ledgerRoot}minor/${minor}`,
  minorPrefix: `${ledgerRoot}minor/`,
  replicaPort: (port: number): string => `${ledgerRoot}replica-port/${port}`,
  replicaPortPrefix: `${ledgerRoot}replica-port/`,
  /** A node's own address: certificates name it, so no two nodes may have one. */
  nodeAddress: (address: string): string => `${ledgerRoot}node-address/${address}`,
} as const;

/**
 * Reads a record from the ledger.
 *
 * @throws FlotillaError `unreadable-record`: not JSON, or not of its schema. The caller counts it and shows it;
 *   an unreadable record is never taken for an absent one.
 */
export function readRecord<S extends z.ZodType>(k: { schema: S }, key: string, value: string): z.output<S> {
  try {
    return parse(k.schema, JSON.parse(value), `ledger record ${key}`);
  } catch (cause) {
    throw new FlotillaError('unreadable-record', `The ledger record ${key} cannot be read`, {
      hint: 'A newer or a broken program wrote it. Nothing is done with the object until it is mended.',
      cause,
    });
  }
}

/**
 * Turns a record into what is stored. It is checked by its own schema first: what we write, every agent can read.
 *
 * @throws FlotillaError `bad-input`: not of its schema; `too-large`: above {@link ledgerValueBytesMax}
 */
export function writeRecord<S extends z.ZodType>(k: { schema: S }, value: z.output<S>): string {
  const text = JSON.stringify(parse(k.schema, value, 'the record'));
  if (Buffer.byteLength(text) > ledgerValueBytesMax) {
    throw new FlotillaError('too-large', `The record would be ${text.length} characters long`, {
      hint: `Records hold at most ${ledgerValueBytesMax} bytes: shorten notes, user data or keys.`,
    });
  }
  return text;
}
