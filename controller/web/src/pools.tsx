import {
  Alert,
  Checkbox,
  Group,
  MultiSelect,
  NativeSelect,
  NumberInput,
  Stack,
  Text,
  TextInput,
} from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { useLocation } from 'wouter';
import { isReplicated } from '../../../core/domain/disk';
import { poolHasNode, poolKindSchema, type PoolDrive, type PoolKind } from '../../../core/domain/pool';
import { formatSize } from '../../../core/domain/units';
import type { NodeView, PoolView } from '../../../core/wire/rest';
import { call, newKey, saw, useAsked } from './api';
import { CopyBadge } from './copies';
import { fieldFits, FilterBar, textFits, useFilter } from './filter';
import { useAll, useOne } from './live';
import { May } from './may';
import { Age, Confirm, Facts, FirstOf, FormDialog, NotYet, Page, Rows, Share, State, To } from './parts';

const kindWords: Readonly<Record<PoolKind, string>> = {
  local: 'A directory of each node: disks stay on their node, and are lost with it.',
  thin: 'Drives of each node: disks take what is really written. With a copy on a second node no write is lost with one; those with one copy are lost with their node.',
  shared: 'One directory that all its nodes mount: any of them can run its VMs.',
};

/** What it has and what is left; a shared one is the same everywhere. */
function roomOf(pool: PoolView): { total: number; free: number } {
  const uses = pool.kind === 'shared' ? pool.use.slice(0, 1) : pool.use;
  return {
    total: uses.reduce((n, u) => n + u.totalBytes, 0),
    free: uses.reduce((n, u) => n + u.freeBytes, 0),
  };
}

const unwell = (pool: PoolView): number => pool.use.filter((u) => !u.ok).length;

export function PoolsPage(): ReactNode {
  const all = useAll('pool');
  const filter = useFilter('/pools');
  const { q } = filter;
  const pools = all.filter(
    (p) =>
      fieldFits(q, 'kind', p.kind) &&
      fieldFits(q, 'is', unwell(p) === 0 ? 'well' : 'unwell') &&
      textFits(q, p.name, ...(p.nodes ?? [])),
  );
  return (
    <Page
      kind="Where disks and images lie"
      name="Storage"
      actions={
        <May role="admin">
          <NewPool />
        </May>
      }
    >
      {all.length > 0 && (
        <FilterBar
          filter={filter}
          text="Name or node"
          fields={[
            { name: 'kind', label: 'Kind', options: poolKindSchema.options },
            {
              name: 'is',
              label: 'How it is',
              options: [
                { value: 'well', label: 'well' },
                { value: 'unwell', label: 'not well' },
              ],
            },
          ]}
        />
      )}
      <Rows
        label="Pools"
        head={['Pool', 'Kind', 'Free', 'Nodes', 'Disks', 'Images', 'How it is']}
        none={all.length > 0 ? 'No pool is like that.' : 'There is no pool yet.'}
        rows={pools.map((p) => {
          const { total, free } = roomOf(p);
          return {
            key: p.id,
            cells: [
              <To to={`/pools/${p.id}`}>{p.name}</To>,
              p.kind,
              `${formatSize(free)} of ${formatSize(total)}`,
              p.nodes === null ? 'all' : p.nodes.join(', '),
              p.disks,
              p.images,
              unwell(p) === 0 ? 'well' : <Text c="red">not well on {unwell(p)}</Text>,
            ],
          };
        })}
      />
    </Page>
  );
}

export function PoolPage({ id, tab }: { readonly id: string; readonly tab: string | undefined }): ReactNode {
  const pool = useOne('pool', id);
  if (pool === undefined)
    return (
      <Alert color="yellow" title="There is no such pool">
        It may have been deleted. <To to="/pools">To the pools</To>
      </Alert>
    );
  return (
    <Page
      kind="Pool"
      name={pool.name}
      state={<State of={unwell(pool) === 0 ? 'ready' : 'failed'} />}
      actions={
        <May role="admin">
          <PoolActions key={pool.revision} pool={pool} />
        </May>
      }
      note={<Text size="sm">{kindWords[pool.kind]}</Text>}
      at={`/pools/${id}`}
      tab={tab}
      tabs={[
        { id: 'summary', label: 'Summary', show: () => <Summary pool={pool} /> },
        { id: 'disks', label: `Disks (${pool.disks})`, show: () => <Disks pool={pool} /> },
        { id: 'images', label: `Images (${pool.images})`, show: () => <Images pool={pool} /> },
        ...(pool.kind === 'thin'
          ? [{ id: 'drives', label: 'Drives', show: () => <Drives pool={pool} /> }]
          : []),
      ]}
    />
  );
}

