import type { ReactNode } from 'react';
import { formatSize } from '../../../core/domain/units';
import { useAll } from './live';
import { AddNode } from './node-add';
import { Age, Page, Rows, State, To } from './parts';

export function NodesPage(): ReactNode {
  const nodes = useAll('node');
  return (
    <Page kind={`${nodes.length} in all`} name="Nodes" actions={<AddNode />}>
      <Rows
        label="Nodes"
        head={['Node', 'Presence', 'Wanted', 'VMs', 'CPU', 'Memory promised', 'Rack', 'Heard', 'To look at']}
        none="There is no node."
        rows={nodes.map((n) => ({
          key: n.id,
          cells: [
            <To to={`/nodes/${n.id}`}>{n.id}</To>,
            <State of={n.record.asleep !== undefined && !n.live ? 'asleep' : n.presence} />,
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
