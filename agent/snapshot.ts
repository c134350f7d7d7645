import { isOthers, type BmcTest } from '../core/domain/fencing.js';
import type { z } from 'zod';
import { balanceId, type BalanceRecord } from '../core/domain/balance.js';
import type { CertificateRecord, CrlRecord, TrustRecord } from '../core/domain/certificate.js';
import type { ClusterMeta } from '../core/domain/cluster.js';
import type { Disk } from '../core/domain/disk.js';
import type { Image } from '../core/domain/image.js';
import type { Network } from '../core/domain/network.js';
import type { NodeRecord } from '../core/domain/node.js';
import type { Op } from '../core/domain/op.js';
import type { Pool } from '../core/domain/pool.js';
import { powerId, type PowerRecord } from '../core/domain/power.js';
import type { Live, TokenRecord } from '../core/domain/cluster.js';
import { policyDefault, policySchema, type Fenced, type Policy } from '../core/domain/ha.js';
import { recoveryText } from '../core/domain/recovery.js';
import type { Replica } from '../core/domain/replica.js';
import type { Vapp } from '../core/domain/vapp.js';
import type { Rule } from '../core/domain/rule.js';
import type { ServiceClass } from '../core/domain/service-class.js';
import type { Template } from '../core/domain/template.js';
import type { VmOwn, VmSpec } from '../core/domain/vm.js';
import type { VmSnapshot } from '../core/domain/vm-snapshot.js';
import {
  crlKey,
  crlRecordSchema,
  ledger as kinds,
  ledgerRoot,
  metaKey,
  metaSchema,
  policyKey,
  readRecord,
  recoveryKey,
  recoverySchema,
  type RecordKind,
} from '../core/wire/ledger-keys.js';
import type { Ledger, LedgerEntry, Listing } from './ledger/ledger.js';

/** A record with the revision that a compare-and-swap of it must name. */
export interface Kept<T> {
  readonly value: T;
  readonly modRevision: bigint;
}

/** One record as the ledger has it in this moment; null: there is none. @throws FlotillaError `ledger-unavailable`, `unreadable-record` */
export async function keptNow<S extends z.ZodType>(
  ledger: Pick<Ledger, 'get'>,
  kind: Pick<RecordKind<S>, 'key' | 'schema'>,
  id: string,
): Promise<Kept<z.output<S>> | null> {
  const e = await ledger.get(kind.key(id));
  return e === null ? null : { value: readRecord(kind, e.key, e.value), modRevision: e.modRevision };
}

/** One that was made since the last reading is read now: whoever has made it may ask for it at once. @throws as {@link keptNow} */
export async function keptOrNow<S extends z.ZodType>(
  read: ReadonlyMap<string, Kept<z.output<S>>> | undefined,
  ledger: Pick<Ledger, 'get'>,
  kind: Pick<RecordKind<S>, 'key' | 'schema'>,
  id: string,
): Promise<Kept<z.output<S>> | null> {
  return read?.get(id) ?? keptNow(ledger, kind, id);
}

