import { Alert, List, NativeSelect, NumberInput, Stack, Text } from '@mantine/core';
import { useEffect, useState, type ReactNode } from 'react';
import { bulkAtOnce, bulkAtOnceMax, bulkVmsMax, type BulkAction } from '../../../core/domain/bulk';
import { vmActions } from '../../../core/domain/vm';
import type { VmBulkAnswer, VmRow } from '../../../core/wire/rest';
import { call, newKey, saw } from './api';
import { useAll } from './live';
import { Confirm } from './parts';
import { actionWords, hurts } from './vm-actions';

const reasonsShown = 8;

/** One action on many VMs: first what would become of each, then one operation, which does some at a time. */
export function Bulk(p: {
  readonly action: BulkAction;
  readonly vms: readonly VmRow[];
  readonly done: () => void;
}): ReactNode {
  const { action } = p;
  const [to, setTo] = useState('');
  const [atOnce, setAtOnce] = useState(bulkAtOnce(action));
  const [said, setSaid] = useState<VmBulkAnswer | null>(null);
  const nodes = useAll('node').filter((n) => !n.record.witness && n.record.desired === 'active');
  const can = p.vms.filter((v) => vmActions[v.phase].includes(action)).length;
  const going = said?.vms.filter((v) => v.state === 'waiting').length ?? 0;
  const body = {
    action,
    vms: p.vms.slice(0, bulkVmsMax).map((v) => v.id),
    atOnce,
    ...(to === '' ? {} : { to }),
  };
  const word = action === 'migrate' ? 'Migrate' : actionWords[action];
  const vms = (n: number): string => `${n} ${n === 1 ? 'VM' : 'VMs'}`;
  return (
    <Confirm
      label={word}
      danger={action === 'force-stop'}
      disabled={can === 0}
      title={action === 'migrate' ? `Move ${vms(can)} while they run?` : `${word} ${vms(can)}?`}
      says={
        <Stack gap="xs">
          {action !== 'migrate' && (
            <Text size="sm">{hurts[action] ?? 'They start on the nodes that own them.'}</Text>
          )}
          {action === 'migrate' && (
            <NativeSelect
              label="To"
              value={to}
              data={[
                { value: '', label: 'The node that fits each best' },
                ...nodes.map((n) => ({ value: n.id, label: n.id })),
              ]}
              onChange={(e) => {
                setSaid(null);
                setTo(e.currentTarget.value);
              }}
            />
          )}
          <NumberInput
            label="At a time"
            description="The others wait their turn, also when this page is closed."
            min={1}
            max={bulkAtOnceMax}
            w={220}
            value={atOnce}
            onChange={(v) => setAtOnce(Math.min(bulkAtOnceMax, Math.max(1, Number(v) || 1)))}
          />
          <Impact key={to} body={body} said={said} set={setSaid} vms={p.vms} />
        </Stack>
      }
      ready={going > 0}
      yes={said === null ? word : `${word} ${going}`}
      act={async () => saw('op', (await call('vmBulk', { body }, { key: newKey() })).op)}
      done={p.done}
    />
  );
}

/** What the server says would become of them; asked once, as the dialog opens. */
function Impact(p: {
  readonly body: { readonly action: BulkAction; readonly vms: string[]; readonly atOnce: number };
  readonly said: VmBulkAnswer | null;
  readonly set: (said: VmBulkAnswer) => void;
  readonly vms: readonly VmRow[];
}): ReactNode {
  const { body, said, set } = p;
  const [failed, setFailed] = useState('');
  useEffect(() => {
    call('vmBulk', { body: { ...body, dryRun: true } }).then(set, (e: unknown) =>
      setFailed(e instanceof Error ? e.message : String(e)),
    );
    // Of what was chosen as it was opened.
  }, []);
  if (failed !== '') return <Alert color="red" role="alert" variant="light" title={failed} />;
  if (said === null) return <Text size="sm">Looks what would become of each…</Text>;
  const stuck = said.vms.filter((v) => v.state === 'failed');
  const bare = said.vms.filter((v) => v.state === 'waiting' && v.text !== '');
  const held =
    body.action === 'start'
      ? 0
      : p.vms.filter(
          (v) => v.ha.state === 'protected' && said.vms.some((x) => x.vm === v.id && x.state === 'waiting'),
        ).length;
  return (
    <List size="sm">
      {said.sentence.split('; ').map((part) => (
        <List.Item key={part}>{part}</List.Item>
      ))}
      {held > 0 && <List.Item>{held} of them protected</List.Item>}
      {p.vms.length > bulkVmsMax && (
        <List.Item>
          The first {bulkVmsMax} of {p.vms.length}: more go by another operation.
        </List.Item>
      )}
      {[...stuck, ...bare].slice(0, reasonsShown).map((v) => (
        <List.Item key={v.vm}>
          {v.name}
          {v.state === 'failed' ? ' is left out' : ''}: {v.text}
        </List.Item>
      ))}
      {stuck.length > reasonsShown && (
        <List.Item>and {stuck.length - reasonsShown} more are left out</List.Item>
      )}
    </List>
  );
}
