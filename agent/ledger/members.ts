import { createWriteStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { judged, readAnswer } from './etcd.js';
import { gatewayError, type Gateway } from './gateway.js';

/** Membership changes wait for a majority's disks, ms. */
const memberDeadlineMs = 5_000;
/** Defragmenting copies the whole database: up to 2 GiB. The member answers nothing meanwhile. */
const defragDeadlineMs = 120_000;
/** A snapshot that sends nothing for this long is given up, ms. */
const snapshotSilenceMs = 10_000;

const id = z.string().regex(/^\d{1,20}$/);
const memberSchema = z.object({
  ID: id,
  name: z.string().default(''),
  peerURLs: z.array(z.string()).default([]),
  clientURLs: z.array(z.string()).default([]),
  isLearner: z.boolean().default(false),
});
const membersSchema = z.object({ members: z.array(memberSchema).default([]) });
const addedSchema = z.object({ member: memberSchema });
const statusSchema = z.object({
  header: z.object({ member_id: id, revision: id.default('0') }),
  version: z.string(),
  dbSize: id.default('0'),
  dbSizeInUse: id.default('0'),
  leader: id.default('0'),
  raftIndex: id.default('0'),
  raftAppliedIndex: id.default('0'),
  raftTerm: id.default('0'),
  isLearner: z.boolean().default(false),
  errors: z.array(z.string()).default([]),
});
const alarmsSchema = z.object({
  alarms: z.array(z.object({ memberID: id, alarm: z.string().default('NONE') })).default([]),
});

/** A member of etcd's cluster. */
export interface Member {
  readonly id: string;
  /** Empty until it has started for the first time. */
  readonly name: string;
  readonly peerUrls: readonly string[];
  readonly clientUrls: readonly string[];
  readonly learner: boolean;
}

export interface MemberStatus {
  readonly id: string;
  readonly version: string;
  readonly leader: string | null;
  readonly learner: boolean;
  readonly revision: bigint;
  readonly raftIndex: bigint;
  readonly dbSizeBytes: number;
  readonly dbUsedBytes: number;
  readonly errors: readonly string[];
}

/** Answers to a membership change that only mean "not now": try again later. */
const notNow = [
  'unhealthy cluster',
  'not have enough started members',
  'can only promote a learner member which is in sync',
  'too many learner members',
  'request timed out',
];

const member = (m: z.output<typeof memberSchema>): Member => ({
  id: m.ID,
  name: m.name,
  peerUrls: m.peerURLs,
  clientUrls: m.clientURLs,
  learner: m.isLearner,
});

/** The voters themselves: who they are, how they are, and their care. */
export class LedgerMembers {
  readonly #gateway: Gateway;

  constructor(gateway: Gateway) {
    this.#gateway = gateway;
  }

  /** By linearizable read, so that no decision rests on an old list. */
  async list(): Promise<readonly Member[]> {
    const r = await this.#ask(
      '/v3/cluster/member/list',
      { linearizable: true },
      membersSchema,
      'the members',
    );
    return r.members.map(member);
  }

  /**
   * Adds a learner: it has no vote until it has caught up and is promoted.
   *
   * @throws FlotillaError `wrong-state`: not now (voters connected for less than 5 s, another learner is there)
   */
  async addLearner(peerUrl: string): Promise<Member> {
    const body = { peerURLs: [peerUrl], isLearner: true };
    const r = await this.#change('/v3/cluster/member/add', body, addedSchema, `adding ${peerUrl}`);
    return member(r.member);
  }

  /** @throws FlotillaError `wrong-state`: not caught up yet */
  async promote(memberId: string): Promise<void> {
    await this.#change('/v3/cluster/member/promote', { ID: memberId }, z.unknown(), `promoting ${memberId}`);
  }

  /** @throws FlotillaError `not-found`, `wrong-state` (the rest would have no majority) */
  async remove(memberId: string): Promise<void> {
    await this.#change('/v3/cluster/member/remove', { ID: memberId }, z.unknown(), `removing ${memberId}`);
  }

  /** Makes another voter the leader, in a few ms. @param endpoint - of the one that leads now: no other can. @throws FlotillaError */
  async handOver(endpoint: string, memberId: string): Promise<void> {
    await this.#change(
      '/v3/maintenance/transfer-leadership',
      { targetID: memberId },
      z.unknown(),
      `making ${memberId} the leader`,
      { endpoint },
    );
  }

  /** How one member is; it answers this without a leader too. */
  async status(endpoint: string): Promise<MemberStatus> {
    const s = await this.#ask('/v3/maintenance/status', {}, statusSchema, `status of ${endpoint}`, {
      endpoint,
    });
    return {
      id: s.header.member_id,
      version: s.version,
      leader: s.leader === '0' ? null : s.leader,
      learner: s.isLearner,
      revision: BigInt(s.header.revision),
      raftIndex: BigInt(s.raftIndex),
      dbSizeBytes: Number(s.dbSize),
      dbUsedBytes: Number(s.dbSizeInUse),
      errors: s.errors,
    };
  }

  /** What is wrong with voters, each asked by itself; a learner is none. @throws FlotillaError `ledger-unavailable` */
  async faults(): Promise<readonly { readonly node: string; readonly text: string }[]> {
    const voters = (await this.list()).filter((m) => !m.learner);
    const looked = await Promise.all(
      voters.map(async (m) => {
        const node = m.name === '' ? m.id : m.name;
        const [endpoint] = m.clientUrls;
        if (endpoint === undefined) return [{ node, text: 'has not started yet' }];
        const is = await this.status(endpoint).catch(() => null);
        if (is === null) return [{ node, text: 'does not answer' }];
        if (is.leader === null) return [{ node, text: 'knows no leader' }];
        return is.errors.length > 0 ? [{ node, text: `says ${is.errors.join(', ').slice(0, 100)}` }] : [];
      }),
    );
    return looked.flat();
  }

  /** Alarms such as `NOSPACE` and `CORRUPT`, by member. */
  async alarms(): Promise<readonly { member: string; alarm: string }[]> {
    const r = await this.#ask('/v3/maintenance/alarm', { action: 'GET' }, alarmsSchema, 'the alarms');
    return r.alarms.map((a) => ({ member: a.memberID, alarm: a.alarm }));
  }

  /** Takes an alarm back, after its cause is gone. */
  async disarm(memberId: string, alarm: string): Promise<void> {
    const body = { action: 'DEACTIVATE', memberID: memberId, alarm };
    await this.#change('/v3/maintenance/alarm', body, z.unknown(), 'disarming an alarm');
  }

  /** Forgets the history before a revision. */
  async compact(revision: bigint): Promise<void> {
    const body = { revision: String(revision) };
    await this.#change('/v3/kv/compaction', body, z.unknown(), 'compacting');
  }

  /** Gives freed space of one member back; it answers nothing meanwhile, so one member after the other. */
  async defragment(endpoint: string): Promise<void> {
    const o = { endpoint, deadlineMs: defragDeadlineMs };
    await this.#ask('/v3/maintenance/defragment', {}, z.unknown(), `defragmenting ${endpoint}`, o);
  }

  /**
   * Writes a snapshot of the ledger to a file, whole or not at all.
   *
   * @returns its bytes
   */
  async snapshot(file: string): Promise<number> {
    const stream = await this.#gateway.stream('/v3/maintenance/snapshot', {});
    const temporary = `${file}.part`;
    const out = createWriteStream(temporary, { mode: 0o600 });
    const silence = setTimeout(() => stream.close(), snapshotSilenceMs);
    let bytes = 0;
    let left: bigint | null = null;
    try {
      // Each line holds one block of 32 kB in base64.
      for await (const line of createInterface({ input: stream.body, crlfDelay: Infinity })) {
        silence.refresh();
        const block = snapshotBlock(line);
        left = block.left;
        bytes += block.data.length;
        if (!out.write(block.data)) await new Promise<void>((resolve) => out.once('drain', () => resolve()));
      }
      await new Promise<void>((resolve, reject) => {
        out.on('error', reject);
        out.end(() => resolve());
      });
      if (left !== 0n) throw new Error(`the stream ended with ${left ?? 'all'} bytes missing`);
      const handle = await open(temporary, 'r+');
      await handle.sync().finally(() => handle.close());
      await rename(temporary, file);
      return bytes;
    } catch (cause) {
      out.destroy();
      await rm(temporary, { force: true });
      throw new FlotillaError('ledger-unavailable', `The snapshot of the ledger to ${file} failed`, {
        hint: 'The former snapshot is untouched; it is tried again.',
        cause,
      });
    } finally {
      clearTimeout(silence);
      stream.close();
    }
  }

  async #ask<S extends z.ZodType>(
    path: string,
    body: unknown,
    schema: S,
    what: string,
    o: { endpoint?: string; deadlineMs?: number } = {},
  ): Promise<z.output<S>> {
    try {
      return readAnswer(schema, await this.#gateway.call(path, body, { kind: 'read', ...o }), what);
    } catch (error) {
      throw judged(error, what);
    }
  }

  async #change<S extends z.ZodType>(
    path: string,
    body: unknown,
    schema: S,
    what: string,
    o: { endpoint?: string } = {},
  ): Promise<z.output<S>> {
    try {
      const answer = await this.#gateway.call(path, body, {
        kind: 'write',
        deadlineMs: memberDeadlineMs,
        ...o,
      });
      return readAnswer(schema, answer, what);
    } catch (error) {
      const text =
        error instanceof Error ? `${error.message} ${(error.cause as Error | undefined)?.message}` : '';
      if (!notNow.some((s) => text.includes(s))) throw judged(error, what);
      throw new FlotillaError('wrong-state', `The ledger says "not now" to ${what}`, {
        hint: 'It is tried again; all voters must have been connected for 5 s, and learners caught up.',
        details: { outcome: 'refused' },
        cause: error,
      });
    }
  }
}

function snapshotBlock(line: string): { data: Buffer; left: bigint } {
  const body: unknown = JSON.parse(line);
  const problem = gatewayError(body);
  if (problem !== null) throw new Error(problem.message);
  const { result } = z
    .object({ result: z.object({ remaining_bytes: id.default('0'), blob: z.string().default('') }) })
    .parse(body);
  return { data: Buffer.from(result.blob, 'base64'), left: BigInt(result.remaining_bytes) };
}
