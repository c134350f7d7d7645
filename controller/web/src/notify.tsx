import {
  Alert,
  Button,
  Group,
  NumberInput,
  PasswordInput,
  Select,
  SimpleGrid,
  Stack,
  TagsInput,
  Text,
  TextInput,
  Title,
} from '@mantine/core';
import { useState, type ReactNode } from 'react';
import type { NotifyView } from '../../../core/wire/rest';
import { call, useAsked, useDo } from './api';
import { Age, Confirm, Facts, NotYet, Page, Refusal, Rows, useNow } from './parts';

/** Looked at anew so often, ms: the stream does not tell of it. */
const freshMs = 5_000;

export function NotifyPage(): ReactNode {
  const [mark, setMark] = useState(0);
  const now = useNow(freshMs);
  const { value: n, refused } = useAsked('notifyGet', {}, now + mark);
  const changed = (): void => setMark(mark + 1);
  const { busy, refused: untested, run } = useDo();
  if (n === null) return <NotYet refused={refused} />;
  const nobody = n.mail === null && n.webhook === null;
  return (
    <Page
      kind="Cluster"
      name="Notifications"
      actions={
        !nobody && (
          <>
            <Button
              size="xs"
              loading={busy}
              onClick={() => void run(() => call('notifyTest', {})).then(changed)}
            >
              Send a test
            </Button>
            <Confirm
              label="Tell nobody"
              danger
              title="Tell nobody any more?"
              says={<Text size="sm">Mail server, password and webhook are forgotten.</Text>}
              yes="Tell nobody"
              act={() => call('notifyPatch', { body: { mail: null, webhook: null } })}
              done={changed}
            />
          </>
        )
      }
    >
      <Text>
        {nobody
          ? 'Nobody is told of failures.'
          : 'Told are failovers, nodes that are down, drives and copies that are not well, pools that are full, certificates that are not renewed: each once, gathered, and when it is over.'}
      </Text>
      <Refusal of={untested} />
      {n.test !== null && <TestLine of={n.test} />}
      {n.last !== null && (
        <Alert color={n.last.ok ? 'green' : 'red'} variant="light" role="status">
          The last one, <Age ms={n.last.atMs} />, by {n.last.by}: {n.last.text}
        </Alert>
      )}
      {!nobody && (
        <Rows
          label="Open incidents"
          head={['Told, and not over', 'Told']}
          none="Nothing that was told is open."
          rows={n.open.map((i) => ({ key: i.key, cells: [i.text, <Age ms={i.sinceMs} />] }))}
        />
      )}
      <MailForm key={`mail ${n.mail?.host}`} now={n} changed={changed} />
      <HookForm key={`hook ${n.webhook}`} now={n} changed={changed} />
    </Page>
  );
}

function TestLine({ of }: { readonly of: NonNullable<NotifyView['test']> }): ReactNode {
  const { result } = of;
  return (
    <Alert color={result === null ? 'blue' : result.ok ? 'green' : 'red'} variant="light" role="status">
      {result === null
        ? 'A test is under way: the node that leads the voters sends it.'
        : `Test by ${result.by}: ${result.text}`}
    </Alert>
  );
}

interface FormProps {
  readonly now: NotifyView;
  readonly changed: () => void;
}

function MailForm({ now, changed }: FormProps): ReactNode {
  const m = now.mail;
  const [host, setHost] = useState(m?.host ?? '');
  const [port, setPort] = useState(m?.port ?? 587);
  const [security, setSecurity] = useState<string>(m?.security ?? 'starttls');
  const [user, setUser] = useState(m?.user ?? '');
  const [password, setPassword] = useState('');
  const [from, setFrom] = useState(m?.from ?? '');
  const [to, setTo] = useState<string[]>(m?.to ?? []);
  const { busy, refused, run } = useDo();
  const save = (): Promise<unknown> =>
    call('notifyPatch', {
      body: {
        mail: {
          host,
          port,
          security: security as 'starttls' | 'tls' | 'none',
          user: user === '' ? null : user,
          ...(password === '' ? {} : { password }),
          from,
          to,
        },
      },
    }).then(() => setPassword(''));
  return (
    <Stack gap="xs">
      <Title order={2} size="h5">
        Mail
      </Title>
      <SimpleGrid cols={{ base: 1, sm: 2 }}>
        <TextInput label="Mail server" value={host} onChange={(e) => setHost(e.currentTarget.value)} />
        <Group grow>
          <NumberInput label="Port" value={port} min={1} max={65_535} onChange={(v) => setPort(Number(v))} />
          <Select
            label="Encryption"
            allowDeselect={false}
            data={[
              { value: 'starttls', label: 'STARTTLS' },
              { value: 'tls', label: 'TLS' },
              { value: 'none', label: 'none' },
            ]}
            value={security}
            onChange={(v) => setSecurity(v ?? 'starttls')}
          />
        </Group>
        <TextInput
          label="User, if it wants a login"
          autoComplete="off"
          value={user}
          onChange={(e) => setUser(e.currentTarget.value)}
        />
        <PasswordInput
          label="Password"
          autoComplete="new-password"
          placeholder={m?.passwordSet === true ? 'kept as it is' : ''}
          value={password}
          onChange={(e) => setPassword(e.currentTarget.value)}
        />
        <TextInput label="From" value={from} onChange={(e) => setFrom(e.currentTarget.value)} />
        <TagsInput label="To" value={to} onChange={setTo} maxTags={16} />
      </SimpleGrid>
      <Refusal of={refused} />
      <Group>
        <Button
          size="xs"
          loading={busy}
          disabled={host === '' || from === '' || to.length === 0}
          onClick={() => void run(save).then((ok) => ok && changed())}
        >
          Save mail
        </Button>
      </Group>
    </Stack>
  );
}

function HookForm({ now, changed }: FormProps): ReactNode {
  const [url, setUrl] = useState('');
  const { busy, refused, run } = useDo();
  return (
    <Stack gap="xs">
      <Title order={2} size="h5">
        Webhook
      </Title>
      <Facts of={[['Posts to', now.webhook ?? 'nobody']]} />
      <PasswordInput
        label="Address to post to"
        description="Its path is a secret for most chat services: it is not shown again."
        autoComplete="off"
        value={url}
        onChange={(e) => setUrl(e.currentTarget.value)}
      />
      <Refusal of={refused} />
      <Group>
        <Button
          size="xs"
          loading={busy}
          disabled={url === ''}
          onClick={() =>
            void run(() => call('notifyPatch', { body: { webhook: url } })).then((ok) => ok && changed())
          }
        >
          Save webhook
        </Button>
      </Group>
    </Stack>
  );
}
