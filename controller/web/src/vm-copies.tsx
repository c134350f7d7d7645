import { Alert, Checkbox, NativeSelect, Stack, Text } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { guidedRepair } from '../../../core/decide/repair';
import { isReplicated } from '../../../core/domain/disk';
import type { VmView } from '../../../core/wire/rest';
import { call, saw } from './api';
import { useAll } from './live';
import { Confirm } from './parts';

/** Gives the second copies of its disks to another node. */
export function OtherStandby({ vm }: { readonly vm: VmView }): ReactNode {
  const nodes = useAll('node');
  const [node, setNode] = useState('');
  const [unprotected, setUnprotected] = useState(false);
  const { own } = vm;
  if (own === null || !vm.disks.some(isReplicated)) return null;
  const have = own.copies.map((c) => c.node);
  const second = have.find((n) => n !== own.owner) ?? 'nobody';
  const whole = own.sync === 'ok';
  return (
    <Confirm
      label="Other standby"
      title={`Give the second copies of "${vm.name}" to another node than ${second}?`}
      says={
        <Stack gap="xs">
          <NativeSelect
            label="Node"
            value={node}
            data={[
              { value: '', label: 'the best fit' },
              ...nodes.filter((n) => !have.includes(n.id)).map((n) => ({ value: n.id, label: n.id })),
            ]}
            onChange={(e) => setNode(e.currentTarget.value)}
          />
          {whole && (
            <Checkbox
              label={`The copy on ${second} has every write. It may be without protection until the new one is whole`}
              checked={unprotected}
              onChange={(e) => setUnprotected(e.currentTarget.checked)}
            />
          )}
          <Text size="sm">The VM runs on. All of its disks are copied to the new node.</Text>
        </Stack>
      }
      ready={!whole || unprotected}
      yes="Copy there"
      act={async () => {
        const body = { ...(node === '' ? {} : { node }), unprotected };
        saw('op', (await call('vmStandby', { params: { vm: vm.id }, body })).op);
      }}
    />
  );
}

/** What to do about copies that are not the same; after a split brain, the choice. */
export function RepairCopies({ vm }: { readonly vm: VmView }): ReactNode {
  const copies = vm.observed?.copies ?? [];
  const owner = vm.own?.owner ?? '';
  const guide = guidedRepair(vm.name, copies, owner);
  const split = copies.find((c) => c.state === 'split-brain');
  if (guide === null) return null;
  return (
    <Alert color="orange" variant="light" title="Its copies are not the same">
      <Stack gap="xs">
        <Text size="sm">{guide.text}.</Text>
        {split !== undefined && (
          <Confirm
            label={`Throw away what ${split.peer} has`}
            danger
            title={`Throw away what ${split.peer} has of the disks of "${vm.name}"?`}
            says={`What ${owner} has is copied over it. Whatever only ${split.peer} has is lost, and nobody can bring it back.`}
            yes="Throw it away"
            act={async () => {
              const body = { discard: split.peer };
              saw('op', (await call('vmRepair', { params: { vm: vm.id }, body })).op);
            }}
          />
        )}
      </Stack>
    </Alert>
  );
}
