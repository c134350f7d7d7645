import { Button, Checkbox, Menu, Text } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { useLocation } from 'wouter';
import { vmActions, type VmAction } from '../../../core/domain/vm';
import type { RestCall, VmRow } from '../../../core/wire/rest';
import { call, saw, useDo } from './api';
import { useMay } from './may';
import { Confirm, Refusal } from './parts';
import { MigrateVm } from './vm-migrate';

/** An action by POST. */
type Posted = RestCall<'vmAction'>['params']['action'];

export const actionWords: Readonly<Record<Posted, string>> = {
  start: 'Start',
  stop: 'Shut down',
  'force-stop': 'Force off',
  reboot: 'Reboot',
  reset: 'Reset',
  pause: 'Pause',
  resume: 'Resume',
};
/** What it does to the guest, where that may hurt. */
export const hurts: Partial<Readonly<Record<Posted, string>>> = {
  stop: 'The guest is asked to shut down; after its time for that it is forced off.',
  'force-stop': 'As if the power cord were pulled: what the guest has not written is lost.',
  reboot: 'The guest is asked to restart.',
  reset: 'As if the reset button were pressed: what the guest has not written is lost.',
};
const allowed = (v: VmRow, a: VmAction): boolean => vmActions[v.phase].includes(a);

const act = async (v: VmRow, action: Posted): Promise<void> => {
  const r = await call('vmAction', { params: { vm: v.id, action } });
  saw('op', r.op);
};

/** What can be done with a VM in its state, from the same table that the server asks. */
export function VmActions({ vm }: { readonly vm: VmRow }): ReactNode {
  const { busy, refused, run } = useDo();
  const may = useMay('operator', vm.id);
  if (!may) return null;
  const plain = (['start', 'resume'] as const).filter((a) => allowed(vm, a));
  const asked = (['stop', 'reboot'] as const).filter((a) => allowed(vm, a));
  return (
    <>
      {plain.map((a) => (
        <Button key={a} size="xs" loading={busy} onClick={() => void run(() => act(vm, a))}>
          {actionWords[a]}
        </Button>
      ))}
      {asked.map((a) => (
        <Confirm
          key={a}
          label={actionWords[a]}
          title={`${actionWords[a]} "${vm.name}"?`}
          says={hurts[a]}
          yes={actionWords[a]}
          act={() => act(vm, a)}
        />
      ))}
      <MigrateVm vm={vm} />
      <MoreActions vm={vm} run={(a) => void run(() => act(vm, a))} />
      <DeleteVm vm={vm} />
      <Refusal of={refused} />
    </>
  );
}

function MoreActions({ vm, run }: { readonly vm: VmRow; readonly run: (a: Posted) => void }): ReactNode {
  const more = (['pause', 'reset', 'force-stop'] as const).filter((a) => allowed(vm, a));
  if (more.length === 0) return null;
  return (
    <Menu>
      <Menu.Target>
        <Button size="xs" variant="default">
          More
        </Button>
      </Menu.Target>
      <Menu.Dropdown maw={320}>
        {more.map((a) => (
          <Menu.Item key={a} onClick={() => run(a)} {...(a === 'pause' ? {} : { color: 'red' })}>
            {actionWords[a]}
            {hurts[a] !== undefined && (
              <Text size="xs" c="dimmed">
                {hurts[a]}
              </Text>
            )}
          </Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}

function DeleteVm({ vm }: { readonly vm: VmRow }): ReactNode {
  const [, go] = useLocation();
  const [sure, setSure] = useState(false);
  const runs = !allowed(vm, 'delete');
  return (
    <Confirm
      label="Delete"
      danger
      title={`Delete "${vm.name}"?`}
      says={
        <Text size="sm">
          The VM, all its disks and all its snapshots are deleted. There is no way back.
          {runs ? ' It is not off: it is forced off first.' : ''}
        </Text>
      }
      word={
        <Checkbox
          label={`Yes, delete ${vm.name} and its data`}
          checked={sure}
          onChange={(e) => setSure(e.currentTarget.checked)}
        />
      }
      ready={sure}
      yes="Delete"
      act={async () => {
        const r = await call('vmDelete', { params: { vm: vm.id }, query: runs ? { force: 'true' } : {} });
        saw('op', r.op);
      }}
      done={() => go('/vms')}
    />
  );
}
