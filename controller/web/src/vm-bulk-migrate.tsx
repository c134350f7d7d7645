import { List, NativeSelect, Stack, Text } from '@mantine/core';
import { useEffect, useState, type ReactNode } from 'react';
import { vmActions } from '../../../core/domain/vm';
import type { VmRow } from '../../../core/wire/rest';
import { call, newKey, saw } from './api';
import { useAll } from './live';
import { Confirm } from './parts';
import { inTurn } from './vm-actions';

/** Where each would go, or why it does not. */
type Checked = ReadonlyMap<string, { readonly to: string | null; readonly why: string }>;

const reasonsShown = 8;

/** Live migration of many VMs: first where each would go and what stays, then a few at a time. */
export function BulkMigrate({
  vms,
  done,
}: {
  readonly vms: readonly VmRow[];
  readonly done: () => void;
}): ReactNode {
  const [node, setNode] = useState('');
  const [checked, setChecked] = useState<Checked | null>(null);
  const nodes = useAll('node').filter((n) => !n.record.witness && n.record.desired === 'active');
  const running = vms.filter((v) => vmActions[v.phase].includes('migrate'));
  const going = running.filter((v) => typeof checked?.get(v.id)?.to === 'string');
  return (
    <Confirm
      label="Migrate"
      disabled={running.length === 0}
      title={`Move ${running.length} ${running.length === 1 ? 'VM' : 'VMs'} while they run?`}
      says={
        <Stack gap="xs">
          <NativeSelect
            label="To"
            value={node}
            data={[
              { value: '', label: 'The node that fits each best' },
              ...nodes.map((n) => ({ value: n.id, label: n.id })),
            ]}
            onChange={(e) => {
              setChecked(null);
              setNode(e.currentTarget.value);
            }}
          />
          <Check key={node} vms={running} node={node} set={setChecked} />
          {checked !== null && <Impact vms={vms} running={running} checked={checked} />}
        </Stack>
      }
      ready={going.length > 0}
      yes={going.length === 0 ? 'Migrate' : `Migrate ${going.length}`}
      act={() =>
        inTurn(going, async (v) => {
          const body = node === '' ? {} : { node };
          saw('op', (await call('vmMigrate', { params: { vm: v.id }, body }, { key: newKey() })).op);
        })
      }
      done={done}
    />
  );
}

/** Asks for each, once, when the dialog is open. */
function Check(p: {
  readonly vms: readonly VmRow[];
  readonly node: string;
  readonly set: (c: Checked) => void;
}): ReactNode {
  const [left, setLeft] = useState(p.vms.length);
  useEffect(() => {
    let closed = false;
    const found = new Map<string, { to: string | null; why: string }>();
    const one = async (v: VmRow): Promise<void> => {
      if (closed) return;
      try {
        const query = p.node === '' ? {} : { node: p.node };
        const c = await call('vmMigrateCheck', { params: { vm: v.id }, query });
        const why =
          c.blockers[0]?.text ?? c.nodes.find((n) => n.blockers.length > 0)?.blockers[0]?.text ?? '';
        found.set(v.id, { to: c.to, why });
      } catch (e) {
        found.set(v.id, { to: null, why: e instanceof Error ? e.message : String(e) });
      }
      if (!closed) setLeft(p.vms.length - found.size);
    };
    void inTurn(p.vms, one).finally(() => {
      if (!closed) p.set(found);
    });
    return () => {
      closed = true;
    };
    // Asked of those that were chosen as it was opened.
  }, []);
  return left === 0 ? null : <Text size="sm">Looks where they could go: {left} left…</Text>;
}

function Impact(p: {
  readonly vms: readonly VmRow[];
  readonly running: readonly VmRow[];
  readonly checked: Checked;
}): ReactNode {
  const to = new Map<string, number>();
  for (const { to: at } of p.checked.values()) if (at !== null) to.set(at, (to.get(at) ?? 0) + 1);
  const stuck = p.running.filter((v) => p.checked.get(v.id)?.to === null);
  const off = p.vms.length - p.running.length;
  const where = [...to].sort().map(([n, count]) => `${count} to ${n}`);
  return (
    <List size="sm">
      <List.Item>{where.length === 0 ? 'None can move' : where.join(', ')}</List.Item>
      {off > 0 && <List.Item>{off} left out: they do not run</List.Item>}
      {stuck.slice(0, reasonsShown).map((v) => (
        <List.Item key={v.id}>
          {v.name} stays: {p.checked.get(v.id)?.why}
        </List.Item>
      ))}
      {stuck.length > reasonsShown && <List.Item>and {stuck.length - reasonsShown} more stay</List.Item>}
      <List.Item>A node sends and takes a few at a time; the others wait their turn.</List.Item>
    </List>
  );
}
