import { Alert, Button, Group, List, SimpleGrid, Stack, Text, TextInput } from '@mantine/core';
import { useEffect, useState, type ReactNode } from 'react';
import { formatSize, formatSpan } from '../../../core/domain/units';
import type { NodeView, RestAnswer, VmRow } from '../../../core/wire/rest';
import { call, saw, useDo } from './api';
import { HistoryOf } from './history';
import { useAll, useOne } from './live';
import { ActivateNode, DrainNode, DrainProgress } from './node-drain';
import { Age, Confirm, Facts, Page, Refusal, Rows, Share, State, To } from './parts';
import { May } from './may';
import { PowerProgress, SleepNode, WakeNode } from './power';

export function NodePage({ id, tab }: { readonly id: string; readonly tab: string | undefined }): ReactNode {
  const node = useOne('node', id);
  const vms = useAll('vm').filter((v) => v.node === id);
  if (node === undefined)
    return (
      <Alert color="yellow" title={`There is no node "${id}"`}>
        <To to="/nodes">All nodes</To>
      </Alert>
    );
  return (
    <Page
      kind={node.record.witness ? 'Witness' : 'Node'}
      name={id}
      state={
        <Group gap={4}>
          <State of={node.record.asleep !== undefined && !node.live ? 'asleep' : node.presence} />
          {node.record.desired !== 'active' && <State of={node.record.desired} />}
        </Group>
      }
      actions={
        <May role="admin">
          <NodeActions node={node} vms={vms} />
        </May>
      }
      note={
        node.problems.length > 0 && (
          <Alert color="yellow" variant="light">
            <List size="sm">
              {node.problems.map((p) => (
                <List.Item key={p}>{p}</List.Item>
              ))}
            </List>
          </Alert>
        )
      }
      at={`/nodes/${id}`}
      tab={tab}
      tabs={[
        { id: 'summary', label: 'Summary', show: () => <Summary node={node} /> },
        { id: 'performance', label: 'Performance', show: () => <HistoryOf of="node" id={id} /> },
        {
          id: 'vms',
          label: `VMs (${vms.length})`,
          show: () => (
            <Stack>
              <VmRows vms={vms} />
              <TwinRows node={id} />
            </Stack>
          ),
        },
        { id: 'if-it-fails', label: 'If it fails', show: () => <IfItFails node={node} vms={vms} /> },
        { id: 'hardware', label: 'Hardware', show: () => <Hardware node={node} /> },
        { id: 'hears', label: 'Whom it hears', show: () => <Hears node={node} /> },
      ]}
    />
  );
}

function NodeActions({ node, vms }: { readonly node: NodeView; readonly vms: readonly VmRow[] }): ReactNode {
  const { asleep, desired } = node.record;
  return (
    <>
      {asleep === undefined &&
        (desired === 'active' ? <DrainNode node={node} /> : <ActivateNode node={node} />)}
      {asleep !== undefined && <WakeNode node={node} />}
      {asleep === undefined && !node.record.voter && !node.record.witness && node.live && (
        <SleepNode node={node} />
      )}
      <StorageAddress node={node} />
      {!node.live && asleep === undefined && <ConfirmOff node={node} vms={vms} />}
    </>
  );
}

/** Where copies of disks reach it. */
function StorageAddress({ node }: { readonly node: NodeView }): ReactNode {
  const [address, setAddress] = useState(node.record.addresses[1] ?? '');
  return (
    <Confirm
      label="Storage address"
      title={`Where do copies of disks reach ${node.id}?`}
      says={
        <Stack gap="xs">
          <TextInput
            label="Address on the storage network"
            description="Empty: copies take the management network."
            placeholder="10.9.0.1"
            value={address}
            onChange={(e) => setAddress(e.currentTarget.value)}
          />
          <Text size="sm">
            Copies between two nodes that both have one are connected anew over it, one VM after the other.
            For about a second each has one copy only.
          </Text>
        </Stack>
      }
      yes="Set it"
      act={async () => {
        const storageAddress = address.trim() === '' ? null : address.trim();
        saw('node', await call('nodePatch', { params: { node: node.id }, body: { storageAddress } }));
      }}
    />
  );
}

/** The one button by which a person could make a VM run twice: it says so. */
function ConfirmOff({ node, vms }: { readonly node: NodeView; readonly vms: readonly VmRow[] }): ReactNode {
  const bare = vms.filter((v) => v.ha.state !== 'off').length;
  return (
    <Confirm
      label="It is off: I vouch for it"
      danger
      title={`Is ${node.id} really off?`}
      says={
        <Stack gap="xs">
          <Text size="sm">
            Only somebody who saw that {node.id} has no power may say yes. Its {bare} VMs with protection then
            start elsewhere at once.
          </Text>
          <Text size="sm" fw={700}>
            If it still runs, these VMs run twice and destroy their disks.
          </Text>
        </Stack>
      }
      yes="I saw it: it is off"
      act={() => call('nodeConfirmOff', { params: { node: node.id } })}
    />
  );
}

