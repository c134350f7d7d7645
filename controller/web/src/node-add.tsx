import { Alert, Button, Checkbox, Code, Group, Modal, Stack, Text, TextInput } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import type { PendingView } from '../../../core/wire/adopt';
import { call, useAsked, useDo } from './api';
import { Refusal } from './parts';

/** In groups of four, as the console of the machine shows it. */
const grouped = (hex: string): string => hex.replace(/(.{4})(?=.)/g, '$1 ');

/** Machines that wait to be admitted, and admitting one after its fingerprint was compared. */
export function AddNode(): ReactNode {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Button size="xs" onClick={() => setOpen(true)}>
        Add node
      </Button>
      <Modal opened={open} onClose={() => setOpen(false)} title="Add a node" size="lg">
        {open && <Choose />}
      </Modal>
    </>
  );
}

function Choose(): ReactNode {
  const [again, setAgain] = useState(0);
  const { value, refused: notListed } = useAsked('pendingList', {}, again);
  const [address, setAddress] = useState('');
  const [seen, setSeen] = useState<PendingView | null>(null);
  const { busy, refused, run } = useDo();
  const look = (at: string) =>
    run(async () => setSeen(await call('pendingGet', { params: { address: at.trim() } })));
  if (seen !== null) return <Compare seen={seen} back={() => setSeen(null)} />;
  const heard = value?.items ?? [];
  return (
    <Stack>
      <Text>
        A machine that started from the Flotilla image, or on which it was installed, waits until a cluster
        admits it.
      </Text>
      <Refusal of={notListed} />
      {heard.map((p) => (
        <Group key={p.fingerprint} justify="space-between">
          <Text>
            {p.name}, {p.address}
          </Text>
          <Button size="xs" variant="default" disabled={busy} onClick={() => void look(p.address)}>
            Look at {p.name}
          </Button>
        </Group>
      ))}
      <Group justify="space-between">
        <Text c="dimmed" size="sm">
          {heard.length === 0
            ? 'No machine that waits is heard in this network.'
            : 'Others are reached by their address.'}
        </Text>
        <Button size="xs" variant="subtle" onClick={() => setAgain(again + 1)}>
          Listen again
        </Button>
      </Group>
      <form
        onSubmit={(e) => {
          e.preventDefault();
          void look(address);
        }}
      >
        <Group align="end">
          <TextInput
            label="Address"
            description="As its console shows it"
            required
            value={address}
            onChange={(e) => setAddress(e.currentTarget.value)}
          />
          <Button type="submit" loading={busy}>
            Look
          </Button>
        </Group>
      </form>
      <Refusal of={refused} />
    </Stack>
  );
}

function Compare({ seen, back }: { readonly seen: PendingView; readonly back: () => void }): ReactNode {
  const [same, setSame] = useState(false);
  const [admitted, setAdmitted] = useState<string | null>(null);
  const { busy, refused, run } = useDo();
  const { address, fingerprint, name } = seen;
  if (admitted !== null)
    return (
      <Alert color="green">{admitted} is admitted. It appears among the nodes as soon as it is heard.</Alert>
    );
  return (
    <Stack>
      <Text>
        {name} at {address}, version {seen.version}. The fingerprint of its key:
      </Text>
      <Code block>{grouped(fingerprint)}</Code>
      {(seen.notes ?? []).map((note) => (
        <Alert key={note} color="yellow">
          {note}
        </Alert>
      ))}
      <Checkbox
        label="The console of the machine shows the same fingerprint"
        checked={same}
        onChange={(e) => setSame(e.currentTarget.checked)}
      />
      <Refusal of={refused} />
      <Group>
        <Button
          disabled={!same}
          loading={busy}
          onClick={() =>
            void run(async () => {
              const body = { fingerprint };
              setAdmitted((await call('pendingAdmit', { params: { address }, body })).node);
            })
          }
        >
          Admit {name}
        </Button>
        <Button variant="default" onClick={back}>
          Back
        </Button>
      </Group>
    </Stack>
  );
}
