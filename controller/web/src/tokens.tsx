import {
  Alert,
  Button,
  Code,
  Group,
  List,
  Modal,
  NumberInput,
  Progress,
  SegmentedControl,
  Stack,
  Text,
  TextInput,
  Title,
} from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { opFinished } from '../../../core/domain/op';
import { call, saw, useAsked, useDo } from './api';
import { ClusterPage } from './cluster';
import { useAll } from './live';
import { May } from './may';
import { Confirm, Refusal, Rows } from './parts';
import { useOps } from './tasks';

export function TokensPage(): ReactNode {
  const [again, setAgain] = useState(0);
  const changed = (): void => setAgain(again + 1);
  const { value, refused } = useAsked('tokenList', { query: {} }, again);
  return (
    <ClusterPage tab="tokens" actions={<NewToken changed={changed} />}>
      <Text size="sm" c="dimmed">
        Who may use the API, and which machines may join.
      </Text>
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
      <Ca />
      <Certificates />
    </ClusterPage>
  );
}

/** Which CA signs, how far it is with being replaced, and the button for it. */
function Ca(): ReactNode {
  const last = useOps().find((o) => o.kind === 'cluster.rotate-ca');
  const open = last !== undefined && !opFinished(last);
  const { value, refused } = useAsked('caGet', {}, last?.updatedMs ?? 0);
  const waits = value?.waits ?? [];
  const voters = useAll('node').flatMap((n) => (n.record.voter ? [n.id] : []));
  const others = waits.map((w) => w.node).filter((n) => !voters.includes(n));
  return (
    <Stack gap="xs">
      <Title order={2} size="h4">
        The cluster’s CA
      </Title>
      <Refusal of={refused} />
      <Text size="sm">{value?.sentence}</Text>
      {open && <Progress value={(last.progress ?? 0) * 100} aria-label="How far the CA is replaced" />}
      {value !== null && (
        <Text size="sm">
          SHA-256 <Code>{value.ca.sha256}</Code>, valid until{' '}
          {new Date(value.ca.notAfterMs).toLocaleDateString()}
          {value.other === null ? '' : '; also trusted: '}
          {value.other !== null && <Code>{value.other.sha256}</Code>}
        </Text>
      )}
      {waits.length > 0 && (
        <List size="sm">
          {waits.map((w) => (
            <List.Item key={w.node}>
              {w.node} {w.why}
            </List.Item>
          ))}
        </List>
      )}
      <May role="admin">
        <Group>
          {open ? (
            <>
              {(value?.phase === 'ready' || value?.phase === 'trust') && (
                <Confirm
                  label="Take the new CA back…"
                  title="Take the new CA back?"
                  says="The old one signs as ever. Once the new one signs it cannot be taken back."
                  yes="Take back"
                  act={async () => saw('op', await call('opCancel', { params: { op: last.id } }))}
                />
              )}
              {others.length > 0 && (
                <Confirm
                  label="Go on without…"
                  title="Go on without the nodes that are off?"
                  says={`${others.join(', ')}: those that are off are not waited for, and catch up by themselves when they are back. Those that are there are waited for all the same.`}
                  yes="Go on"
                  act={async () => saw('op', (await call('caRotate', { body: { without: others } })).op)}
                />
              )}
            </>
          ) : (
            <Confirm
              label="Replace the CA…"
              title="Replace the CA?"
              says="All nodes learn of a new CA, get certificates of it, and forget the old one. VMs go on; each voter of the ledger starts anew, one after the other."
              yes="Replace"
              act={async () => saw('op', (await call('caRotate', { body: {} })).op)}
            />
          )}
        </Group>
      </May>
    </Stack>
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
