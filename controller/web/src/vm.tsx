import { Alert, Code, Group, List, Stack, Text } from '@mantine/core';
import type { ReactNode } from 'react';
import { copyLine } from '../../../core/domain/copy-words';
import { isReplicated } from '../../../core/domain/disk';
import { isDetached } from '../../../core/domain/vm';
import { settingWords } from '../../../core/decide/service-class';
import { formatSize, formatSpan } from '../../../core/domain/units';
import type { VmRow, VmView } from '../../../core/wire/rest';
import { useAsked } from './api';
import { Console } from './console';
import { ExportVm } from './export';
import { Copies, CopyBadge } from './copies';
import { HistoryOf } from './history';
import { useAll, useOne } from './live';
import { May, useMay } from './may';
import { Age, Facts, NotYet, Page, Rows, State, To } from './parts';
import { OpRows, useOps } from './tasks';
import { VmActions } from './vm-actions';
import { OtherStandby, RepairCopies } from './vm-copies';
import { AddDisk, DiskActions } from './vm-disks';
import { EditVm } from './vm-edit';
import { Levels } from './vm-protection';
import { Snapshots } from './vm-snapshots';

export function VmPage({ id, tab }: { readonly id: string; readonly tab: string | undefined }): ReactNode {
  const row = useOne('vm', id);
  if (row === undefined)
    return (
      <Alert color="yellow" title="There is no such VM">
        <To to="/vms">All VMs</To>
      </Alert>
    );
  return <KnownVm row={row} tab={tab} />;
}

function KnownVm({ row, tab }: { readonly row: VmRow; readonly tab: string | undefined }): ReactNode {
  const { id } = row;
  const may = useMay('operator', id);
  // Asked anew as the stream says that it changed: it carries rows, the page wants everything.
  const { value: vm, refused } = useAsked('vmGet', { params: { vm: id } }, row);
  if (vm === null) return <NotYet refused={refused} />;
  return (
    <Page
      kind="VM"
      name={row.name}
      state={<State of={row.phase} />}
      actions={<VmActions vm={row} />}
      note={<Notes vm={vm} />}
      at={`/vms/${id}`}
      tab={tab}
      tabs={[
        { id: 'summary', label: 'Summary', show: () => <Summary vm={vm} /> },
        { id: 'performance', label: 'Performance', show: () => <HistoryOf of="vm" id={id} /> },
        ...(may
          ? [
              { id: 'screen', label: 'Screen', show: () => <Console vm={row} kind="vnc" /> },
              { id: 'serial', label: 'Serial console', show: () => <Console vm={row} kind="serial" /> },
            ]
          : []),
        { id: 'disks', label: 'Disks', show: () => <Disks vm={vm} /> },
        { id: 'snapshots', label: 'Snapshots', show: () => <Snapshots vm={vm} /> },
        { id: 'networks', label: 'Networks', show: () => <Nics vm={vm} /> },
        { id: 'protection', label: 'Protection', show: () => <Protection vm={vm} /> },
        ...(may
          ? [{ id: 'settings', label: 'Settings', show: () => <EditVm key={vm.generation} vm={vm} /> }]
          : []),
        { id: 'operations', label: 'Operations', show: () => <Ops id={id} /> },
      ]}
    />
  );
}

/** What somebody should know before anything else. */
function Notes({ vm }: { readonly vm: VmView }): ReactNode {
  const lines = [
    ...(vm.reason === '' ? [] : [vm.reason]),
    ...(vm.error === null ? [] : [`${vm.error.message}. ${vm.error.hint}`]),
    ...vm.problems,
    ...(vm.ha.state === 'unprotected' ? [vm.ha.text] : []),
    ...(vm.pendingRestart.length === 0 ? [] : [`Waits for a restart: ${vm.pendingRestart.join(', ')}`]),
  ];
  if (lines.length === 0) return null;
  return (
    <Alert color="yellow" variant="light">
      <List size="sm">
        {lines.map((l) => (
          <List.Item key={l}>{l}</List.Item>
        ))}
      </List>
    </Alert>
  );
}

function Summary({ vm }: { readonly vm: VmView }): ReactNode {
  const stats = vm.observed?.stats ?? null;
  return (
    <Stack>
      <Facts
        of={[
          ['Node', vm.node === null ? 'none' : <To to={`/nodes/${vm.node}`}>{vm.node}</To>],
          ['Up', vm.upSinceMs === null ? 'no' : <span>since {new Date(vm.upSinceMs).toLocaleString()}</span>],
          ['CPUs', `${vm.cpus}${vm.cpuPct === null ? '' : `, ${Math.round(vm.cpuPct)} % used`}`],
          [
            'Memory',
            `${formatSize(vm.memoryMiB * 2 ** 20)}${vm.memoryUsedBytes === null ? '' : `, ${formatSize(vm.memoryUsedBytes)} used`}`,
          ],
          ['Disks', formatSize(vm.diskBytes)],
          ['Addresses', vm.addresses.length === 0 ? 'none known' : vm.addresses.join(', ')],
          ['Host name', vm.hostname ?? 'not known'],
          ['Guest agent', vm.guestAgent ? 'answers' : 'does not answer'],
          ['Firmware', vm.spec.firmware.toUpperCase()],
          ['Class', vm.className === null ? 'none' : <To to="/classes">{vm.className}</To>],
          ['Tags', vm.tags.length === 0 ? 'none' : vm.tags.join(', ')],
          ['Heard of it', <Age ms={vm.heardMs} />],
          stats !== null && [
            'Disk',
            `${formatSize(stats.diskReadBps)}/s read, ${formatSize(stats.diskWriteBps)}/s written`,
          ],
          stats !== null && [
            'Network',
            `${formatSize(stats.netRxBps)}/s in, ${formatSize(stats.netTxBps)}/s out`,
          ],
        ]}
      />
      {vm.spec.note !== '' && <Text className="note">{vm.spec.note}</Text>}
      <Text size="xs" c="dimmed">
        Id <Code>{vm.id}</Code>
      </Text>
    </Stack>
  );
}

