import { bulkArgs } from './bulk.js';
import { drainArgs, type DrainState } from './drain.js';
import { failoverSteps } from './failover-words.js';
import { failoverTimelineSchema } from './ha.js';
import { opFinished, type Op, type OpKind } from './op.js';
import { rollingArgs, type RollingState } from './rolling.js';

export type OpPartState = 'waiting' | 'running' | 'done' | 'failed' | 'cancelled';

/** Something that an operation consists of: a VM that it moves, a node that it restarts, an operation that it began. */
export interface OpPart {
  /** A VM, a node, a step, an operation: in words. */
  readonly name: string;
  readonly state: OpPartState;
  /** What is being done, waited for, or went wrong; may be empty. */
  readonly text: string;
  /** 0 to 1; null: it cannot be known. */
  readonly progress: number | null;
  /** The operation that does it; null: there is none, or it is remembered no more. */
  readonly op: string | null;
  readonly parts: readonly OpPart[];
}

/** What is known beside the operation itself. */
export interface OpsKnown {
  op(id: string): Op | undefined;
  /** Those that it began, oldest first. */
  begunBy(id: string): readonly Op[];
  vmName(id: string): string;
}

/** An operation that one began which another one began, and so on, at most. */
const depthMax = 5;

/** The operation that began this one; null: somebody asked for it. */
export const begunFor = (op: Pick<Op, 'args'>): string | null => {
  const id = op.args['for'];
  return typeof id === 'string' ? id : null;
};

/** `vm.create` and the subject's name, in words. */
export const opWords = (o: Pick<Op, 'kind' | 'subject'>): string =>
  `${o.kind.replace('.', ' ')} "${o.subject.name}"`;

/** What there is of an operation, as a tree: all that is to be done for it, and what is under way of that. */
export function opParts(op: Op, known: OpsKnown, depth = 0): OpPart[] {
  const listed = linesOf(op, known);
  const named = new Set(listed.map((l) => l.op));
  const more = known.begunBy(op.id).filter((o) => !named.has(o.id));
  return [
    ...listed.map((l): OpPart => {
      const own = l.op === null ? undefined : known.op(l.op);
      if (own === undefined) return { ...l, progress: null, parts: [] };
      return {
        ...l,
        text: l.text === '' ? wordsOf(own) : l.text,
        progress: opFinished(own) ? null : own.progress,
        parts: depth + 1 < depthMax ? opParts(own, known, depth + 1) : [],
      };
    }),
    ...more.map((o): OpPart => ({
      name: opWords(o),
      state: o.state === 'queued' ? 'waiting' : o.state,
      text: wordsOf(o),
      progress: opFinished(o) ? null : o.progress,
      op: o.id,
      parts: depth + 1 < depthMax ? opParts(o, known, depth + 1) : [],
    })),
  ];
}

const wordsOf = (o: Op): string => o.error?.message ?? (o.state === 'done' ? '' : o.step);

type Line = Pick<OpPart, 'name' | 'state' | 'text' | 'op'>;

/** What an operation has noted that it consists of. */
function linesOf(op: Op, known: OpsKnown): Line[] {
  const of = noted[op.kind];
  return of === undefined ? [] : of(op, known);
}

const drainStates: Readonly<Record<DrainState, OpPartState>> = {
  waiting: 'waiting',
  stopping: 'running',
  moving: 'running',
  moved: 'done',
  stays: 'failed',
};

const whereAndWhy = (v: { readonly to?: string | null | undefined; readonly text: string }): string =>
  [typeof v.to === 'string' ? `to ${v.to}` : '', v.text].filter((t) => t !== '').join(': ');

function drained(op: Op, known: OpsKnown): Line[] {
  return (drainArgs(op)?.vms ?? []).map((v) => ({
    name: known.vmName(v.vm),
    state: drainStates[v.state],
    text: [v.to === null || v.to === undefined ? '' : `to ${v.to}`, v.text]
      .filter((t) => t !== '')
      .join(': '),
    op: v.op ?? null,
  }));
}

const rollingStates: Readonly<Record<RollingState, OpPartState>> = {
  waiting: 'waiting',
  emptying: 'running',
  working: 'running',
  settling: 'running',
  returning: 'running',
  done: 'done',
};

const noted: Partial<Readonly<Record<OpKind, (op: Op, known: OpsKnown) => Line[]>>> = {
  'vm.bulk': (op, known) =>
    (bulkArgs(op)?.vms ?? []).map((v) => ({
      name: known.vmName(v.vm),
      state: v.state,
      text: whereAndWhy(v),
      op: v.op ?? null,
    })),
  'node.drain': drained,
  'node.return': drained,
  'cluster.rolling': (op) =>
    (rollingArgs(op)?.nodes ?? []).map((n) => ({
      name: n.node,
      state: rollingStates[n.state],
      text: n.text,
      op: n.op ?? null,
    })),
  'vm.failover': (op) => {
    const t = failoverTimelineSchema.safeParse(op.args).data;
    if (t === undefined) return [];
    return failoverSteps(t).map((s) => ({
      name: s.text,
      state: 'done',
      text: `+${s.tookS.toFixed(1)} s`,
      op: null,
    }));
  },
};