function Summary({ pool }: { readonly pool: PoolView }): ReactNode {
  const { total, free } = roomOf(pool);
  const promised = pool.use.reduce((n, u) => n + (u.thin?.promisedBytes ?? 0), 0);
  return (
    <Stack>
      <Share
        label="In use"
        used={total - free}
        of={total}
        text={`${formatSize(free)} of ${formatSize(total)} free`}
      />
      <Facts
        of={[
          ['Kind', pool.kind],
          ['Path', <code>{pool.path}</code>],
          ['Nodes', pool.nodes === null ? 'all' : pool.nodes.join(', ')],
          ['Kept free', `${pool.reservePct} %: below that new disks are refused`],
          promised > 0 && ['Its disks may grow to', formatSize(promised)],
        ]}
      />
      <Rows
        label="On each node"
        head={['Node', 'Free', 'How it is', 'Heard']}
        none="No node has told of it yet."
        rows={pool.use.map((u) => ({
          key: u.node,
          cells: [
            <To to={`/nodes/${u.node}`}>{u.node}</To>,
            `${formatSize(u.freeBytes)} of ${formatSize(u.totalBytes)}`,
            u.ok ? `well${u.text === '' ? '' : `: ${u.text}`}` : <Text c="red">{u.text}</Text>,
            <Age ms={u.heardMs} />,
          ],
        }))}
      />
    </Stack>
  );
}

/** More than a person reads; the rest is found by VM. */
const disksMax = 500;

function Disks({ pool }: { readonly pool: PoolView }): ReactNode {
  const vms = useAll('vm');
  const query = { pool: pool.id, limit: disksMax };
  const { value, refused } = useAsked('diskList', { query }, pool.disks);
  if (value === null) return <NotYet refused={refused} />;
  return (
    <Stack>
      <FirstOf page={value} />
      <Rows
        label="Disks"
        head={['VM', 'Disk', 'Size', 'Where', 'State']}
        none="No disk lies here."
        rows={value.items.map((d) => {
          const vm = vms.find((v) => v.id === d.vm);
          return {
            key: d.id,
            cells: [
              vm === undefined ? (d.vmName ?? 'of no VM') : <To to={`/vms/${vm.id}/disks`}>{vm.name}</To>,
              d.name,
              formatSize(d.sizeBytes),
              isReplicated(d) ? (
                <Group gap={4}>
                  {[vm?.node, vm?.ha.standby].map(
                    (n) => n !== null && n !== undefined && <CopyBadge key={n} node={n} well={null} />,
                  )}
                  <Text size="sm">two copies</Text>
                </Group>
              ) : (
                (d.node ?? 'every node of the pool')
              ),
              <State of={d.state} />,
            ],
          };
        })}
      />
    </Stack>
  );
}

function Images({ pool }: { readonly pool: PoolView }): ReactNode {
  const images = useAll('image').filter((i) => i.pool === pool.id);
  return (
    <Rows
      label="Images"
      head={['Image', 'Size', 'State']}
      none="No image lies here."
      rows={images.map((i) => ({
        key: i.id,
        cells: [
          <To to="/images">{i.name}</To>,
          i.sizeBytes === null ? 'not known yet' : formatSize(i.sizeBytes),
          <State of={i.state} />,
        ],
      }))}
    />
  );
}

function Drives({ pool }: { readonly pool: PoolView }): ReactNode {
  const nodes = useAll('node');
  return (
    <Rows
      label="Drives"
      head={['Node', 'Drive', 'Size', 'Health']}
      none="It has no drives."
      rows={(pool.drives ?? []).map((d) => {
        const seen = drivesOf(nodes).find((x) => x.node === d.node && x.drive.serial === d.drive)?.drive;
        return {
          key: `${d.node} ${d.drive}`,
          cells: [
            <To to={`/nodes/${d.node}/hardware`}>{d.node}</To>,
            seen === undefined ? d.drive : `${seen.model} (${d.drive})`,
            seen === undefined ? 'not seen' : formatSize(seen.sizeBytes),
            <HealthOf health={seen?.health ?? null} />,
          ],
        };
      })}
    />
  );
}

function HealthOf({ health }: { readonly health: Drive['health'] }): ReactNode {
  if (health === null) return 'does not say';
  return health.well ? 'well' : <Text c="red">{health.text}</Text>;
}

type Drive = NonNullable<NonNullable<NodeView['state']>['drives']>[number];
const drivesOf = (nodes: readonly NodeView[]): { node: string; drive: Drive }[] =>
  nodes.flatMap((n) => (n.state?.drives ?? []).map((drive) => ({ node: n.id, drive })));

/** Drives to choose from: those with a serial number that no pool has, and nothing is mounted from. */
function DriveChoice(p: {
  readonly nodes: readonly NodeView[];
  readonly value: readonly string[];
  readonly set: (keys: string[]) => void;
  readonly wipe: boolean;
  readonly setWipe: (wipe: boolean) => void;
}): ReactNode {
  const free = drivesOf(p.nodes).filter(
    ({ drive: d }) => d.serial !== '' && (d.use === 'empty' || d.use === 'data'),
  );
  const withData = free.filter((d) => p.value.includes(keyOf(d)) && d.drive.use === 'data');
  return (
    <>
      <MultiSelect
        label="Drives"
        description={free.length === 0 ? 'No node has a drive that is free.' : undefined}
        data={free.map((d) => ({
          value: keyOf(d),
          label: `${d.node}: ${d.drive.device} ${d.drive.model}, ${formatSize(d.drive.sizeBytes)}${d.drive.use === 'data' ? `, has data${d.drive.text === '' ? '' : `: ${d.drive.text}`}` : ''}`,
        }))}
        value={[...p.value]}
        onChange={p.set}
        searchable
      />
      {withData.length > 0 && (
        <Checkbox
          label={`What is on ${withData.map((d) => `${d.node}: ${d.drive.device}`).join(', ')} may be lost for ever`}
          checked={p.wipe}
          onChange={(e) => p.setWipe(e.currentTarget.checked)}
        />
      )}
    </>
  );
}

