import { Alert, NativeSelect, Progress, Stack, Text, Title } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import type { NodeView, PowerAnswer } from '../../../core/wire/rest';
import { call, saw, useAsked, useDo } from './api';
import { useAll } from './live';
import { May, useMay } from './may';
import { Confirm, Refusal, Rows, State, To } from './parts';

const modes: readonly { value: PowerAnswer['mode']; label: string }[] = [
  { value: 'off', label: 'Off: nothing is looked for, nothing wakes by itself' },
  { value: 'recommend', label: 'Recommend: nothing is done by itself' },
  { value: 'automatic', label: 'Automatic: idle nodes sleep, and wake before they are missed' },
];

/** Nodes that sleep, could sleep, or stay on; what is done about it by itself, and what was. */
export function Power(): ReactNode {
  const [again, setAgain] = useState(0);
  const { busy, refused, run } = useDo();
  const may = useMay('admin');
  const ops = useAll('op').filter((o) => o.kind === 'node.sleep' || o.kind === 'node.wake');
  const { value: power } = useAsked(
    'powerGet',
    {},
    `${again} ${ops.map((o) => `${o.id} ${o.state}`).join()}`,
  );
  if (power === null) return null;
  const set = (mode: PowerAnswer['mode']): void =>
    void run(() => call('policyPatch', { body: { plan: { power: mode } } }).then(() => setAgain(again + 1)));
  return (
    <Stack gap="xs">
      <Title order={2} size="h5">
        Saving power
      </Title>
      <Text size="sm">{power.sentence}</Text>
      <NativeSelect
        label="Idle nodes"
        value={power.mode}
        disabled={busy || !may}
        data={[...modes]}
        onChange={(e) => set(e.currentTarget.value as PowerAnswer['mode'])}
      />
      <Refusal of={refused} />
      {power.asleep.length > 0 && (
        <Rows
          label="Nodes that sleep"
          head={['Asleep', 'Since', 'By']}
          none=""
          rows={power.asleep.map((a) => ({
            key: a.node,
            cells: [<To to={`/nodes/${a.node}`}>{a.node}</To>, new Date(a.sinceMs).toLocaleString(), a.by],
          }))}
        />
      )}
      {power.kept.length > 0 && (
        <Rows
          label="Nodes that stay on"
          head={['Stays on', 'Why']}
          none=""
          rows={power.kept.map((k) => ({
            key: k.node,
            cells: [<To to={`/nodes/${k.node}`}>{k.node}</To>, k.why],
          }))}
        />
      )}
      {power.past.length > 0 && (
        <Rows
          label="Put to sleep and woken by itself"
          head={['When', 'Node', 'What', 'Outcome', 'Why']}
          none=""
          rows={power.past.map((p) => ({
            key: p.op,
            cells: [
              new Date(p.atMs).toLocaleString(),
              <To to={`/nodes/${p.node}`}>{p.node}</To>,
              p.do,
              <State of={p.outcome ?? 'running'} />,
              p.text === '' ? p.why : `${p.why}; ${p.text}`,
            ],
          }))}
        />
      )}
    </Stack>
  );
}

/** Empties a node and powers it off. */
export function SleepNode({ node }: { readonly node: NodeView }): ReactNode {
  return (
    <Confirm
      label="Sleep"
      title={`Empty ${node.id} and power it off?`}
      says={
        <Text size="sm">
          Its VMs move elsewhere, then its BMC powers it off. It stays a node of the cluster, is no failure,
          and wakes by this button again. Voters, and nodes with copies of disks, stay on.
        </Text>
      }
      yes="Put it to sleep"
      act={async () => {
        saw('op', (await call('nodeSleep', { params: { node: node.id } })).op);
      }}
    />
  );
}

/** Powers a node on that sleeps. */
export function WakeNode({ node }: { readonly node: NodeView }): ReactNode {
  return (
    <Confirm
      label="Wake"
      title={`Power ${node.id} on?`}
      says={<Text size="sm">It is active when it is well, some minutes from now.</Text>}
      yes="Wake it"
      act={async () => {
        saw('op', (await call('nodeWake', { params: { node: node.id } })).op);
      }}
    />
  );
}

/** How far it is with being put to sleep, or woken. */
export function PowerProgress({ node }: { readonly node: NodeView }): ReactNode {
  const open = useAll('op').find(
    (o) =>
      o.subject.id === node.id &&
      ['node.sleep', 'node.wake'].includes(o.kind) &&
      ['queued', 'running'].includes(o.state),
  );
  const { asleep } = node.record;
  if (open === undefined)
    return asleep === undefined ? null : (
      <Alert variant="light" color="gray" title="It is asleep">
        Powered off on purpose by {asleep.by}, {new Date(asleep.sinceMs).toLocaleString()}.
        <May role="admin">
          <Text size="sm">It comes back by Wake.</Text>
        </May>
      </Alert>
    );
  return (
    <Alert
      variant="light"
      title={open.kind === 'node.sleep' ? 'It is being put to sleep' : 'It is being woken'}
    >
      <Progress value={(open.progress ?? 0) * 100} aria-label="Progress" />
      <Text size="sm">{open.step}</Text>
    </Alert>
  );
}
