import { Alert, Group, NativeSelect, Stack, Switch, Text, Title } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { failoverLine } from '../../../core/domain/failover-words';
import type { HaView, RestCall } from '../../../core/wire/rest';
import { call, useAsked, useDo } from './api';
import { ClusterPage } from './cluster';
import { useAll } from './live';
import { Confirm, NotYet, Refusal, Rows, State, To } from './parts';
import { May } from './may';

export function HaPage(): ReactNode {
  const vms = useAll('vm');
  const nodes = useAll('node');
  const [again, setAgain] = useState(0);
  // The stream tells that something moved; the whole picture is asked for.
  const { value: ha, refused } = useAsked('haGet', {}, `${again} ${mark(vms, nodes)}`);
  if (ha === null)
    return (
      <ClusterPage tab="ha">
        <NotYet refused={refused} />
      </ClusterPage>
    );
  return (
    <ClusterPage tab="ha">
      <Alert
        variant="light"
        color={ha.waiting.length > 0 ? 'red' : ha.unprotected.length > 0 ? 'yellow' : 'green'}
        role="status"
      >
        <Text fw={600}>{ha.sentence}</Text>
      </Alert>
      <Switches ha={ha} changed={() => setAgain(again + 1)} />
      {ha.waiting.length > 0 && (
        <Rows
          label="VMs that wait for a failover"
          head={['VM', 'Of', 'To', 'Waits for']}
          none=""
          rows={ha.waiting.map((w) => ({
            key: w.vm,
            cells: [<To to={`/vms/${w.vm}`}>{w.name}</To>, w.node ?? '?', w.standby ?? 'nobody yet', w.text],
          }))}
        />
      )}
      <Title order={2} size="h5">
        Not protected
      </Title>
      <Rows
        label="VMs that are not protected"
        head={['VM', 'Node', 'Why']}
        none="Every VM that asks for protection has it."
        rows={ha.unprotected.map((u) => ({
          key: u.vm,
          cells: [<To to={`/vms/${u.vm}`}>{u.name}</To>, u.node ?? '?', u.text],
        }))}
      />
      <Title order={2} size="h5">
        Keepers
      </Title>
      <Rows
        label="Keepers"
        head={['Node', 'Presence', 'Lease', 'Keeper', 'Watchdog', 'Armed', 'To look at']}
        none="No node."
        rows={ha.nodes.map((n) => ({
          key: n.node,
          cells: [
            <To to={`/nodes/${n.node}`}>{n.node}</To>,
            <State of={n.presence} />,
            n.live ? 'stands' : 'gone',
            n.keeper === null ? 'does not answer' : n.keeper.mode.toUpperCase(),
            n.keeper?.watchdog ?? '?',
            n.keeper?.armed ?? '?',
            [
              n.failover,
              n.keeper?.why ?? '',
              n.keeper?.text ?? '',
              ...(n.keeper?.held.map((h) => `${h.name ?? h.vm}: ${h.why}`) ?? []),
            ]
              .filter((t) => t !== '')
              .join('; '),
          ],
        }))}
      />
      <Title order={2} size="h5">
        Last failovers
      </Title>
      <Rows
        label="Last failovers"
        head={['VM', 'State', 'When', 'How']}
        none="None that the ledger remembers."
        rows={ha.failovers.map((f) => ({
          key: f.op,
          cells: [
            <To to={`/vms/${f.vm}`}>{f.name}</To>,
            <State of={f.state} />,
            new Date(f.createdMs).toLocaleString(),
            f.timeline === null ? f.step : failoverLine(f.timeline),
          ],
        }))}
      />
    </ClusterPage>
  );
}

const mark = (
  vms: readonly { ha: { state: string } }[],
  nodes: readonly { presence: string; live: boolean }[],
): string =>
  `${vms.map((v) => v.ha.state[0]).join('')} ${nodes.map((n) => `${n.presence[0]}${n.live ? 1 : 0}`).join('')}`;

function Switches({ ha, changed }: { readonly ha: HaView; readonly changed: () => void }): ReactNode {
  const { policy } = ha;
  const { busy, refused, run } = useDo();
  const patch = (body: RestCall<'policyPatch'>['body']): Promise<unknown> =>
    call('policyPatch', { body }, { ifMatch: policy.revision }).then(changed);
  const set = (part: Partial<HaView['policy']['ha']>): Promise<unknown> => patch({ ha: part });
  return (
    <Stack gap="xs">
      <Group>
        {policy.ha.paused ? (
          <Switch
            label="Paused: nothing freezes, nothing fails over"
            checked
            disabled={busy}
            onChange={() => void run(() => set({ paused: false }))}
          />
        ) : (
          <May role="admin">
            <Confirm
              label="Pause protection"
              title="Pause protection of the whole cluster?"
              says={`${policy.armed} VMs are disarmed: nothing freezes and nothing fails over until the pause ends. For work on switches.`}
              yes="Pause"
              act={() => set({ paused: true })}
            />
          </May>
        )}
        <Switch
          label="Hold failovers until somebody lets go"
          checked={policy.ha.hold}
          disabled={busy}
          onChange={(e) => {
            const hold = e.currentTarget.checked;
            void run(() => set({ hold }));
          }}
        />
        <NativeSelect
          label="VMs after which a failover would find no room are"
          value={policy.plan.admission}
          disabled={busy}
          data={[
            { value: 'enforce', label: 'refused' },
            { value: 'warn', label: 'made and started, with a warning' },
            { value: 'off', label: 'made and started' },
          ]}
          onChange={(e) => {
            const admission = e.currentTarget.value as HaView['policy']['plan']['admission'];
            void run(() => patch({ plan: { admission } }));
          }}
        />
        <NativeSelect
          label="A second copy of disks that is lost is made elsewhere after"
          value={String(policy.copies.replaceAfterMin)}
          disabled={busy}
          data={[...new Set(['10', '30', '120', '720', String(policy.copies.replaceAfterMin)])]
            .filter((m) => m !== 'null')
            .map((m) => ({ value: m, label: `${m} minutes` }))
            .concat({ value: 'null', label: 'never by itself' })}
          onChange={(e) => {
            const min = e.currentTarget.value;
            void run(() => patch({ copies: { replaceAfterMin: min === 'null' ? null : Number(min) } }));
          }}
        />
      </Group>
      {policy.ha.unsafeWithoutWatchdog && (
        <Alert color="red" role="alert">
          Unsafe: nodes without a watchdog may arm. If one hangs and does not die, its VMs may run twice.
        </Alert>
      )}
      <Refusal of={refused} />
    </Stack>
  );
}
