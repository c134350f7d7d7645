import { Alert, Badge, Button, Group, Popover, Progress, Stack, Text, Title } from '@mantine/core';
import { useMemo, useState, type ReactNode } from 'react';
import { Link } from 'wouter';
import { opFinished, opLeftMs } from '../../../core/domain/op';
import { begunFor, opParts, opWords, type OpPart, type OpPartState } from '../../../core/domain/op-parts';
import { formatSpan } from '../../../core/domain/units';
import type { OpView } from '../../../core/wire/rest';
import { call, useDo } from './api';
import { ClusterPage } from './cluster';
import { fieldFits, FilterBar, textFits, useFilter } from './filter';
import { useAll, useOne } from './live';
import { May } from './may';
import { Age, Facts, Page, Refusal, Rows, State, To } from './parts';

/** All operations that the cluster remembers, newest first. */
export const useOps = (): readonly OpView[] => [...useAll('op')].sort((a, b) => b.createdMs - a.createdMs);

/** A failure stays in the strip so long, ms: it should not be missed by looking away. */
const failedShownMs = 10 * 60_000;

const subjectUrl = (o: OpView): string | null =>
  o.subject.kind === 'vm'
    ? `/vms/${o.subject.id}`
    : o.subject.kind === 'image'
      ? '/images'
      : o.subject.kind === 'node'
        ? `/nodes/${o.subject.id}`
        : o.subject.kind === 'cluster'
          ? '/balance'
          : o.subject.kind === 'vapp'
            ? `/vapps/${o.subject.id}`
            : o.subject.kind === 'class'
              ? '/classes'
              : null;

/** Always there: what runs, how far it is, and what failed of late. */
export function TaskStrip(): ReactNode {
  const ops = useOps();
  const running = ops.filter((o) => !opFinished(o));
  // What another one began stands below that one.
  const ids = new Set(running.map((o) => o.id));
  const open = running.filter((o) => !ids.has(begunFor(o) ?? ''));
  const failed = ops.filter((o) => o.state === 'failed' && Date.now() - o.updatedMs < failedShownMs);
  const [first] = open;
  return (
    <div className="strip" role="region" aria-label="Operations">
      <Popover position="top-start" withArrow shadow="md" width="min(36rem, 94vw)" trapFocus returnFocus>
        <Popover.Target>
          <Button
            size="compact-sm"
            variant="transparent"
            flex="none"
            c="var(--mantine-color-anchor)"
            aria-haspopup="dialog"
          >
            {open.length === 0 ? 'Nothing runs' : `${open.length} running`}
          </Button>
        </Popover.Target>
        <Popover.Dropdown className="running">
          <Stack gap="sm">
            {open.slice(0, openShown).map((o) => (
              <Running key={o.id} op={o} />
            ))}
            {open.length === 0 && <Text size="sm">Nothing is being done.</Text>}
            {open.length > openShown && <Text size="sm">and {open.length - openShown} more</Text>}
            <To to="/ops">All operations</To>
          </Stack>
        </Popover.Dropdown>
      </Popover>
      {first !== undefined && (
        <span>
          <Text size="sm" span>
            {opWords(first)}: {first.step === '' ? first.state : first.step}
            {leftWords(first)}
          </Text>
        </span>
      )}
      {first !== undefined && first.progress !== null && (
        <Progress
          w={120}
          value={first.progress * 100}
          aria-label={`${opWords(first)}: ${Math.round(first.progress * 100)} %`}
        />
      )}
      {failed.length > 0 && (
        <Badge
          color="red"
          variant="light"
          tt="none"
          component={Link}
          href="/ops?show=failed"
          className="state"
        >
          {failed.length} failed
        </Badge>
      )}
    </div>
  );
}

/** So many are listed in the strip's window; the rest is on a page of its own. */
const openShown = 12;

