import type { ReactNode } from 'react';
import { nodeDesiredSchema } from '../../../core/domain/node';
import { formatSize } from '../../../core/domain/units';
import { fieldFits, FilterBar, textFits, useFilter } from './filter';
import { useAll } from './live';
import type { NodeView } from '../../../core/wire/rest';
import { AddNode } from './node-add';
import { Age, Page, Rows, State, To } from './parts';

const presenceOf = (n: NodeView): string =>
  n.record.asleep !== undefined && !n.live ? 'asleep' : n.presence;

export function NodesPage(): ReactNode {
  const all = useAll('node');
  const filter = useFilter('/nodes');
  const { q } = filter;
  const nodes = all.filter(
    (n) =>
      fieldFits(q, 'presence', presenceOf(n)) &&
      fieldFits(q, 'wanted', n.record.desired) &&
      fieldFits(q, 'rack', n.record.rack) &&
      textFits(q, n.id, ...n.record.addresses, ...n.problems),
  );
  const racks = [...new Set(all.flatMap((n) => n.record.rack ?? []))].sort();
  return (
    <Page kind={`${all.length} in all, ${nodes.length} shown`} name="Nodes" actions={<AddNode />}>
      <FilterBar
        filter={filter}
        text="Name, address or what to look at"
        fields={[
          { name: 'presence', label: 'Presence', options: [...new Set(all.map(presenceOf))].sort() },
          { name: 'wanted', label: 'Wanted', options: nodeDesiredSchema.options },
          ...(racks.length === 0 ? [] : [{ name: 'rack', label: 'Rack', options: racks }]),
        ]}
      />
      <Rows
        label="Nodes"
        head={['Node', 'Presence', 'Wanted', 'VMs', 'CPU', 'Memory promised', 'Rack', 'Heard', 'To look at']}
        none="No node is like that."
        rows={nodes.map((n) => ({
          key: n.id,
          cells: [
            <To to={`/nodes/${n.id}`}>{n.id}</To>,
            <State of={presenceOf(n)} />,
            <State of={n.record.desired} />,
            n.record.witness ? 'a witness' : n.vms,
            n.state === null ? '?' : `${Math.round(n.state.cpuUsedPct)} % of ${n.state.cpus}`,
            `${formatSize(n.committedMemoryMiB * 2 ** 20)}${n.state === null ? '' : ` of ${formatSize(n.state.memoryBytes)}`}`,
            n.record.rack ?? '–',
            <Age ms={n.heardMs} />,
            n.problems.length === 0 ? '–' : n.problems.join('; '),
          ],
        }))}
      />
    </Page>
  );
}
