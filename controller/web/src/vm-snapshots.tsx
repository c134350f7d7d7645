import {
  Button,
  Checkbox,
  Group,
  Modal,
  NativeSelect,
  NumberInput,
  Stack,
  Text,
  TextInput,
} from '@mantine/core';
import { useEffect, useState, type ReactNode } from 'react';
import { opFinished } from '../../../core/domain/op';
import { formatSize } from '../../../core/domain/units';
import { consistencyText } from '../../../core/domain/vm-snapshot';
import type { SnapshotView, VmView } from '../../../core/wire/rest';
import { call, newKey, saw, useAsked, useDo } from './api';
import { May } from './may';
import { Confirm, Refusal, Rows, State } from './parts';
import { useOps } from './tasks';

/** While something is being taken or deleted it is looked at again so often, ms. */
const againMs = 2_000;

/** The disks of a VM as they were: keep, go back, delete. */
export function Snapshots({ vm }: { readonly vm: VmView }): ReactNode {
  const [again, setAgain] = useState(0);
  const open = useOps()
    .filter((o) => o.subject.id === vm.id && !opFinished(o))
    .map((o) => o.id)
    .join();
  const { value, refused } = useAsked(
    'snapshotList',
    { params: { vm: vm.id } },
    `${again} ${open} ${vm.node}`,
  );
  const items = value?.items ?? [];
  const moving = items.some((x) => x.state === 'wanted' || x.state === 'deleting');
  useEffect(() => {
    if (!moving) return;
    const timer = setTimeout(() => setAgain((n) => n + 1), againMs);
    return () => clearTimeout(timer);
  }, [moving, value]);
  const changed = (): void => setAgain((n) => n + 1);
  return (
    <Stack>
      <May role="operator" vm={vm.id}>
        <Group>
          <NewSnapshot vm={vm} changed={changed} />
          <Schedule key={JSON.stringify(vm.spec.snapshots ?? null)} vm={vm} />
        </Group>
      </May>
      <Rows
        label="Snapshots"
        head={['Snapshot', 'Taken', 'Holds', 'Node', 'State', 'How', '']}
        none="It has no snapshot."
        rows={items.map((x) => ({
          key: x.id,
          cells: [
            x.name,
            new Date(x.takenMs).toLocaleString(),
            x.usedBytes === null ? '–' : formatSize(x.usedBytes),
            x.node ?? 'every node of the pool',
            <State of={x.state} />,
            howText(x),
            <May role="operator" vm={vm.id}>
              <Group gap="xs" wrap="nowrap">
                {x.state === 'ready' && <Revert vm={vm} of={x} />}
                {x.state === 'ready' && (
                  <May role="operator">
                    <Clone vm={vm} of={x} />
                  </May>
                )}
                {x.state !== 'deleting' && (
                  <Confirm
                    label="Delete"
                    danger
                    title={`Delete snapshot "${x.name}"?`}
                    says="The VM and its other snapshots stay as they are."
                    yes="Delete"
                    act={() =>
                      call('snapshotDelete', { params: { vm: vm.id, snapshot: x.id } }).then(changed)
                    }
                  />
                )}
              </Group>
            </May>,
          ],
        }))}
      />
      <Refusal of={refused} />
    </Stack>
  );
}

function howText(x: SnapshotView): string {
  if (x.error !== null) return `${x.error.message}. ${x.error.hint}`;
  return [
    consistencyText[x.consistency],
    ...(x.keptFor.length === 0 ? [] : [`kept as ${x.keptFor.join(', ')}`]),
    ...(x.outOfReach === '' ? [] : [x.outOfReach]),
    ...(x.note === '' ? [] : [x.note]),
  ].join('; ');
}

function Revert({ vm, of }: { readonly vm: VmView; readonly of: SnapshotView }): ReactNode {
  const [before, setBefore] = useState(true);
  const [sure, setSure] = useState(false);
  return (
    <Confirm
      label="Go back"
      danger
      disabled={vm.phase !== 'stopped' || of.outOfReach !== ''}
      title={`Make the disks of "${vm.name}" what they were in "${of.name}"?`}
      says={
        <Stack gap="xs">
          <Text size="sm">What was written since {new Date(of.takenMs).toLocaleString()} is lost.</Text>
          <Checkbox
            label="Take a snapshot of what is there now first"
            checked={before}
            onChange={(e) => setBefore(e.currentTarget.checked)}
          />
          {!before && (
            <Checkbox
              label="Yes, what was written since may be lost"
              checked={sure}
              onChange={(e) => setSure(e.currentTarget.checked)}
            />
          )}
        </Stack>
      }
      ready={before || sure}
      yes="Go back"
      act={async () => {
        const params = { vm: vm.id, snapshot: of.id };
        saw('op', (await call('snapshotRevert', { params, body: { snapshotBefore: before } })).op);
      }}
    />
  );
}

