import {
  Alert,
  Button,
  Code,
  Modal,
  NumberInput,
  SegmentedControl,
  Stack,
  Text,
  TextInput,
  Title,
} from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { call, useAsked, useDo } from './api';
import { Confirm, Page, Refusal, Rows } from './parts';

export function TokensPage(): ReactNode {
  const [again, setAgain] = useState(0);
  const changed = (): void => setAgain(again + 1);
  const { value, refused } = useAsked('tokenList', { query: {} }, again);
  return (
    <Page
      kind="Who may use the API, and which machines may join"
      name="Access"
      actions={<NewToken changed={changed} />}
    >
      <Refusal of={refused} />
      <Rows
        label="Tokens"
        head={['Name', 'For', 'Expires', 'Uses left', '']}
        none="There is none."
        rows={(value?.items ?? []).map((k) => ({
          key: k.id,
          cells: [
            k.name,
            k.kind === 'join' ? 'joining' : 'the API',
            k.expiresMs === null ? 'never' : new Date(k.expiresMs).toLocaleString(),
            k.usesLeft ?? 'any number',
            <Confirm
              label="Take back"
              danger
              title={`Take back token "${k.name}"?`}
              says="Whoever uses it is refused from now on."
              yes="Take back"
              act={() => call('tokenDelete', { params: { token: k.id } })}
              done={changed}
            />,
          ],
        }))}
      />
      <Certificates />
    </Page>
  );
}

function Certificates(): ReactNode {
  const [again, setAgain] = useState(0);
  const { value, refused } = useAsked('certificateList', { query: { limit: 500 } }, again);
  const day = (ms: number): string => new Date(ms).toLocaleDateString();
  return (
    <>
      <Title order={2} size="h4">
        Certificates of nodes
      </Title>
      <Refusal of={refused} />
      <Rows
        label="Certificates"
        head={['Node', 'Serial number', 'Expires', 'State', '']}
        none="None is written down yet."
        rows={(value?.items ?? []).map((c) => ({
          key: c.id,
          cells: [
            c.node,
            <Code>{c.id}</Code>,
            day(c.notAfterMs),
            c.revoked === null
              ? c.member
                ? 'good'
                : 'good, of no node of the cluster'
              : `revoked on ${day(c.revoked.atMs)}${c.revoked.why === 'removed' ? ', its node was removed' : ''}`,
            c.revoked !== null || c.member ? null : (
              <Confirm
                label="Revoke"
                danger
                title={`Revoke a certificate of ${c.node}?`}
                says="Within a minute no node lets it in, and what it has open is cut. A certificate that is revoked stays so."
                yes="Revoke"
                act={() => call('certificateRevoke', { params: { serial: c.id }, body: {} })}
                done={() => setAgain(again + 1)}
              />
            ),
          ],
        }))}
      />
    </>
  );
}

function NewToken({ changed }: { readonly changed: () => void }): ReactNode {
  const [open, setOpen] = useState(false);
  const [name, setName] = useState('');
  const [kind, setKind] = useState<'api' | 'join'>('api');
  const [hours, setHours] = useState(24);
  const [made, setMade] = useState<string | null>(null);
  const { busy, refused, run } = useDo();
  const close = (): void => {
    setOpen(false);
    setMade(null);
    setName('');
  };
  const create = async (): Promise<void> => {
    const r = await call('tokenCreate', { body: { name, kind, ttlS: hours * 3600 } });
    setMade(r.token);
    changed();
  };
  return (
    <>
      <Button size="xs" onClick={() => setOpen(true)}>
        New token
      </Button>
      <Modal opened={open} onClose={close} title="New token">
        {made === null ? (
          <form
            onSubmit={(e) => {
              e.preventDefault();
              void run(create);
            }}
          >
            <Stack>
              <TextInput
                label="Name"
                required
                value={name}
                onChange={(e) => setName(e.currentTarget.value)}
              />
              <SegmentedControl
                aria-label="For what"
                value={kind}
                onChange={(v) => setKind(v === 'join' ? 'join' : 'api')}
                data={[
                  { value: 'api', label: 'The API' },
                  { value: 'join', label: 'A node that joins' },
                ]}
              />
              <NumberInput
                label="Valid for, hours"
                min={1}
                max={87_600}
                value={hours}
                onChange={(v) => setHours(Number(v))}
              />
              <Refusal of={refused} />
              <Button type="submit" loading={busy}>
                Make it
              </Button>
            </Stack>
          </form>
        ) : (
          <Stack>
            <Alert color="yellow">This is shown once. Whoever has it can use it.</Alert>
            <Code block>{made}</Code>
            <Text size="sm" c="dimmed">
              Close this when it is where it belongs.
            </Text>
            <Button onClick={close}>Close</Button>
          </Stack>
        )}
      </Modal>
    </>
  );
}
