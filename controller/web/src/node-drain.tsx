import { Alert, Button, Checkbox, List, Progress, Stack, Text } from '@mantine/core';
import { useEffect, useState, type ReactNode } from 'react';
import { formatSpan } from '../../../core/domain/units';
import type { DrainAnswer, NodeView, OpView } from '../../../core/wire/rest';
import { twinGoes } from '../../../core/domain/lockstep-words';
import { call, saw, useAsked, useDo } from './api';
import { useAll } from './live';
import { Confirm, Refusal, Rows, To } from './parts';

/** Empties a node; says first what would become of its VMs. */
export function DrainNode({ node }: { readonly node: NodeView }): ReactNode {
  const [check, setCheck] = useState<DrainAnswer | null>(null);
  const [restart, setRestart] = useState(false);
  return (
    <Confirm
      label="Maintenance"
      title={`Set ${node.id} to maintenance and move its VMs elsewhere?`}
      says={
        <Stack gap="xs">
          <Checked node={node.id} check={check} set={setCheck} />
          {check?.vms.some((v) => v.how === 'restart') === true && (
            <Checkbox
              label="VMs that cannot move while they run may be restarted elsewhere"
              checked={restart}
              onChange={(e) => setRestart(e.currentTarget.checked)}
            />
          )}
          <Text size="sm">It takes no new VMs and no failovers until it is set active again.</Text>
        </Stack>
      }
      ready={check !== null}
      yes="Set to maintenance"
      act={async () => {
        const r = await call('nodeDrain', { params: { node: node.id }, body: { restart, leave: false } });
        saw('op', r.op);
      }}
    />
  );
}

function Checked(p: {
  readonly node: string;
  readonly check: DrainAnswer | null;
  readonly set: (c: DrainAnswer) => void;
}): ReactNode {
  const { node, check, set } = p;
  const [failed, setFailed] = useState('');
  useEffect(() => {
    call('nodeDrainGet', { params: { node } }).then(set, (e: unknown) =>
      setFailed(e instanceof Error ? e.message : String(e)),
    );
    // Asked once, when it is opened.
  }, [node]);
  if (check === null)
    return <Text size="sm">{failed === '' ? 'Looks where its VMs could go…' : failed}</Text>;
  const stuck = check.vms.filter((v) => v.how !== 'migrate' && v.how !== 'switch' && v.how !== 'relocate');
  return (
    <Stack gap={4}>
      <Text size="sm">{check.sentence}</Text>
      <List size="sm">
        {stuck.map((v) => (
          <List.Item key={v.vm}>
            {v.name}: {v.text}
          </List.Item>
        ))}
        {check.bare.map((name) => (
          <List.Item key={`bare ${name}`}>{name} would have no standby</List.Item>
        ))}
        {check.twins.map((x) => (
          <List.Item key={`twin ${x.vm}`}>{twinGoes(x)}</List.Item>
        ))}
      </List>
    </Stack>
  );
}

/** Sets a node active again; brings back what was taken away, if asked. */
export function ActivateNode({ node }: { readonly node: NodeView }): ReactNode {
  const [bringBack, setBringBack] = useState(false);
  return (
    <Confirm
      label="Set active"
      title={`Set ${node.id} active again?`}
      says={
        <Checkbox
          label="VMs that its last drain took away come back"
          checked={bringBack}
          onChange={(e) => setBringBack(e.currentTarget.checked)}
        />
      }
      yes="Set to active"
      act={async () => {
        const { op } = await call('nodeActivate', { params: { node: node.id }, body: { bringBack } });
        if (op !== null) saw('op', op);
      }}
    />
  );
}

const stateText = {
  waiting: 'waits',
  stopping: 'is shut down',
  moving: 'moves',
  moved: 'moved',
  stays: 'stays',
};

/** How far a drain of this node, or the return to it, is. */
export function DrainProgress({ node }: { readonly node: NodeView }): ReactNode {
  const open = useAll('op').find(
    (o) =>
      o.subject.id === node.id &&
      ['node.drain', 'node.return'].includes(o.kind) &&
      ['queued', 'running'].includes(o.state),
  );
  return open === undefined ? null : <Under node={node.id} open={open} />;
}

function Under({ node, open }: { readonly node: string; readonly open: OpView }): ReactNode {
  const { busy, refused, run } = useDo();
  const { value } = useAsked('nodeDrainGet', { params: { node } }, `${open.id} ${open.step}`);
  return (
    <Alert
      variant="light"
      title={open.kind === 'node.drain' ? 'Its VMs are being moved away' : 'Its VMs are coming back'}
    >
      <Stack gap="xs">
        <Progress value={(open.progress ?? 0) * 100} aria-label="Progress" />
        <Text size="sm">
          {open.step}
          {(value?.etaS ?? 0) > 0 ? `, about ${formatSpan((value?.etaS ?? 0) * 1000)} more` : ''}
        </Text>
        <Rows
          label="VMs of this operation"
          head={['VM', 'State', 'To', 'Why']}
          none="No VM is concerned."
          rows={(value?.moves ?? []).map((m) => ({
            key: m.vm,
            cells: [<To to={`/vms/${m.vm}`}>{m.name}</To>, stateText[m.state], m.to ?? '–', m.text],
          }))}
        />
        <Button
          size="xs"
          variant="default"
          loading={busy}
          disabled={open.cancelAsked}
          onClick={() => void run(() => call('opCancel', { params: { op: open.id } }))}
        >
          Cancel
        </Button>
        <Refusal of={refused} />
      </Stack>
    </Alert>
  );
}
