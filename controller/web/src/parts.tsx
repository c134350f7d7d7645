import {
  Alert,
  Anchor,
  Badge,
  Box,
  Button,
  Code,
  Group,
  Loader,
  Modal,
  Progress,
  Stack,
  Table,
  Tabs,
  Text,
  Title,
} from '@mantine/core';
import { useEffect, useState, type ReactNode } from 'react';
import { Link, useLocation, useSearch } from 'wouter';
import { formatSpan } from '../../../core/domain/units';
import { useDo, type Refused } from './api';

/** Colours say what words say too: never colour alone. */
const colours: Readonly<Record<string, string>> = {
  running: 'green',
  here: 'green',
  well: 'green',
  ready: 'green',
  done: 'green',
  protected: 'green',
  active: 'green',
  preparing: 'blue',
  starting: 'blue',
  stopping: 'blue',
  creating: 'blue',
  queued: 'blue',
  // Of an operation's parts.
  waiting: 'blue',
  uploading: 'blue',
  importing: 'blue',
  paused: 'yellow',
  suspended: 'yellow',
  suspect: 'yellow',
  maintenance: 'yellow',
  leaving: 'yellow',
  unprotected: 'orange',
  alone: 'orange',
  'needs a hand': 'orange',
  unknown: 'orange',
  crashed: 'red',
  failed: 'red',
  silent: 'red',
  'in trouble': 'red',
  'never-heard': 'red',
};

export function State({ of }: { readonly of: string }): ReactNode {
  return (
    <Badge variant="light" color={colours[of] ?? 'gray'} tt="none" radius="sm" className="state">
      {of}
    </Badge>
  );
}

/** @param inText - underlined: among words colour alone does not tell a link */
export function To(p: {
  readonly to: string;
  readonly inText?: boolean;
  readonly children: ReactNode;
}): ReactNode {
  const { to, children } = p;
  return (
    <Anchor component={Link} href={to} inherit underline={p.inText === true ? 'always' : 'hover'}>
      {children}
    </Anchor>
  );
}

/** A refusal as the server said it: what, why, the way out. */
export function Refusal({ of }: { readonly of: Refused | null }): ReactNode {
  if (of === null) return null;
  return (
    <Alert color="red" title={of.message} role="alert" variant="light">
      {of.causes.length > 0 && (
        <ul>
          {of.causes.map((c) => (
            <li key={c}>{c}</li>
          ))}
        </ul>
      )}
      <Text size="sm">{of.hint}</Text>
      <Text size="xs" c="dimmed">
        Code: {of.code}
      </Text>
    </Alert>
  );
}

/** In place of what has been asked for and is not here. */
export function NotYet({ refused }: { readonly refused: Refused | null }): ReactNode {
  return refused === null ? <Loader size="sm" role="img" aria-label="Loading" /> : <Refusal of={refused} />;
}

/** That a list is not whole, where it is not. */
export function FirstOf(p: {
  readonly page: { readonly total: number; readonly items: readonly unknown[] };
}): ReactNode {
  const { total, items } = p.page;
  if (total <= items.length) return null;
  return (
    <Text size="sm" c="dimmed">
      The first {items.length} of {total}.
    </Text>
  );
}

export interface Tab {
  readonly id: string;
  readonly label: string;
  readonly show: () => ReactNode;
  /** Its URL, where it is not one below the object's. */
  readonly to?: string;
}

