import { Checkbox, Group, NativeSelect, NumberInput, Stack, Text } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { isReplicated } from '../../../core/domain/disk';
import { formatSize } from '../../../core/domain/units';
import { isDetached } from '../../../core/domain/vm';
import type { RestCall, VmView } from '../../../core/wire/rest';
import { call, saw } from './api';
import { useAll } from './live';
import { Confirm } from './parts';

type Disk = VmView['disks'][number];
type Patch = RestCall<'vmPatch'>['body'];

const GiB = 2 ** 30;

/** Sent with the generation that was looked at: nobody's edit is overwritten unseen. */
const edit = async (vm: VmView, body: Patch): Promise<void> => {
  const r = await call('vmPatch', { params: { vm: vm.id }, body }, { ifMatch: `"${vm.generation}"` });
  saw('op', r.op);
};

/** In which pool, and on how many nodes. */
function Place(p: {
  readonly pool: string;
  readonly setPool: (id: string) => void;
  /** Offered where a pool may be left open. */
  readonly usual?: string;
  readonly twice: boolean;
  readonly setTwice: (twice: boolean) => void;
}): ReactNode {
  const pools = useAll('pool');
  return (
    <>
      <NativeSelect
        label="Pool"
        value={p.pool}
        data={[
          ...(p.usual === undefined ? [] : [{ value: '', label: p.usual }]),
          ...pools.map((x) => ({ value: x.id, label: `${x.name} (${x.kind})` })),
        ]}
        onChange={(e) => p.setPool(e.currentTarget.value)}
      />
      {isThin(pools, p.pool) && (
        <Checkbox
          label="With a copy on a second node"
          checked={p.twice}
          onChange={(e) => p.setTwice(e.currentTarget.checked)}
        />
      )}
    </>
  );
}

const isThin = (pools: readonly { readonly id: string; readonly kind: string }[], id: string): boolean =>
  pools.find((p) => p.id === id)?.kind === 'thin';

/** One more disk, also while the VM runs. */
export function AddDisk({ vm }: { readonly vm: VmView }): ReactNode {
  const pools = useAll('pool');
  const [sizeGiB, setSize] = useState(10);
  const [pool, setPool] = useState('');
  const [twice, setTwice] = useState(false);
  const thin = isThin(pools, pool);
  return (
    <Confirm
      label="Add a disk"
      title={`Add a disk to "${vm.name}"?`}
      says={
        <Stack gap="xs">
          <NumberInput label="Size, GiB" min={1} value={sizeGiB} onChange={(v) => setSize(Number(v))} />
          <Place pool={pool} setPool={setPool} usual="as usual" twice={twice} setTwice={setTwice} />
          <Text size="sm">A VM that runs gets it at once.</Text>
        </Stack>
      }
      ready={sizeGiB > 0}
      yes="Add it"
      act={() =>
        edit(vm, {
          addDisks: [
            {
              sizeBytes: sizeGiB * GiB,
              ...(pool === '' ? {} : { pool }),
              ...(thin && twice ? { replicas: 2 } : {}),
            },
          ],
        })
      }
    />
  );
}

/** What can be done with one disk of a VM. */
export function DiskActions({ vm, disk }: { readonly vm: VmView; readonly disk: Disk }): ReactNode {
  const [sizeGiB, setSize] = useState(Math.ceil(disk.sizeBytes / GiB) + 1);
  const outside = isDetached(vm.spec, disk.id);
  if (disk.state === 'deleting') return null;
  return (
    <Group gap="xs">
      <Confirm
        label="Grow"
        title={`Grow disk "${disk.name}" of "${vm.name}"?`}
        says={
          <Stack gap="xs">
            <NumberInput
              label="New size, GiB"
              min={Math.floor(disk.sizeBytes / GiB) + 1}
              value={sizeGiB}
              onChange={(v) => setSize(Number(v))}
            />
            <Text size="sm">
              It has {formatSize(disk.sizeBytes)} now, and cannot be made smaller again. A VM that runs sees
              it at once; the file system inside is the guest’s to enlarge.
            </Text>
          </Stack>
        }
        ready={sizeGiB * GiB > disk.sizeBytes}
        yes="Grow it"
        act={() => edit(vm, { growDisks: [{ disk: disk.id, sizeBytes: sizeGiB * GiB }] })}
      />
      <MoveDisk vm={vm} disk={disk} />
      <Confirm
        label={outside ? 'Attach' : 'Detach'}
        title={`${outside ? 'Attach' : 'Detach'} disk "${disk.name}" of "${vm.name}"?`}
        says={
          outside
            ? 'It is put back into the machine.'
            : 'It is taken out of the machine. Unmount it in the guest first. Its data stay, and go with the VM.'
        }
        yes={outside ? 'Attach it' : 'Detach it'}
        act={() => edit(vm, outside ? { attachDisks: [disk.id] } : { detachDisks: [disk.id] })}
      />
      <Confirm
        label="Delete"
        danger
        title={`Delete disk "${disk.name}" of "${vm.name}"?`}
        says="It is taken out of the machine, and all that is on it is lost."
        yes="Delete it"
        act={() => edit(vm, { removeDisks: [disk.id] })}
      />
    </Group>
  );
}

/** To another pool, or another number of copies. */
function MoveDisk({ vm, disk }: { readonly vm: VmView; readonly disk: Disk }): ReactNode {
  const pools = useAll('pool');
  const now = isReplicated(disk);
  const [pool, setPool] = useState(disk.pool);
  const [twice, setTwice] = useState(now);
  const [limit, setLimit] = useState<number | string>('');
  const thin = isThin(pools, pool);
  const replicas = thin && twice ? 2 : 1;
  const same = pool === disk.pool && (replicas === 2) === now;
  return (
    <Confirm
      label="Move"
      title={`Move disk "${disk.name}" of "${vm.name}"?`}
      says={
        <Stack gap="xs">
          <Place pool={pool} setPool={setPool} twice={twice} setTwice={setTwice} />
          <NumberInput
            label="Copy at most, MiB a second"
            placeholder="as fast as it goes"
            min={1}
            value={limit}
            onChange={setLimit}
          />
          <Text size="sm">
            A VM that runs goes on meanwhile, and stands still for a moment at the end. It can be cancelled
            until then; the old volume is deleted when all is in the new one.
          </Text>
        </Stack>
      }
      ready={!same}
      yes="Move it"
      act={async () => {
        const body = {
          pool,
          replicas,
          ...(typeof limit === 'number' && limit > 0 ? { limitBps: limit * 2 ** 20 } : {}),
        } as const;
        saw('op', (await call('vmMoveDisk', { params: { vm: vm.id, disk: disk.id }, body })).op);
      }}
    />
  );
}