function Disks({ vm }: { readonly vm: VmView }): ReactNode {
  const pools = useAll('pool');
  const may = useMay('operator', vm.id);
  const left = vm.own?.left ?? [];
  return (
    <Stack>
      <May role="operator" vm={vm.id}>
        <Group>
          <AddDisk vm={vm} />
          <OtherStandby vm={vm} />
          <ExportVm vm={vm} />
        </Group>
        <RepairCopies vm={vm} />
      </May>
      {left.length > 0 && (
        <Text size="sm">
          Files of its disks that are not its data any more are on {left.join(', ')}: they are wiped when the
          node is there.
        </Text>
      )}
      <Rows
        label="Disks"
        head={['Disk', 'Size', 'Pool', 'Where', 'State', ...(may ? ['Change'] : [])]}
        none="It has no disk."
        rows={vm.disks.map((d) => {
          const pool = pools.find((p) => p.id === d.pool);
          const copies = vm.observed?.copies?.find((c) => c.disk === d.id);
          return {
            key: d.id,
            cells: [
              d.name,
              formatSize(d.sizeBytes),
              pool === undefined ? d.pool : <To to={`/pools/${pool.id}`}>{pool.name}</To>,
              isReplicated(d) ? (
                <Group gap={4}>
                  <Copies own={vm.own} words={copies} />
                </Group>
              ) : d.node === null ? (
                'every node of the pool'
              ) : (
                <CopyBadge node={d.node} says="the only copy" well={null} />
              ),
              <>
                {isDetached(vm.spec, d.id) ? 'not in the machine' : <State of={d.state} />} {d.error?.message}
                {copies !== undefined && (
                  <Text size="sm" c={copies.state === 'in-sync' ? 'dimmed' : 'orange'}>
                    {copyLine(copies)}
                  </Text>
                )}
              </>,
              ...(may ? [<DiskActions vm={vm} disk={d} />] : []),
            ],
          };
        })}
      />
    </Stack>
  );
}

function Nics({ vm }: { readonly vm: VmView }): ReactNode {
  const networks = useAll('network');
  return (
    <Rows
      label="Network cards"
      head={['Network', 'MAC', 'Address', 'Card']}
      none="It has no network card."
      rows={vm.spec.nics.map((n) => ({
        key: n.mac,
        cells: [
          <To to={`/networks/${n.network}`}>
            {networks.find((x) => x.id === n.network)?.name ?? n.network}
          </To>,
          <Code>{n.mac}</Code>,
          n.address ?? 'by the network itself',
          n.model,
        ],
      }))}
    />
  );
}

const haWords: Readonly<Record<VmView['ha']['state'], string>> = {
  off: 'Not protected: when its node fails it stays off until the node is back.',
  protected: 'Protected: when its node fails it starts on its standby, about 12 s later.',
  unprotected: 'It asks for protection and does not have it now.',
  paused: 'Protection is paused for the whole cluster.',
};

function Protection({ vm }: { readonly vm: VmView }): ReactNode {
  const { ha } = vm.spec;
  return (
    <Stack>
      {vm.pair === null && (
        <Text>
          {haWords[vm.ha.state]} {vm.ha.text}
        </Text>
      )}
      <Levels vm={vm} />
      <Facts
        of={[
          [
            'Standby',
            vm.ha.standby === null ? 'none' : <To to={`/nodes/${vm.ha.standby}`}>{vm.ha.standby}</To>,
          ],
          ['Asked for', ha.enabled ? 'yes' : 'no'],
          ['Priority', `${ha.priority} of 100`],
          ['Starts after', vm.afterNames.length === 0 ? 'no other' : vm.afterNames.join(', ')],
          ['When the guest hangs', ha.onHang === 'reset' ? 'reset it' : 'do nothing'],
          ['Restarts an hour at most', ha.restartsPerHourMax],
          vm.own !== null && ['Ownership', `generation ${vm.own.gen}, ${vm.own.state}`],
          vm.own !== null && [
            'Fence',
            vm.own.fence.armed ? `armed; others wait ${formatSpan(vm.own.fence.waitMs)}` : 'not armed',
          ],
        ]}
      />
      {vm.className !== null && (
        <Rows
          label="Service class"
          head={['Setting', 'Is', 'Said by']}
          none="The class says nothing."
          rows={vm.settings.map((s) => ({
            key: s.setting,
            cells: [
              settingWords[s.setting],
              s.text,
              s.by === 'class' ? `class ${vm.className}` : s.by === 'own' ? 'its own' : 'not by the class',
            ],
          }))}
        />
      )}
    </Stack>
  );
}

function Ops({ id }: { readonly id: string }): ReactNode {
  return <OpRows ops={useOps().filter((o) => o.subject.id === id)} />;
}