/** The one shape of every object's page: what it is, how it is, what can be done; then tabs, each with a URL. */
export function Page(p: {
  readonly kind: string;
  readonly name: string;
  /** For the browser's own list of pages, where the name alone does not tell them apart. */
  readonly title?: string | undefined;
  readonly state?: ReactNode;
  readonly actions?: ReactNode;
  readonly note?: ReactNode;
  readonly tabs?: readonly Tab[];
  /** URL of the object; a tab's is below it. */
  readonly at?: string;
  readonly tab?: string | undefined;
  readonly children?: ReactNode;
}): ReactNode {
  const [, go] = useLocation();
  const shown = p.tabs?.find((t) => t.id === p.tab) ?? p.tabs?.[0];
  useEffect(() => {
    document.title = `${p.title === undefined ? '' : `${p.title} · `}${p.name} · Flotilla`;
  }, [p.name, p.title]);
  return (
    <Stack gap="md">
      <Group justify="space-between" align="flex-start" gap="sm">
        <Box>
          <Text size="xs" c="dimmed">
            {p.kind}
          </Text>
          <Group gap="sm" align="center">
            <Title order={1} size="h3" className="name">
              {p.name}
            </Title>
            {p.state}
          </Group>
        </Box>
        <Group gap="xs">{p.actions}</Group>
      </Group>
      {p.note}
      {p.tabs !== undefined && shown !== undefined && (
        <Tabs
          value={shown.id}
          onChange={(id) =>
            go(
              p.tabs?.find((t) => t.id === id)?.to ??
                (id === p.tabs?.[0]?.id ? (p.at ?? '') : `${p.at}/${id}`),
            )
          }
          keepMounted={false}
        >
          <Tabs.List>
            {p.tabs.map((t) => (
              <Tabs.Tab key={t.id} value={t.id}>
                {t.label}
              </Tabs.Tab>
            ))}
          </Tabs.List>
          {p.tabs.map((t) => (
            <Tabs.Panel key={t.id} value={t.id} pt="md">
              {t.id === shown.id ? t.show() : null}
            </Tabs.Panel>
          ))}
        </Tabs>
      )}
      {p.children}
    </Stack>
  );
}

export type Fact = readonly [string, ReactNode] | false;

export function Facts({ of }: { readonly of: readonly Fact[] }): ReactNode {
  return (
    <dl className="facts">
      {of.map(
        (f) =>
          f !== false && (
            <div key={f[0]}>
              <dt>{f[0]}</dt>
              <dd>{f[1]}</dd>
            </div>
          ),
      )}
    </dl>
  );
}