const keyOf = (d: { readonly node: string; readonly drive: Drive }): string => `${d.node}/${d.drive.serial}`;
function driveOf(key: string, wipe: boolean): PoolDrive {
  const at = key.indexOf('/');
  return { node: key.slice(0, at), drive: key.slice(at + 1), wipe };
}

function PoolActions({ pool }: { readonly pool: PoolView }): ReactNode {
  const nodes = useAll('node').filter((n) => poolHasNode(pool, n.id));
  const [, go] = useLocation();
  const [name, setName] = useState(pool.name);
  const [reservePct, setReserve] = useState<number | string>(pool.reservePct);
  const [drives, setDrives] = useState<string[]>([]);
  const [wipe, setWipe] = useState(false);
  const params = { pool: pool.id };
  return (
    <>
      <Confirm
        label="Change"
        title={`Change pool "${pool.name}"?`}
        says={
          <Stack gap="xs">
            <TextInput label="Name" value={name} onChange={(e) => setName(e.currentTarget.value)} />
            <NumberInput
              label="Kept free, percent"
              description="Below that new disks are refused."
              min={0}
              max={50}
              value={reservePct}
              onChange={setReserve}
            />
          </Stack>
        }
        ready={name !== '' && reservePct !== ''}
        yes="Save"
        act={() =>
          call(
            'poolPatch',
            { params, body: { name, reservePct: Number(reservePct) } },
            { ifMatch: `"${pool.revision}"` },
          )
        }
      />
      {pool.kind === 'thin' && (
        <Confirm
          label="Add drives"
          title={`Add drives to "${pool.name}"?`}
          says={
            <Stack gap="xs">
              <DriveChoice nodes={nodes} value={drives} set={setDrives} wipe={wipe} setWipe={setWipe} />
              <Text size="sm">They cannot be taken out again while the pool has disks.</Text>
            </Stack>
          }
          ready={drives.length > 0}
          yes="Add them"
          act={() => call('poolPatch', { params, body: { addDrives: drives.map((k) => driveOf(k, wipe)) } })}
          done={() => setDrives([])}
        />
      )}
      <Confirm
        label="Delete"
        danger
        disabled={pool.disks + pool.images > 0}
        title={`Forget pool "${pool.name}"?`}
        says="It holds nothing. Directories and drives stay as they are."
        yes="Forget it"
        act={() => call('poolDelete', { params })}
        done={() => go('/pools')}
      />
    </>
  );
}

function NewPool(): ReactNode {
  const nodes = useAll('node').filter((n) => !n.record.witness);
  const [, go] = useLocation();
  const [key, setKey] = useState(newKey);
  const [name, setName] = useState('');
  const [kind, setKind] = useState<PoolKind>('shared');
  const [path, setPath] = useState('');
  const [on, setOn] = useState<string[]>([]);
  const [drives, setDrives] = useState<string[]>([]);
  const [wipe, setWipe] = useState(false);
  const create = async (): Promise<void> => {
    const body = {
      name,
      kind,
      nodes: on.length === 0 ? null : on,
      ...(kind === 'thin' ? { drives: drives.map((k) => driveOf(k, wipe)) } : { path }),
    };
    const made = await call('poolCreate', { body }, { key });
    saw('pool', made);
    setKey(newKey());
    go(`/pools/${made.id}`);
  };
  // Another wish is not the one that was sent before.
  const changed = (): void => setKey(newKey());
  return (
    <FormDialog label="New pool" yes="Create" act={create} changed={changed}>
      <TextInput label="Name" required value={name} onChange={(e) => setName(e.currentTarget.value)} />
      <NativeSelect
        label="Kind"
        description={kindWords[kind]}
        data={[...poolKindSchema.options]}
        value={kind}
        onChange={(e) => setKind(poolKindSchema.parse(e.currentTarget.value))}
      />
      {kind === 'thin' ? (
        <DriveChoice nodes={nodes} value={drives} set={setDrives} wipe={wipe} setWipe={setWipe} />
      ) : (
        <TextInput
          label="Directory on each node"
          description={kind === 'shared' ? 'Where each node has it mounted.' : undefined}
          placeholder="/srv/vms"
          required
          value={path}
          onChange={(e) => setPath(e.currentTarget.value)}
        />
      )}
      <MultiSelect
        label="Only these nodes"
        description="None: all of them, those to come too."
        data={nodes.map((n) => n.id)}
        value={on}
        onChange={setOn}
      />
    </FormDialog>
  );
}