/** One that goes on: what it does now, how far it is, how long still; and a way to end it. */
function Running({ op }: { readonly op: OpView }): ReactNode {
  return (
    <Stack gap={2}>
      <Group justify="space-between" wrap="nowrap" align="flex-start">
        <Text size="sm" fw={600}>
          <To to={`/ops/${op.id}`}>{opWords(op)}</To>
        </Text>
        <MayCancel op={op} />
      </Group>
      <Text size="sm">
        {op.step === '' ? op.state : op.step}
        {leftWords(op)}
      </Text>
      {op.progress !== null && (
        <Progress
          value={op.progress * 100}
          aria-label={`${opWords(op)}: ${Math.round(op.progress * 100)} %`}
        />
      )}
      <Text size="xs" c="dimmed">
        asked by {op.askedBy}, <Age ms={op.createdMs} />
      </Text>
      <FoldedParts op={op} />
    </Stack>
  );
}

function useParts(op: OpView): readonly OpPart[] {
  const ops = useAll('op');
  const vms = useAll('vm');
  return useMemo(() => {
    const names = new Map(vms.map((v) => [v.id, v.name]));
    return opParts(op, {
      op: (id) => ops.find((o) => o.id === id),
      begunBy: (id) => ops.filter((o) => begunFor(o) === id).sort((a, b) => a.createdMs - b.createdMs),
      vmName: (id) => names.get(id) ?? id,
    });
  }, [op, ops, vms]);
}

const partOrder: readonly OpPartState[] = ['running', 'failed', 'waiting', 'cancelled', 'done'];
/** More are counted: nobody reads them. */
const partsShown = 40;

/** What it consists of, by a click. */
function FoldedParts({ op }: { readonly op: OpView }): ReactNode {
  const parts = useParts(op);
  const [open, setOpen] = useState(false);
  if (parts.length === 0) return null;
  const done = parts.filter((p) => p.state === 'done').length;
  return (
    <>
      <Button
        size="compact-xs"
        variant="transparent"
        c="var(--mantine-color-anchor)"
        w="fit-content"
        aria-expanded={open}
        onClick={() => setOpen(!open)}
      >
        {open ? 'Hide parts' : 'Parts'}: {done} of {parts.length} done
      </Button>
      {open && <Parts of={parts} />}
    </>
  );
}

/** A tree: what is under way first, and what is below that. */
function Parts({ of }: { readonly of: readonly OpPart[] }): ReactNode {
  const rank = (p: OpPart): number => partOrder.indexOf(p.state);
  const order = [...of].sort((a, b) => rank(a) - rank(b));
  return (
    <ul className="parts">
      {order.slice(0, partsShown).map((p, i) => (
        <li key={p.op ?? `${p.name} ${i}`}>
          <Group gap={6} wrap="nowrap" align="flex-start">
            <State of={p.state} />
            <Text size="sm">
              {p.op === null ? p.name : <To to={`/ops/${p.op}`}>{p.name}</To>}
              {p.text === '' ? '' : `: ${p.text}`}
            </Text>
          </Group>
          {p.progress !== null && (
            <Progress
              maw="16rem"
              value={p.progress * 100}
              aria-label={`${p.name}: ${Math.round(p.progress * 100)} %`}
            />
          )}
          {p.parts.length > 0 && p.state !== 'done' && <Parts of={p.parts} />}
        </li>
      ))}
      {of.length > partsShown && <li>and {of.length - partsShown} more</li>}
    </ul>
  );
}

/** One operation: what was asked, how far it is, all that it consists of, what came of it. */
export function OpPage({ id }: { readonly id: string }): ReactNode {
  const op = useOne('op', id);
  if (op === undefined)
    return (
      <Alert color="yellow" title="There is no such operation">
        Old ones that have ended are in the journals of the nodes. <To to="/ops">To the operations</To>
      </Alert>
    );
  return <OneOp op={op} />;
}