/** Everything the ledger holds, at one revision. */
export interface Snapshot {
  readonly revision: bigint;
  readonly meta: Kept<ClusterMeta> | null;
  readonly nodes: ReadonlyMap<string, Kept<NodeRecord>>;
  readonly specs: ReadonlyMap<string, Kept<VmSpec>>;
  readonly owns: ReadonlyMap<string, Kept<VmOwn>>;
  readonly disks: ReadonlyMap<string, Kept<Disk>>;
  /** Of VMs. */
  readonly vmSnapshots: ReadonlyMap<string, Kept<VmSnapshot>>;
  /** By VM. */
  readonly replicas: ReadonlyMap<string, Kept<Replica>>;
  readonly pools: ReadonlyMap<string, Kept<Pool>>;
  readonly images: ReadonlyMap<string, Kept<Image>>;
  readonly networks: ReadonlyMap<string, Kept<Network>>;
  readonly ops: ReadonlyMap<string, Kept<Op>>;
  readonly vapps: ReadonlyMap<string, Kept<Vapp>>;
  readonly rules: ReadonlyMap<string, Kept<Rule>>;
  readonly classes: ReadonlyMap<string, Kept<ServiceClass>>;
  readonly templates: ReadonlyMap<string, Kept<Template>>;
  readonly tokens: ReadonlyMap<string, Kept<TokenRecord>>;
  /** Certificates of nodes, by serial. */
  readonly certs: ReadonlyMap<string, Kept<CertificateRecord>>;
  /** What nodes say of the CAs they trust. */
  readonly trusts: ReadonlyMap<string, Kept<TrustRecord>>;
  /** Null: there is none yet, or it cannot be read. */
  readonly crl: Kept<CrlRecord> | null;
  /** Nodes that are alive now; `createRevision` is the incarnation. */
  readonly lives: ReadonlyMap<string, Kept<Live> & { readonly createRevision: bigint }>;
  /** Revision at which each node's keeper last made its live key. */
  readonly seen: ReadonlyMap<string, bigint>;
  readonly fenced: ReadonlyMap<string, Kept<Fenced>>;
  /** Nodes that can be powered off from outside, by a BMC that is not another machine's. How is not kept: secrets. */
  readonly bmcs: ReadonlySet<string>;
  readonly bmcTests: ReadonlyMap<string, Kept<BmcTest>>;
  /** Null: nothing was planned yet. */
  readonly balance: Kept<BalanceRecord> | null;
  /** Null: nothing was looked for yet. */
  readonly power: Kept<PowerRecord> | null;
  /** The default where nobody set one; unreadable: failovers are held, since nothing may be done on a guess. */
  readonly policy: Policy;
  /** Why nothing is done about any VM, in words: the ledger is being recovered. Null: it is not. */
  readonly recovering: string | null;
  /** Keys whose record cannot be read: counted and shown, and nothing is done with their object. */
  readonly unreadable: readonly string[];
}

interface Parsed {
  readonly modRevision: bigint;
  readonly value: unknown;
  readonly ok: boolean;
}

/**
 * Reads the whole ledger in one linearizable read, and parses only what changed since the last time. Where nothing
 * changed at all, which a small read tells, it is the snapshot of before: an idle cluster costs hardly anything.
 */
export class Snapshots {
  private parsed = new Map<string, Parsed>();
  private last: { snapshot: Snapshot; mark: string } | null = null;
  private rang = false;
  private readonly ledger: Pick<Ledger, 'list'>;

  constructor(ledger: Pick<Ledger, 'list'>) {
    this.ledger = ledger;
  }

  /** Something was written: the next read need not ask whether. Nothing is lost when it is not said. */
  changed(): void {
    this.rang = true;
  }

