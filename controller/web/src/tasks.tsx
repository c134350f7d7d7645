import { Badge, Button, Group, Popover, Progress, SegmentedControl, Stack, Text } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { Link } from 'wouter';
import { opFinished, opLeftMs } from '../../../core/domain/op';
import { formatSpan } from '../../../core/domain/units';
import type { OpView } from '../../../core/wire/rest';
import { call, useDo } from './api';
import { useAll } from './live';
import { Age, Page, Refusal, Rows, State, To } from './parts';

/** All operations that the cluster remembers, newest first. */
export const useOps = (): readonly OpView[] => [...useAll('op')].sort((a, b) => b.createdMs - a.createdMs);

/** A failure stays in the strip so long, ms: it should not be missed by looking away. */
const failedShownMs = 10 * 60_000;

export const opWords = (o: OpView): string => `${o.kind.replace('.', ' ')} "${o.subject.name}"`;
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
  const open = ops.filter((o) => !opFinished(o));
  const failed = ops.filter((o) => o.state === 'failed' && Date.now() - o.updatedMs < failedShownMs);
  // What it consists of goes on meanwhile; its own step says how far that is.
  const first = open.find((o) => o.kind === 'cluster.rolling') ?? open[0];
  return (
    <div className="strip" role="region" aria-label="Operations">
      <Popover position="top-start" withArrow shadow="md" width="min(36rem, 94vw)" trapFocus returnFocus>
        <Popover.Target>
          <Button
            size="compact-sm"
            variant="transparent"
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
  const to = subjectUrl(op);
  return (
    <Stack gap={2}>
      <Group justify="space-between" wrap="nowrap" align="flex-start">
        <Text size="sm" fw={600}>
          {to === null ? opWords(op) : <To to={to}>{opWords(op)}</To>}
        </Text>
        <Cancel op={op} />
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
    </Stack>
  );
}

function leftWords(op: OpView): string {
  const leftMs = opLeftMs(op);
  return leftMs === null ? '' : `, about ${formatSpan(leftMs)} left`;
}

export function OpsPage(): ReactNode {
  const [show, setShow] = useState(new URLSearchParams(location.search).get('show') ?? 'all');
  const ops = useOps().filter(
    (o) => show === 'all' || (show === 'open' ? !opFinished(o) : o.state === 'failed'),
  );
  return (
    <Page kind="What was asked, and how far it is" name="Operations">
      <SegmentedControl
        value={show}
        onChange={setShow}
        aria-label="Which operations"
        data={[
          { value: 'all', label: 'All' },
          { value: 'open', label: 'Running' },
          { value: 'failed', label: 'Failed' },
        ]}
        w="fit-content"
      />
      <OpRows ops={ops} />
    </Page>
  );
}

export function OpRows({ ops }: { readonly ops: readonly OpView[] }): ReactNode {
  return (
    <Rows
      label="Operations"
      head={['Operation', 'State', 'Now', 'By', 'Asked', '']}
      none="None."
      rows={ops.map((o) => {
        const to = subjectUrl(o);
        return {
          key: o.id,
          cells: [
            to === null ? opWords(o) : <To to={to}>{opWords(o)}</To>,
            <State of={o.state} />,
            <OpNow op={o} />,
            o.askedBy,
            <Age ms={o.createdMs} />,
            !opFinished(o) && <Cancel op={o} />,
          ],
        };
      })}
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
