import { Alert, Group, Stack, Text, TextInput } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { useLocation } from 'wouter';
import type { NetworkView } from '../../../core/wire/rest';
import { call, newKey, saw, useAsked } from './api';
import { fieldFits, FilterBar, textFits, useFilter } from './filter';
import { useAll, useOne } from './live';
import { May } from './may';
import { Confirm, Facts, FirstOf, FormDialog, NotYet, Page, Rows, State, To } from './parts';

const rangeWords = (n: NetworkView): string =>
  n.range === null ? 'nothing' : `${n.range[0]} to ${n.range[1]}`;

export function NetworksPage(): ReactNode {
  const all = useAll('network');
  const filter = useFilter('/networks');
  const { q } = filter;
  const networks = all.filter(
    (n) =>
      fieldFits(q, 'uplink', n.uplink === null ? 'isolated' : 'uplink') &&
      textFits(q, n.name, n.bridge, n.uplink, n.subnet),
  );
  return (
    <Page
      kind="Bridges on every node"
      name="Networks"
      actions={
        <May role="admin">
          <NewNetwork />
        </May>
      }
    >
      {all.length > 0 && (
        <FilterBar
          filter={filter}
          text="Name, bridge or subnet"
          fields={[
            {
              name: 'uplink',
              label: 'Reaches',
              options: [
                { value: 'uplink', label: 'what is outside' },
                { value: 'isolated', label: 'its own VMs only' },
              ],
            },
          ]}
        />
      )}
      <Rows
        label="Networks"
        head={['Network', 'Bridge', 'Uplink', 'Subnet', 'Hands out', 'Cards']}
        none={all.length > 0 ? 'No network is like that.' : 'There is no network yet.'}
        rows={networks.map((n) => ({
          key: n.id,
          cells: [
            <To to={`/networks/${n.id}`}>{n.name}</To>,
            n.bridge,
            n.uplink ?? 'none: isolated',
            n.subnet ?? 'none',
            rangeWords(n),
            n.nics,
          ],
        }))}
      />
    </Page>
  );
}

export function NetworkPage({
  id,
  tab,
}: {
  readonly id: string;
  readonly tab: string | undefined;
}): ReactNode {
  const n = useOne('network', id);
  const vapp = useAll('vapp').find((v) => v.id === n?.vapp);
  if (n === undefined)
    return (
      <Alert color="yellow" title="There is no such network">
        It may have been deleted. <To to="/networks">To the networks</To>
      </Alert>
    );
  return (
    <Page
      kind="Network"
      name={n.name}
      state={<State of={n.uplink === null ? 'isolated' : `by ${n.uplink}`} />}
      actions={
        <May role="admin">
          <NetworkActions key={n.revision} network={n} />
        </May>
      }
      at={`/networks/${id}`}
      tab={tab}
      tabs={[
        {
          id: 'summary',
          label: 'Summary',
          show: () => (
            <Facts
              of={[
                ['Bridge on each node', n.bridge],
                [
                  'Uplink',
                  n.uplink ??
                    (n.vni === undefined
                      ? 'none: VMs of a node hear each other'
                      : 'none: isolated, one on all nodes'),
                ],
                n.vni !== undefined && ['Number between nodes (VXLAN)', n.vni],
                ['Subnet', n.subnet ?? 'none: addresses are not ours'],
                ['Hands out', rangeWords(n)],
                ['Gateway', n.gateway ?? 'none'],
                ['Name servers', n.dns.length === 0 ? 'none' : n.dns.join(', ')],
                vapp !== undefined && ['Made for', <To to={`/vapps/${vapp.id}`}>{vapp.name}</To>],
              ]}
            />
          ),
        },
        { id: 'vms', label: `VMs (${n.nics} cards)`, show: () => <VmsOn network={n} /> },
      ]}
    />
  );
}

/** More than a person reads. */
const vmsMax = 500;

function VmsOn({ network }: { readonly network: NetworkView }): ReactNode {
  const query = { network: network.id, limit: vmsMax };
  const { value, refused } = useAsked('vmList', { query }, network.nics);
  if (value === null) return <NotYet refused={refused} />;
  return (
    <Stack>
      <FirstOf page={value} />
      <Rows
        label="VMs"
        head={['VM', 'State', 'Node', 'Addresses', 'MACs']}
        none="No VM is on it."
        rows={value.items.map((v) => ({
          key: v.id,
          cells: [
            <To to={`/vms/${v.id}`}>{v.name}</To>,
            <State of={v.phase} />,
            v.node === null ? '–' : <To to={`/nodes/${v.node}`}>{v.node}</To>,
            v.addresses.join(', '),
            v.macs.join(', '),
          ],
        }))}
      />
    </Stack>
  );
}