  /**
   * @returns the same object as before when nothing was written since
   * @throws FlotillaError `ledger-unavailable`
   */
  async read(): Promise<Snapshot> {
    const { rang, last: before } = this;
    this.rang = false;
    if (before !== null && !rang && mark(await this.ledger.list(metaKey)) === before.mark)
      return before.snapshot;
    const listing = await this.ledger.list(ledgerRoot);
    const { entries, revision } = listing;
    const next = new Map<string, Parsed>();
    const unreadable: string[] = [];
    const take = <S extends z.ZodType>(k: { schema: S }, e: LedgerEntry): Kept<z.output<S>> | null => {
      let p = this.parsed.get(e.key);
      if (p?.modRevision !== e.modRevision) {
        try {
          p = { modRevision: e.modRevision, value: readRecord(k, e.key, e.value), ok: true };
        } catch {
          p = { modRevision: e.modRevision, value: null, ok: false };
        }
      }
      next.set(e.key, p);
      if (!p.ok) {
        unreadable.push(e.key);
        return null;
      }
      return { value: p.value as z.output<S>, modRevision: e.modRevision };
    };
    let meta: Kept<ClusterMeta> | null = null;
    const maps = {
      node: new Map<string, Kept<NodeRecord>>(),
      vmSpec: new Map<string, Kept<VmSpec>>(),
      vmOwn: new Map<string, Kept<VmOwn>>(),
      disk: new Map<string, Kept<Disk>>(),
      vmSnapshot: new Map<string, Kept<VmSnapshot>>(),
      replica: new Map<string, Kept<Replica>>(),
      pool: new Map<string, Kept<Pool>>(),
      image: new Map<string, Kept<Image>>(),
      network: new Map<string, Kept<Network>>(),
      op: new Map<string, Kept<Op>>(),
      vapp: new Map<string, Kept<Vapp>>(),
      rule: new Map<string, Kept<Rule>>(),
      class: new Map<string, Kept<ServiceClass>>(),
      template: new Map<string, Kept<Template>>(),
      token: new Map<string, Kept<TokenRecord>>(),
      fenced: new Map<string, Kept<Fenced>>(),
      bmcTest: new Map<string, Kept<BmcTest>>(),
      balance: new Map<string, Kept<BalanceRecord>>(),
      power: new Map<string, Kept<PowerRecord>>(),
      cert: new Map<string, Kept<CertificateRecord>>(),
      trust: new Map<string, Kept<TrustRecord>>(),
    };
    const lives = new Map<string, Kept<Live> & { createRevision: bigint }>();
    const seen = new Map<string, bigint>();
    const bmcs = new Set<string>();
    let policy: Policy = policyDefault;
    let recovering: string | null = null;
    let crl: Kept<CrlRecord> | null = null;
    for (const e of entries) {
      if (e.key === metaKey) {
        meta = take({ schema: metaSchema }, e);
        continue;
      }
      if (e.key === policyKey) {
        const kept = take({ schema: policySchema }, e);
        policy = kept?.value ?? { ...policyDefault, ha: { ...policyDefault.ha, hold: true } };
        continue;
      }
      if (e.key === crlKey) {
        crl = take({ schema: crlRecordSchema }, e);
        continue;
      }
      if (e.key === recoveryKey) {
        take({ schema: recoverySchema }, e);
        recovering = recoveryText;
        continue;
      }
      const alive = kinds.live.idOf(e.key);
      if (alive !== null) {
        const kept = take(kinds.live, e);
        // Alive is alive, also where what it says cannot be read.
        const value = kept?.value ?? { node: alive, boot: '', version: '' };
        lives.set(alive, { value, modRevision: e.modRevision, createRevision: e.createRevision });
        continue;
      }
      const last = kinds.seen.idOf(e.key);
      if (last !== null) {
        seen.set(last, e.modRevision);
        continue;
      }
      const powered = kinds.bmc.idOf(e.key);
      if (powered !== null) {
        bmcs.add(powered);
        continue;
      }
      for (const name of Object.keys(maps) as (keyof typeof maps)[]) {
        const id = kinds[name].idOf(e.key);
        if (id === null) continue;
        const kept = take(kinds[name] as { schema: z.ZodType }, e);
        if (kept !== null) (maps[name] as Map<string, Kept<unknown>>).set(id, kept);
        break;
      }
    }
    this.parsed = next;
    for (const [node, test] of maps.bmcTest) if (isOthers(test.value)) bmcs.delete(node);
    const snapshot: Snapshot = {
      revision,
      meta,
      nodes: maps.node,
      specs: maps.vmSpec,
      owns: maps.vmOwn,
      disks: maps.disk,
      vmSnapshots: maps.vmSnapshot,
      replicas: maps.replica,
      pools: maps.pool,
      images: maps.image,
      networks: maps.network,
      ops: maps.op,
      vapps: maps.vapp,
      rules: maps.rule,
      classes: maps.class,
      templates: maps.template,
      tokens: maps.token,
      certs: maps.cert,
      trusts: maps.trust,
      crl,
      lives,
      seen,
      fenced: maps.fenced,
      bmcs,
      bmcTests: maps.bmcTest,
      balance: maps.balance.get(balanceId) ?? null,
      power: maps.power.get(powerId) ?? null,
      policy,
      recovering,
      unreadable,
    };
    this.last = { snapshot, mark: mark(listing) };
    return snapshot;
  }
}

/** Every write anywhere raises the revision; a restored ledger may come to the same one again, but has a new epoch. */
function mark({ entries, revision }: Listing): string {
  const meta = entries.filter((e) => e.key.startsWith(metaKey)).map((e) => `${e.key} ${e.value}`);
  return [revision, ...meta].join('\n');
}
