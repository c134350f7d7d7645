import { Button, Group, Modal, Stack, TextInput } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { call, newKey, useDo } from './api';
import { useAll } from './live';
import { Confirm, Page, Refusal, Rows } from './parts';
import { May } from './may';

export function NetworksPage(): ReactNode {
  const networks = useAll('network');
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
      <Rows
        label="Networks"
        head={['Network', 'Bridge', 'Uplink', 'Subnet', 'Hands out', 'Cards', '']}
        none="There is no network yet."
        rows={networks.map((n) => ({
          key: n.id,
          cells: [
            n.name,
            n.bridge,
            n.uplink ?? 'none: isolated',
            n.subnet ?? 'none',
            n.range === null ? 'nothing' : `${n.range[0]} to ${n.range[1]}`,
            n.nics,
            <May role="admin">
              <Confirm
                label="Delete"
                danger
                disabled={n.nics > 0}
                title={`Delete network "${n.name}"?`}
                says="No VM uses it. Its bridge goes from every node."
                yes="Delete"
                act={() => call('networkDelete', { params: { network: n.id } })}
              />
            </May>,
          ],
        }))}
      />
    </Page>
  );
}

const orNull = (text: string): string | null => (text.trim() === '' ? null : text.trim());

function NewNetwork(): ReactNode {
  const [open, setOpen] = useState(false);
  const [f, setF] = useState({ name: '', bridge: '', uplink: '', subnet: '', gateway: '', from: '', to: '' });
  const [key, setKey] = useState(newKey);
  const { busy, refused, run } = useDo();
  const field = (name: keyof typeof f, label: string, description?: string, required = false): ReactNode => (
    <TextInput
      label={label}
      description={description}
      required={required}
      value={f[name]}
      onChange={(e) => {
        setF({ ...f, [name]: e.currentTarget.value });
        setKey(newKey());
      }}
    />
  );
  const create = (): Promise<unknown> =>
    call(
      'networkCreate',
      {
        body: {
          name: f.name,
          bridge: f.bridge,
          uplink: orNull(f.uplink),
          subnet: orNull(f.subnet),
          gateway: orNull(f.gateway),
          range: f.from === '' && f.to === '' ? null : [f.from, f.to],
        },
      },
      { key },
    );
  return (
    <>
      <Button size="xs" onClick={() => setOpen(true)}>
        New network
      </Button>
      <Modal opened={open} onClose={() => setOpen(false)} title="New network">
        <form
          onSubmit={(e) => {
            e.preventDefault();
            void run(create).then((ok) => ok && setOpen(false));
          }}
        >
          <Stack gap="xs">
            {field('name', 'Name', undefined, true)}
            {field('bridge', 'Bridge', 'On every node; made where it is missing.', true)}
            {field('uplink', 'Uplink', 'The nodes’ card that goes into the bridge; nothing: isolated.')}
            {field('subnet', 'Subnet', 'e.g. 10.0.0.0/24; with it the cluster can hand out addresses.')}
            {field('gateway', 'Gateway')}
            <Group grow>
              {field('from', 'First address')}
              {field('to', 'Last address')}
            </Group>
            <Refusal of={refused} />
            <Button type="submit" loading={busy}>
              Create
            </Button>
          </Stack>
        </form>
      </Modal>
    </>
  );
}