function OneOp({ op }: { readonly op: OpView }): ReactNode {
  const parts = useParts(op);
  const by = begunFor(op);
  const began = useOne('op', by ?? '');
  const to = subjectUrl(op);
  return (
    <Page
      kind="Operation"
      name={opWords(op)}
      state={<State of={op.state} />}
      actions={!opFinished(op) && <MayCancel op={op} />}
      note={
        op.error !== null && (
          <Alert color="red" variant="light" title={op.error.message}>
            {op.error.causes.map((c) => (
              <Text size="sm" key={c}>
                {c}
              </Text>
            ))}
            <Text size="sm">{op.error.hint}</Text>
            <Text size="xs">Code: {op.error.code}</Text>
          </Alert>
        )
      }
    >
      {!opFinished(op) && op.progress !== null && (
        <Progress value={op.progress * 100} aria-label={`${Math.round(op.progress * 100)} %`} />
      )}
      <Facts
        of={[
          ['Now', `${op.step === '' ? op.state : op.step}${leftWords(op)}`],
          ['Of', to === null ? op.subject.name : <To to={to}>{op.subject.name}</To>],
          ['Asked by', op.askedBy],
          ['Asked', new Date(op.createdMs).toLocaleString()],
          ['Last word', <Age ms={op.updatedMs} />],
          op.node !== null && ['Done by', <To to={`/nodes/${op.node}`}>{op.node}</To>],
          by !== null && [
            'Part of',
            began === undefined ? 'one that has ended' : <To to={`/ops/${by}`}>{opWords(began)}</To>,
          ],
        ]}
      />
      {parts.length > 0 && (
        <Stack gap={4}>
          <Title order={2} size="h5">
            What it consists of
          </Title>
          <Parts of={parts} />
        </Stack>
      )}
    </Page>
  );
}

function MayCancel({ op }: { readonly op: OpView }): ReactNode {
  const { kind, id } = op.subject;
  return (
    <May role="operator" {...(kind === 'vm' ? { vm: id } : kind === 'vapp' ? { vapp: id } : {})}>
      <Cancel op={op} />
    </May>
  );
}

function leftWords(op: OpView): string {
  const leftMs = opLeftMs(op);
  return leftMs === null ? '' : `, about ${formatSpan(leftMs)} left`;
}

const shows = [
  { value: 'open', label: 'running' },
  { value: 'failed', label: 'failed' },
  { value: 'done', label: 'done' },
  { value: 'cancelled', label: 'cancelled' },
];

export function OpsPage(): ReactNode {
  const filter = useFilter('/ops');
  const { q } = filter;
  const all = useOps();
  const show = q.get('show');
  const ops = all.filter(
    (o) =>
      (show === null || (show === 'open' ? !opFinished(o) : o.state === show)) &&
      fieldFits(q, 'kind', o.kind) &&
      textFits(q, opWords(o), o.askedBy, o.step, o.error?.message),
  );
  return (
    <ClusterPage tab="ops">
      <FilterBar
        filter={filter}
        text="Of what, by whom, or its words"
        fields={[
          { name: 'show', label: 'State', options: shows },
          { name: 'kind', label: 'Kind', options: [...new Set(all.map((o) => o.kind))].sort() },
        ]}
      />
      <OpRows ops={ops} />
    </ClusterPage>
  );
}

export function OpRows({ ops }: { readonly ops: readonly OpView[] }): ReactNode {
  return (
    <Rows
      label="Operations"
      head={['Operation', 'State', 'Now', 'By', 'Asked', '']}
      none="None."
      rows={ops.map((o) => ({
        key: o.id,
        cells: [
          <To to={`/ops/${o.id}`}>{opWords(o)}</To>,
          <State of={o.state} />,
          <OpNow op={o} />,
          o.askedBy,
          <Age ms={o.createdMs} />,
          !opFinished(o) && <MayCancel op={o} />,
        ],
      }))}
    />
  );
}

function OpNow({ op }: { readonly op: OpView }): ReactNode {
  if (op.error !== null)
    return (
      <Stack gap={2}>
        <Text size="sm">{op.error.message}</Text>
        <Text size="xs" c="dimmed">
          {op.error.hint}
        </Text>
      </Stack>
    );
  return (
    <Group gap="xs">
      <Text size="sm">
        {op.step}
        {leftWords(op)}
      </Text>
      {!opFinished(op) && op.progress !== null && (
        <Progress w={80} value={op.progress * 100} aria-label={`${Math.round(op.progress * 100)} %`} />
      )}
    </Group>
  );
}

function Cancel({ op }: { readonly op: OpView }): ReactNode {
  const { busy, refused, run } = useDo();
  return (
    <>
      <Button
        size="compact-xs"
        variant="default"
        loading={busy}
        disabled={op.cancelAsked}
        onClick={() => void run(() => call('opCancel', { params: { op: op.id } }))}
      >
        {op.cancelAsked ? 'Cancelling' : 'Cancel'}
      </Button>
      <Refusal of={refused} />
    </>
  );
}