function Summary({ node }: { readonly node: NodeView }): ReactNode {
  const s = node.state;
  const pools = useAll('pool');
  return (
    <Stack>
      <PowerProgress node={node} />
      <DrainProgress node={node} />
      {s !== null && (
        <SimpleGrid cols={{ base: 1, sm: 2 }}>
          <Share
            label="CPU"
            used={s.cpuUsedPct}
            of={100}
            text={`${Math.round(s.cpuUsedPct)} % of ${s.cpus}`}
          />
          <Share
            label="Memory in use"
            used={s.memoryUsedBytes}
            of={s.memoryBytes}
            text={`${formatSize(s.memoryUsedBytes)} of ${formatSize(s.memoryBytes)}`}
          />
          {s.pools.map((p) => (
            <Share
              key={p.pool}
              label={`Pool ${pools.find((x) => x.id === p.pool)?.name ?? p.pool}`}
              used={p.totalBytes - p.freeBytes}
              of={p.totalBytes}
              text={p.ok ? `${formatSize(p.freeBytes)} of ${formatSize(p.totalBytes)} free` : p.text}
            />
          ))}
        </SimpleGrid>
      )}
      <Facts
        of={[
          ['Heard', <Age ms={node.heardMs} />],
          ['Lease in the ledger', node.live ? 'stands' : 'is gone'],
          ['Address', node.record.addresses[0] ?? 'none'],
          ['Storage address', node.record.addresses[1] ?? 'none: copies take the management network'],
          ['Ledger', node.record.voter ? 'a voter' : 'a client'],
          ['Rack', node.record.rack ?? 'none said'],
          s !== null && ['Agent', `${s.version}, up ${formatSpan(Date.now() - s.upSinceMs)}`],
          s !== null && [
            'Guests run by',
            s.accel === null ? 'not known yet' : s.accel === 'kvm' ? 'KVM' : 'emulation (TCG)',
          ],
          s !== null && ['QEMU, libvirt', `${s.qemu ?? '?'}, ${s.libvirt ?? '?'}`],
          s !== null && [
            'Promised to VMs',
            `${node.committedCpus} CPUs, ${formatSize(node.committedMemoryMiB * 2 ** 20)}`,
          ],
          s !== null &&
            s.keeper !== null && ['Keeper', `${s.keeper.mode.toUpperCase()}, ${s.keeper.armed} VMs armed`],
          s !== null && s.keeper !== null && ['Watchdog', s.keeper.watchdog],
          s !== null && s.keeper !== null && !s.keeper.armable && ['Would not arm', s.keeper.why],
          ['Fingerprint', <code>{node.record.fingerprint.slice(0, 16)}…</code>],
        ]}
      />
      <Bmc node={node.id} />
    </Stack>
  );
}

/** A try takes two logins of a slow BMC. */
const bmcTestMs = 60_000;

/** How it is powered off from outside, and a try of that. */
function Bmc({ node }: { readonly node: string }): ReactNode {
  const [bmc, setBmc] = useState<RestAnswer<'bmcGet'> | null>(null);
  const [test, setTest] = useState<RestAnswer<'bmcTestGet'> | null>(null);
  const { busy, refused, run } = useDo();
  const params = { node };
  useEffect(() => {
    setBmc(null);
    setTest(null);
    const ask = async (): Promise<void> => {
      const set = await call('bmcGet', { params: { node } });
      setBmc(set);
      if (set !== null) setTest(await call('bmcTestGet', { params: { node } }));
    };
    ask().catch(() => undefined);
  }, [node]);
  if (bmc === null) return null;
  const tryIt = async (): Promise<void> => {
    setTest(await call('bmcTest', { params }));
    for (const endMs = Date.now() + bmcTestMs; Date.now() < endMs;) {
      await new Promise((done) => setTimeout(done, 1_000));
      const now = await call('bmcTestGet', { params });
      setTest(now);
      if (now?.result !== null) return;
    }
  };
  const result = test?.result ?? null;
  const bad = result !== null && (result.power === null || result.machine === 'other');
  return (
    <Stack gap="xs">
      <Facts
        of={[
          ['Fencing device', `${bmc.kind === 'ipmi' ? 'IPMI' : 'Redfish'} at ${bmc.address}`],
          test !== null && ['Last try', result === null ? 'under way, or nobody did it' : result.text],
        ]}
      />
      {bad && (
        <Alert color="red" variant="light" title="It would not help if this node failed">
          {result.text}
        </Alert>
      )}
      <Group>
        <Button size="xs" variant="default" loading={busy} onClick={() => void run(tryIt)}>
          Try the fencing device
        </Button>
      </Group>
      <Refusal of={refused} />
    </Stack>
  );
}

