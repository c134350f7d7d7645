import { Alert, Button, Group, NativeSelect, NumberInput, Stack, Text, Title } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { formatSize } from '../../../core/domain/units';
import type { BalanceAnswer } from '../../../core/wire/rest';
import { call, saw, useAsked, useDo } from './api';
import { ClusterPage } from './cluster';
import { useAll } from './live';
import { useMay } from './may';
import { Confirm, NotYet, Refusal, Rows, State, To } from './parts';
import { Capacity } from './outlook';
import { Power } from './power';
import { Rolling } from './rolling';
import { Rules } from './rules';

/** What would even the cluster out, what is done about it by itself, and what was. */
export function BalancePage(): ReactNode {
  const [again, setAgain] = useState(0);
  const moving = useAll('op').filter((o) => o.kind === 'vm.migrate');
  // A move that begins or ends changes the plan; so does time.
  const mark = `${again} ${moving.map((o) => `${o.id} ${o.state}`).join()}`;
  const { value: balance, refused } = useAsked('balanceGet', {}, mark);
  if (balance === null)
    return (
      <ClusterPage tab="balance">
        <NotYet refused={refused} />
      </ClusterPage>
    );
  const changed = (): void => setAgain(again + 1);
  return (
    <ClusterPage
      tab="balance"
      actions={
        <Button size="xs" variant="default" onClick={changed}>
          Look again
        </Button>
      }
    >
      <Alert variant="light" color={balance.moves.length === 0 ? 'green' : 'yellow'} role="status">
        <Text fw={600}>{balance.sentence}</Text>
        <Text size="sm">
          {balance.by === null
            ? 'By the loads of this moment.'
            : `By loads smoothed over minutes, planned by ${balance.by} at ${new Date(balance.atMs ?? 0).toLocaleTimeString()}.`}
        </Text>
      </Alert>
      <Settings balance={balance} changed={changed} />
      <Moves balance={balance} />
      <Rules />
      <Power />
      <Title order={2} size="h5">
        Moved by itself
      </Title>
      <Rows
        label="Moves made by themselves"
        head={['When', 'VM', 'From', 'To', 'Outcome', 'Imbalance', 'Copied', 'Why']}
        none="Nothing of late."
        rows={balance.past.map((m) => ({
          key: m.op,
          cells: [
            new Date(m.atMs).toLocaleString(),
            <To to={`/vms/${m.vm}`}>{m.name}</To>,
            m.from,
            m.to,
            <State of={m.outcome ?? 'running'} />,
            imbalance(m),
            formatSize(m.memoryMiB * 2 ** 20),
            m.text === '' ? m.why : `${m.why}; ${m.text}`,
          ],
        }))}
      />
      <Capacity />
      <Rolling />
    </ClusterPage>
  );
}

const imbalance = (m: BalanceAnswer['moves'][number]): string =>
  `${m.before.toFixed(2)} → ${m.after.toFixed(2)}`;

function Moves({ balance }: { readonly balance: BalanceAnswer }): ReactNode {
  const may = useMay('operator');
  const move = async (m: BalanceAnswer['moves'][number]): Promise<void> => {
    const r = await call('vmMigrate', { params: { vm: m.vm }, body: { node: m.to } });
    saw('op', r.op);
  };
  return (
    <>
      <Title order={2} size="h5">
        Moves that would help
      </Title>
      <Rows
        label="Moves that would help"
        head={['VM', 'From', 'To', 'For', 'Imbalance', 'To copy', 'Why', '']}
        none="None: no move would gain what it costs."
        rows={balance.moves.map((m, i) => ({
          key: m.vm,
          cells: [
            <To to={`/vms/${m.vm}`}>{m.name}</To>,
            m.from,
            m.to,
            m.for === 'rule' ? 'a rule' : 'load',
            imbalance(m),
            formatSize(m.memoryMiB * 2 ** 20),
            m.why,
            may ? (
              <Confirm
                label="Move"
                title={`Move "${m.name}" to ${m.to}?`}
                says={`It goes on running meanwhile. ${i === 0 ? '' : 'The plan has moves before this one; it may be refused until they are made.'}`}
                yes="Move"
                act={() => move(m)}
              />
            ) : null,
          ],
        }))}
      />
    </>
  );
}

const modes: readonly { readonly value: BalanceAnswer['mode']; readonly label: string }[] = [
  { value: 'off', label: 'Off: nothing is planned' },
  { value: 'recommend', label: 'Recommend: nothing is moved by itself' },
  { value: 'rules-only', label: 'Rules only: what breaks a rule is moved' },
  { value: 'automatic', label: 'Automatic: moved for rules and for load' },
];

function Settings(p: { readonly balance: BalanceAnswer; readonly changed: () => void }): ReactNode {
  const { balance, changed } = p;
  const { busy, refused, run } = useDo();
  const may = useMay('admin');
  const [perHour, setPerHour] = useState(balance.movesPerHourMax);
  const set = (plan: { balance?: BalanceAnswer['mode']; movesPerHourMax?: number }): void =>
    void run(() => call('policyPatch', { body: { plan } }).then(changed));
  return (
    <Stack gap="xs">
      <Group align="end">
        <NativeSelect
          label="By itself"
          value={balance.mode}
          disabled={busy || !may}
          data={[...modes]}
          onChange={(e) => set({ balance: e.currentTarget.value as BalanceAnswer['mode'] })}
        />
        <NumberInput
          label="Moves an hour, at most"
          min={1}
          max={1000}
          w={170}
          value={perHour}
          disabled={busy || !may}
          onChange={(v) => setPerHour(Number(v))}
        />
        {perHour !== balance.movesPerHourMax && (
          <Button size="sm" loading={busy} onClick={() => set({ movesPerHourMax: perHour })}>
            Save
          </Button>
        )}
      </Group>
      <Refusal of={refused} />
    </Stack>
  );
}