/** A plain table that a telephone shows too: it scrolls by itself, the page does not. */
export function Rows(p: {
  readonly label: string;
  readonly head: readonly string[];
  readonly rows: readonly { readonly key: string; readonly cells: readonly ReactNode[] }[];
  readonly none: ReactNode;
}): ReactNode {
  if (p.rows.length === 0) return <Text c="dimmed">{p.none}</Text>;
  return (
    <Table.ScrollContainer minWidth={Math.min(640, p.head.length * 110)} type="native" tabIndex={0}>
      <Table verticalSpacing="xs" aria-label={p.label}>
        <Table.Thead>
          <Table.Tr>
            {p.head.map((h) => (
              <Table.Th key={h}>{h}</Table.Th>
            ))}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {p.rows.map((r) => (
            <Table.Tr key={r.key}>
              {r.cells.map((c, i) => (
                <Table.Td key={p.head[i]}>{c}</Table.Td>
              ))}
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

/** A share of something, as bar and words. */
export function Share(p: {
  readonly label: string;
  readonly used: number;
  readonly of: number;
  readonly text: string;
  /** More than there is of it is promised, and that is no fault. */
  readonly calm?: boolean;
}): ReactNode {
  const pct = p.of > 0 ? Math.min(100, (100 * p.used) / p.of) : 0;
  return (
    <Box>
      <Group justify="space-between" gap="xs">
        <Text size="sm">{p.label}</Text>
        <Text size="sm" c="dimmed">
          {p.text}
        </Text>
      </Group>
      <Progress
        value={pct}
        color={p.calm === true || pct <= 75 ? 'blue' : pct > 90 ? 'red' : 'yellow'}
        aria-label={`${p.label}: ${Math.round(pct)} %`}
      />
    </Box>
  );
}

/** A button that first says what will happen. */
export function Confirm(p: {
  readonly label: string;
  readonly title: string;
  readonly says: ReactNode;
  readonly yes: string;
  readonly act: () => Promise<unknown>;
  readonly done?: () => void;
  readonly danger?: boolean;
  readonly disabled?: boolean;
  /** Must be typed, where there is no way back. */
  readonly word?: ReactNode;
  readonly ready?: boolean;
}): ReactNode {
  const [open, setOpen] = useState(false);
  const { busy, refused, run, clear } = useDo();
  const [at, go] = useLocation();
  // Ctrl-K leads to a button by its label, and no further: what will happen is said all the same.
  const called = new URLSearchParams(useSearch()).get('do') === p.label && p.disabled !== true;
  useEffect(() => {
    if (!called) return;
    setOpen(true);
    go(at, { replace: true });
  }, [called, at, go]);
  const close = (): void => {
    setOpen(false);
    clear();
  };
  return (
    <>
      <Button
        size="xs"
        variant={p.danger === true ? 'light' : 'default'}
        {...(p.danger === true ? { color: 'red' } : {})}
        disabled={p.disabled === true}
        onClick={() => setOpen(true)}
      >
        {p.label}
      </Button>
      <Modal opened={open} onClose={close} title={p.title} centered>
        <Stack>
          <Box>{p.says}</Box>
          {p.word}
          <Refusal of={refused} />
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>
              Leave it
            </Button>
            <Button
              loading={busy}
              disabled={p.ready === false}
              {...(p.danger === true ? { color: 'red' } : {})}
              onClick={() =>
                void run(p.act).then((ok) => {
                  if (!ok) return;
                  close();
                  p.done?.();
                })
              }
            >
              {p.yes}
            </Button>
          </Group>
        </Stack>
      </Modal>
    </>
  );
}

/** A button that opens a form, which closes when what it asks for was accepted. */
export function FormDialog(p: {
  /** Of the button, and of the dialog. */
  readonly label: string;
  readonly yes: string;
  readonly act: () => Promise<unknown>;
  readonly done?: () => void;
  /** A field was changed. */
  readonly changed?: () => void;
  readonly ready?: boolean;
  /** Not what people come to the page for first. */
  readonly aside?: boolean;
  readonly children: ReactNode;
}): ReactNode {
  const [open, setOpen] = useState(false);
  const { busy, refused, run } = useDo();
  const submit = async (): Promise<void> => {
    if (!(await run(p.act))) return;
    setOpen(false);
    p.done?.();
  };
  return (
    <>
      <Button
        size="xs"
        {...(p.aside === true ? { variant: 'default', w: 'fit-content' } : {})}
        onClick={() => setOpen(true)}
      >
        {p.label}
      </Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={p.label}>
        <form
          onSubmit={(e) => {
            e.preventDefault();
            void submit();
          }}
          onChange={p.changed}
        >
          <Stack gap="xs">
            {p.children}
            <Refusal of={refused} />
            <Button type="submit" loading={busy} disabled={p.ready === false}>
              {p.yes}
            </Button>
          </Stack>
        </form>
      </Modal>
    </>
  );
}

/** A time as its age; drawn again each second while young. */
export function Age({ ms }: { readonly ms: number | null }): ReactNode {
  const now = useNow(ms !== null && Date.now() - ms < 120_000 ? 1_000 : 30_000);
  if (ms === null) return 'never';
  const age = now - ms;
  return <span title={new Date(ms).toLocaleString()}>{age < 1_500 ? 'now' : `${formatSpan(age)} ago`}</span>;
}

export function useNow(everyMs: number): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const t = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(t);
  }, [everyMs]);
  return now;
}

/** The same wish for the API and the command line. */
export function SameAs({ api, cli }: { readonly api: string; readonly cli: string }): ReactNode {
  return (
    <Stack gap={4}>
      <Text size="sm" c="dimmed">
        The same by command line
      </Text>
      <Code block tabIndex={0}>
        {cli}
      </Code>
      <Text size="sm" c="dimmed">
        and by API
      </Text>
      <Code block tabIndex={0}>
        {api}
      </Code>
    </Stack>
  );
}