/** Machines here that are not its own: they go on where their VM's node dies. */
function TwinRows({ node }: { readonly node: string }): ReactNode {
  const twins = useAll('vm').filter((v) => v.pair?.twin === node);
  if (twins.length === 0) return null;
  return (
    <Rows
      label="Twins of VMs of other nodes"
      head={['Twin of', 'On', 'State', 'Memory']}
      none=""
      rows={twins.map((v) => ({
        key: v.id,
        cells: [
          <To to={`/vms/${v.id}`}>{v.name}</To>,
          v.node === null ? 'none' : <To to={`/nodes/${v.node}`}>{v.node}</To>,
          <State of={v.pair?.state ?? 'alone'} />,
          formatSize(v.memoryMiB * 2 ** 20),
        ],
      }))}
    />
  );
}

function VmRows({ vms }: { readonly vms: readonly VmRow[] }): ReactNode {
  return (
    <Rows
      label="VMs"
      head={['VM', 'State', 'Protection', 'Memory', 'Address']}
      none="It owns no VM."
      rows={vms.map((v) => ({
        key: v.id,
        cells: [
          <To to={`/vms/${v.id}`}>{v.name}</To>,
          <State of={v.phase} />,
          v.ha.state === 'off' ? '–' : <State of={v.ha.state} />,
          formatSize(v.memoryMiB * 2 ** 20),
          v.addresses.join(', '),
        ],
      }))}
    />
  );
}

/** What the cluster would do without this node, from the standbys that the ledger names now. */
function IfItFails({ node, vms }: { readonly node: NodeView; readonly vms: readonly VmRow[] }): ReactNode {
  const on = vms.filter((v) => v.phase !== 'stopped');
  const back = on.filter((v) => v.ha.state === 'protected' && v.ha.standby !== null);
  const twins = back.filter((v) => v.pair !== null).length;
  const down = on.filter((v) => !back.includes(v));
  const by = new Map<string, VmRow[]>();
  for (const v of back) by.set(v.ha.standby ?? '', [...(by.get(v.ha.standby ?? '') ?? []), v]);
  return (
    <Stack>
      <Text>
        {on.length === 0
          ? `Nothing runs on ${node.id}: nothing would be missed.`
          : `${back.length - twins} of ${on.length} VMs that are on would start elsewhere by themselves${twins === 0 ? '' : `, ${twins} would go on with their twins`}; ${down.length} would stay down.`}
      </Text>
      <Rows
        label="Where they would start"
        head={['Standby', 'VMs', 'Memory', 'Which']}
        none=""
        rows={[...by].map(([standby, list]) => ({
          key: standby,
          cells: [
            <To to={`/nodes/${standby}`}>{standby}</To>,
            list.length,
            formatSize(list.reduce((n, v) => n + v.memoryMiB, 0) * 2 ** 20),
            list
              .slice(0, 12)
              .map((v) => v.name)
              .join(', ') + (list.length > 12 ? ' …' : ''),
          ],
        }))}
      />
      {down.length > 0 && (
        <Rows
          label="What would stay down"
          head={['Would stay down', 'Why']}
          none=""
          rows={down.map((v) => ({
            key: v.id,
            cells: [
              <To to={`/vms/${v.id}`}>{v.name}</To>,
              v.ha.state === 'off' ? 'protection is not asked for' : v.ha.text,
            ],
          }))}
        />
      )}
    </Stack>
  );
}

function Hardware({ node }: { readonly node: NodeView }): ReactNode {
  const f = node.state?.facts ?? null;
  if (f === null) return <Text c="dimmed">The node has not told of its hardware yet.</Text>;
  return (
    <Stack>
      <Facts
        of={[
          ['Processor', `${f.cpuModel}, ${f.cpuCores} cores`],
          ['Memory', formatSize(f.memoryBytes)],
          ['System', `${f.os}, kernel ${f.kernel}`],
          ['Hottest sensor', f.temperatureC === null ? 'none' : `${f.temperatureC} °C`],
        ]}
      />
      <Rows
        label="Drives"
        head={['Drive', 'Model', 'Size']}
        none="No drive was found."
        rows={f.drives.map((d) => ({ key: d.name, cells: [d.name, d.model, formatSize(d.sizeBytes)] }))}
      />
      <Rows
        label="Network cards"
        head={['Card', 'MAC', 'Addresses', 'Speed', 'Link']}
        none="No network card was found."
        rows={f.nics.map((n) => ({
          key: n.name,
          cells: [
            n.name,
            n.mac,
            n.addresses.join(', '),
            n.mbit === null ? '?' : `${n.mbit} Mbit/s`,
            n.up ? 'up' : 'down',
          ],
        }))}
      />
    </Stack>
  );
}

function Hears({ node }: { readonly node: NodeView }): ReactNode {
  const hears = Object.entries(node.state?.hears ?? {}).sort();
  return (
    <Rows
      label="Whom it hears"
      head={['Node', 'Last beat, as this node said']}
      none="It hears nobody."
      rows={hears.map(([id, ms]) => ({
        key: id,
        cells: [<To to={`/nodes/${id}`}>{id}</To>, ms < 1_500 ? 'just now' : `${formatSpan(ms)} before`],
      }))}
    />
  );
}
