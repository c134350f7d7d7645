import { List, Stack, Text } from '@mantine/core';
import { useEffect, useState, type ReactNode } from 'react';
import { vmActions } from '../../../core/domain/vm';
import type { MigrateCheckAnswer, VmRow } from '../../../core/wire/rest';
import { call, saw } from './api';
import { Confirm } from './parts';

/** Moves a running VM to the node that placement picks; says first where that is, or all that speaks against it. */
export function MigrateVm({ vm }: { readonly vm: VmRow }): ReactNode {
  const [check, setCheck] = useState<MigrateCheckAnswer | null>(null);
  if (!vmActions[vm.phase].includes('migrate')) return null;
  return (
    <Confirm
      label="Migrate"
      title={`Move "${vm.name}" to another node while it runs?`}
      says={<Checked vm={vm} check={check} set={setCheck} />}
      ready={check !== null && check.to !== null}
      yes="Migrate"
      act={async () => {
        const body = check?.to === null || check === null ? {} : { node: check.to };
        const r = await call('vmMigrate', { params: { vm: vm.id }, body });
        saw('op', r.op);
      }}
    />
  );
}

function Checked(p: {
  readonly vm: VmRow;
  readonly check: MigrateCheckAnswer | null;
  readonly set: (c: MigrateCheckAnswer) => void;
}): ReactNode {
  const { vm, check, set } = p;
  const [failed, setFailed] = useState('');
  useEffect(() => {
    call('vmMigrateCheck', { params: { vm: vm.id }, query: {} }).then(set, (e: unknown) =>
      setFailed(e instanceof Error ? e.message : String(e)),
    );
    // Asked once, when it is opened.
  }, [vm.id]);
  if (check === null) return <Text size="sm">{failed === '' ? 'Looks whether it can…' : failed}</Text>;
  if (check.to !== null)
    return (
      <Text size="sm">
        From {check.from} to {check.to}. Its guest stands still for a moment; connections go on.
      </Text>
    );
  return (
    <Stack gap={4}>
      <Text size="sm">It cannot move now.</Text>
      <List size="sm">
        {check.blockers.map((b) => (
          <List.Item key={b.code + b.text}>
            {b.text}. {b.hint}
          </List.Item>
        ))}
        {check.nodes.flatMap((n) =>
          n.blockers.map((b) => (
            <List.Item key={n.node + b.code + b.text}>
              {n.node}: {b.text}. {b.hint}
            </List.Item>
          )),
        )}
      </List>
    </Stack>
  );
}