const orNull = (text: string): string | null => (text.trim() === '' ? null : text.trim());

interface Fields {
  readonly name: string;
  readonly bridge: string;
  readonly uplink: string;
  readonly subnet: string;
  readonly gateway: string;
  readonly dns: string;
  readonly from: string;
  readonly to: string;
}
const blank: Fields = {
  name: '',
  bridge: '',
  uplink: '',
  subnet: '',
  gateway: '',
  dns: '',
  from: '',
  to: '',
};
const fieldsOf = (n: NetworkView): Fields => ({
  name: n.name,
  bridge: n.bridge,
  uplink: n.uplink ?? '',
  subnet: n.subnet ?? '',
  gateway: n.gateway ?? '',
  dns: n.dns.join(', '),
  from: n.range?.[0] ?? '',
  to: n.range?.[1] ?? '',
});
const bodyOf = (f: Fields) => ({
  name: f.name,
  bridge: f.bridge,
  uplink: orNull(f.uplink),
  subnet: orNull(f.subnet),
  gateway: orNull(f.gateway),
  dns: f.dns.split(/[\s,]+/).filter((a) => a !== ''),
  range: f.from === '' && f.to === '' ? null : ([f.from, f.to] as [string, string]),
});

function FieldsOf({ f, set }: { readonly f: Fields; readonly set: (f: Fields) => void }): ReactNode {
  const field = (name: keyof Fields, label: string, description?: string, required = false): ReactNode => (
    <TextInput
      label={label}
      description={description}
      required={required}
      value={f[name]}
      onChange={(e) => set({ ...f, [name]: e.currentTarget.value })}
    />
  );
  return (
    <Stack gap="xs">
      {field('name', 'Name', undefined, true)}
      {field('bridge', 'Bridge', 'On every node; made where it is missing.', true)}
      {field('uplink', 'Uplink', 'The nodes’ card that goes into the bridge; nothing: isolated.')}
      {field('subnet', 'Subnet', 'e.g. 10.0.0.0/24; with it the cluster can hand out addresses.')}
      {field('gateway', 'Gateway')}
      {field('dns', 'Name servers', 'Up to three, with commas.')}
      <Group grow>
        {field('from', 'First address')}
        {field('to', 'Last address')}
      </Group>
    </Stack>
  );
}

function NetworkActions({ network: n }: { readonly network: NetworkView }): ReactNode {
  const [f, setF] = useState(fieldsOf(n));
  const [, go] = useLocation();
  const params = { network: n.id };
  return (
    <>
      <Confirm
        label="Change"
        title={`Change network "${n.name}"?`}
        says={
          <Stack gap="xs">
            <FieldsOf f={f} set={setF} />
            <Text size="sm">
              Addresses that were handed out stay. VMs that are on it keep it to its bridge.
            </Text>
          </Stack>
        }
        ready={f.name !== '' && f.bridge !== ''}
        yes="Save"
        act={() => call('networkPatch', { params, body: bodyOf(f) }, { ifMatch: `"${n.revision}"` })}
      />
      <Confirm
        label="Delete"
        danger
        disabled={n.nics > 0}
        title={`Delete network "${n.name}"?`}
        says="No VM uses it. Its bridge goes from every node."
        yes="Delete"
        act={() => call('networkDelete', { params })}
        done={() => go('/networks')}
      />
    </>
  );
}

function NewNetwork(): ReactNode {
  const [f, setF] = useState(blank);
  const [key, setKey] = useState(newKey);
  const [, go] = useLocation();
  const create = async (): Promise<void> => {
    const made = await call('networkCreate', { body: bodyOf(f) }, { key });
    saw('network', made);
    setF(blank);
    setKey(newKey());
    go(`/networks/${made.id}`);
  };
  return (
    <FormDialog label="New network" yes="Create" act={create}>
      <FieldsOf
        f={f}
        set={(next) => {
          setF(next);
          setKey(newKey());
        }}
      />
    </FormDialog>
  );
}