function Clone({ vm, of }: { readonly vm: VmView; readonly of: SnapshotView }): ReactNode {
  const [name, setName] = useState('');
  const [start, setStart] = useState(false);
  return (
    <Confirm
      label="New VM"
      title={`Make a VM that begins as "${vm.name}" was in "${of.name}"`}
      says={
        <Stack gap="xs">
          <TextInput label="Name" required value={name} onChange={(e) => setName(e.currentTarget.value)} />
          <Checkbox
            label="Start it at once"
            checked={start}
            onChange={(e) => setStart(e.currentTarget.checked)}
          />
          <Text size="sm">
            It has MACs and addresses of its own
            {of.node === null ? '' : `, lies on ${of.node}, and has one copy of each disk`}. Host keys and the
            like are the guest’s to change.
          </Text>
        </Stack>
      }
      ready={name !== ''}
      yes="Make it"
      act={async () => {
        const power = start ? 'running' : 'stopped';
        saw('op', (await call('cloneCreate', { body: { vm: vm.id, snapshot: of.id, name, power } })).op);
      }}
    />
  );
}

const counts = [
  ['hourly', 'Hours', 24],
  ['daily', 'Days', 14],
  ['weekly', 'Weeks', 8],
] as const;

/** Snapshots that are taken by themselves. */
function Schedule({ vm }: { readonly vm: VmView }): ReactNode {
  const now = vm.spec.snapshots;
  const [of, setOf] = useState(now ?? { hourly: 0, daily: 0, weekly: 0 });
  return (
    <Confirm
      label={now === undefined ? 'No schedule' : `Kept: ${now.hourly} h, ${now.daily} d, ${now.weekly} w`}
      title={`Snapshots of "${vm.name}" that are taken by themselves`}
      says={
        <Stack gap="xs">
          <Text size="sm">How many are kept, of the last hours, days and weeks that have one. 0: none.</Text>
          {counts.map(([kind, label, max]) => (
            <NumberInput
              key={kind}
              label={label}
              min={0}
              max={max}
              value={of[kind]}
              onChange={(n) => setOf({ ...of, [kind]: Number(n) || 0 })}
            />
          ))}
        </Stack>
      }
      yes="Keep so many"
      act={async () => {
        const snapshots = of.hourly + of.daily + of.weekly === 0 ? null : of;
        saw('op', (await call('vmPatch', { params: { vm: vm.id }, body: { snapshots } })).op);
      }}
    />
  );
}

const hows = {
  auto: 'As well as the guest permits',
  filesystem: 'With file systems held still',
  crash: 'As after a power loss',
};

function NewSnapshot({ vm, changed }: { readonly vm: VmView; readonly changed: () => void }): ReactNode {
  const [open, setOpen] = useState(false);
  const [f, setF] = useState({ name: '', note: '', consistency: 'auto' as keyof typeof hows });
  const [key, setKey] = useState(newKey);
  const { busy, refused, run } = useDo();
  const put = (patch: Partial<typeof f>): void => {
    setF({ ...f, ...patch });
    setKey(newKey());
  };
  const create = async (): Promise<void> => {
    const { name, ...rest } = f;
    const body = { ...rest, ...(name === '' ? {} : { name }) };
    saw('op', (await call('snapshotCreate', { params: { vm: vm.id }, body }, { key })).op);
  };
  return (
    <>
      <Button size="xs" onClick={() => setOpen(true)}>
        Take a snapshot
      </Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={`Snapshot of "${vm.name}"`}>
        <form
          onSubmit={(e) => {
            e.preventDefault();
            void run(create).then((ok) => {
              if (!ok) return;
              setOpen(false);
              put({ name: '', note: '' });
              changed();
            });
          }}
        >
          <Stack gap="xs">
            <TextInput
              label="Name"
              description="Left empty: the time"
              value={f.name}
              onChange={(e) => put({ name: e.currentTarget.value })}
            />
            <TextInput label="Note" value={f.note} onChange={(e) => put({ note: e.currentTarget.value })} />
            {vm.phase !== 'stopped' && (
              <NativeSelect
                label="How"
                value={f.consistency}
                data={Object.entries(hows).map(([value, label]) => ({ value, label }))}
                onChange={(e) => put({ consistency: e.currentTarget.value as keyof typeof hows })}
              />
            )}
            <Refusal of={refused} />
            <Button type="submit" loading={busy}>
              Take it
            </Button>
          </Stack>
        </form>
      </Modal>
    </>
  );
}
