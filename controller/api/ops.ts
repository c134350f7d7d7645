import { FlotillaError } from '../../core/domain/error.js';
import { opFinished, queuedOp, type Op, type OpKind } from '../../core/domain/op.js';
import { begunFor, opParts, type OpPart } from '../../core/domain/op-parts.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import type { OpPartView, OpView } from '../../core/wire/rest.js';
import type { View } from '../view.js';
import { Change, commit, fresh } from './commit.js';
import type { ApiDeps, Some } from './context.js';
import { newestKeyOf, page } from './page.js';

/** Unfinished operations in the cluster, at most: the ledger is not a queue. */
const opsOpenMax = 2_000;

/** A new operation, queued. @throws FlotillaError `ledger-full` */
export function newOp(
  deps: Pick<ApiDeps, 'clock' | 'view'>,
  o: {
    id: string;
    kind: OpKind;
    subject: Op['subject'];
    node: string | null;
    who: string;
    args?: Record<string, unknown>;
  },
): Op {
  let open = 0;
  for (const { value } of deps.view.ledger.tables.op.values()) if (!opFinished(value)) open += 1;
  if (open >= opsOpenMax) {
    throw new FlotillaError('ledger-full', `${open} operations are not finished; no more are taken`, {
      hint: 'Wait until some are done, or cancel some: flotilla op list.',
    });
  }
  const { who, args = {}, ...rest } = o;
  return queuedOp({ ...rest, askedBy: who, args }, deps.clock.wallMs());
}

/**
 * The operation that an earlier sending of the same request made; null: this is the first.
 *
 * @throws FlotillaError `bad-input`: the key belongs to another request
 */
export async function repeated(
  deps: Pick<ApiDeps, 'ledger'>,
  opId: string,
  mark: string,
): Promise<Op | null> {
  const op = await fresh(deps, kinds.op, opId);
  if (op === null) return null;
  if (op.value.args['request'] === mark) return op.value;
  throw new FlotillaError('bad-input', 'This Idempotency-Key was used for another request', {
    hint: 'Take a new random key for each new request.',
  });
}

export function opView(view: View, op: Op): OpView {
  return view.cell('op', op.id)?.view ?? op;
}

export function opHandlers(deps: ApiDeps): Some<'opList' | 'opGet' | 'opParts' | 'opCancel'> {
  const { view } = deps;
  const get = async (id: string): Promise<OpView> => {
    view.freshness();
    if (view.cell('op', id) === undefined) await view.ledger.refresh('op');
    const cell = view.cell('op', id);
    if (cell !== undefined) return cell.view;
    throw new FlotillaError('not-found', `There is no operation ${id}`, {
      hint: 'Old finished ones are only in the journals of the nodes. See: flotilla op list.',
    });
  };
  return {
    async opList({ query: q }) {
      const inState = (o: OpView): boolean =>
        q.state === undefined || (q.state === 'open' ? !opFinished(o) : o.state === q.state);
      return page(view, view.list('op'), q, {
        keyOf: newestKeyOf,
        wanted: (o) =>
          inState(o) && (q.kind ?? o.kind) === o.kind && (q.subject ?? o.subject.id) === o.subject.id,
      });
    },
    async opGet({ params, query, signal }) {
      const first = await get(params.op);
      if (query.waitS === 0 || opFinished(first)) return { body: first };
      const before = JSON.stringify(first);
      await until(view, query.waitS * 1000, signal, () => view.cell('op', params.op)?.json !== before);
      return { body: await get(params.op) };
    },
    async opParts({ params }) {
      return { body: { items: linesOf(partsOf(view, await get(params.op)), 0) } };
    },
    async opCancel({ params }) {
      await get(params.op);
      return commit(deps, `Operation ${params.op}`, async () => {
        const op = await fresh(deps, kinds.op, params.op);
        if (op === null)
          throw new FlotillaError('not-found', `There is no operation ${params.op}`, { hint: 'It is over.' });
        if (opFinished(op.value)) {
          throw new FlotillaError('wrong-state', `Operation ${op.value.kind} is ${op.value.state} already`, {
            hint: 'What is finished cannot be cancelled.',
          });
        }
        const next: Op = { ...op.value, cancelAsked: true };
        const change = op.value.cancelAsked
          ? null
          : new Change().at(kinds.op.key(next.id), op).put(kinds.op, next.id, next);
        return { change, answer: () => ({ body: opView(view, next) }) };
      });
    },
  };
}

/** What an operation consists of, by what the view knows now. */
function partsOf(view: View, op: Op): OpPart[] {
  const { op: ops, vmSpec } = view.ledger.tables;
  const begun = new Map<string, Op[]>();
  for (const { value: o } of ops.values()) {
    const by = begunFor(o);
    if (by !== null) begun.set(by, [...(begun.get(by) ?? []), o]);
  }
  return opParts(op, {
    op: (id) => view.cell('op', id)?.view,
    begunBy: (id) => (begun.get(id) ?? []).sort((a, b) => a.createdMs - b.createdMs),
    vmName: (id) => vmSpec.get(id)?.value.name ?? id,
  });
}

const linesOf = (parts: readonly OpPart[], depth: number): OpPartView[] =>
  parts.flatMap(({ parts: below, ...part }) => [{ depth, ...part }, ...linesOf(below, depth + 1)]);

/** Waits until something holds, looking after each fold of the view. @returns whether it came to hold */
export async function until(
  view: View,
  limitMs: number,
  signal: AbortSignal | null,
  holds: () => boolean,
): Promise<boolean> {
  if (holds()) return true;
  return new Promise<boolean>((resolve) => {
    const end = (held: boolean): void => {
      off();
      clearTimeout(timer);
      signal?.removeEventListener('abort', aborted);
      resolve(held);
    };
    const off = view.onFold(() => {
      if (holds()) end(true);
    });
    const timer = setTimeout(() => end(holds()), limitMs);
    const aborted = (): void => end(false);
    signal?.addEventListener('abort', aborted);
  });
}
