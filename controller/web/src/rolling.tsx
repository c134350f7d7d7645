import {
  Alert,
  Button,
  Checkbox,
  Group,
  List,
  MultiSelect,
  NativeSelect,
  NumberInput,
  Progress,
  Stack,
  Text,
  Title,
} from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { opFinished } from '../../../core/domain/op';
import { rollingArgs, rollingAtOnceMax } from '../../../core/domain/rolling';
import type { OpView, RollingView } from '../../../core/wire/rest';
import { call, saw, useDo } from './api';
import { useAll } from './live';
import { May } from './may';
import { Confirm, Refusal, Rows, State, To } from './parts';
import { useOps } from './tasks';

/** The same work on nodes in turn: looked at beforehand, begun, followed, paused, gone on with. */
export function Rolling(): ReactNode {
  const last = useOps().find((o) => o.kind === 'cluster.rolling');
  return (
    <Stack gap="xs">
      <Title order={2} size="h5">
        Work on nodes, one after the other
      </Title>
      {last !== undefined && <Under op={last} />}
      {(last === undefined || opFinished(last)) && <Ask />}
    </Stack>
  );
}

function Ask(): ReactNode {
  const nodes = useAll('node').map((n) => n.id);
  const images = useAll('image').filter((i) => i.format === 'iso' && i.state === 'ready');
  const [which, setWhich] = useState<string[]>([]);
  const [atOnce, setAtOnce] = useState(1);
  const [bringBack, setBringBack] = useState(false);
  const [restart, setRestart] = useState(false);
  const [image, setImage] = useState('');
  const [found, setFound] = useState<RollingView | null>(null);
  const { busy, refused, run } = useDo();
  const ask = (): Promise<void> =>
    call('rollingGet', { query: { atOnce, ...(which.length === 0 ? {} : { nodes: which.join() }) } }).then(
      setFound,
    );
  return (
    <>
      <Group align="end">
        <MultiSelect
          label="Nodes"
          placeholder={which.length === 0 ? 'all' : ''}
          data={[...nodes].sort()}
          value={which}
          miw={220}
          onChange={(v) => {
            setWhich(v);
            setFound(null);
          }}
        />
        <NumberInput
          label="Nodes down at the same time, at most"
          min={1}
          max={rollingAtOnceMax}
          w={260}
          value={atOnce}
          onChange={(v) => {
            setAtOnce(Number(v));
            setFound(null);
          }}
        />
        <Button size="sm" variant="default" loading={busy} onClick={() => void run(ask)}>
          Find an order
        </Button>
        {found !== null && found.groups.length > 0 && (
          <May role="admin">
            <Confirm
              label="Begin…"
              title="Restart these nodes, one after the other?"
              says={
                <Stack gap="xs">
                  <Text size="sm">
                    Each is emptied, restarts, and must be as well as before; the first that is not ends it.
                  </Text>
                  <NativeSelect
                    label="Work"
                    value={image}
                    onChange={(e) => setImage(e.currentTarget.value)}
                    data={[
                      { value: '', label: 'Restart' },
                      ...images.map((i) => ({ value: i.id, label: `Update to ${i.name}` })),
                    ]}
                  />
                  <Checkbox
                    label="VMs come back to each node when it is well"
                    checked={bringBack}
                    onChange={(e) => setBringBack(e.currentTarget.checked)}
                  />
                  <Checkbox
                    label="VMs that cannot move while they run may be restarted elsewhere"
                    checked={restart}
                    onChange={(e) => setRestart(e.currentTarget.checked)}
                  />
                </Stack>
              }
              yes="Begin"
              act={async () => {
                const what = image === '' ? { work: 'reboot' as const } : { work: 'update' as const, image };
                const body = { ...what, nodes: which, tags: [], atOnce, bringBack, restart };
                saw('op', (await call('rollingBegin', { body })).op);
              }}
            />
          </May>
        )}
      </Group>
      {found !== null && (
        <>
          <Text size="sm" role="status">
            {found.sentence}
          </Text>
          <List type="ordered" size="sm">
            {found.groups.map((g) => (
              <List.Item key={g.nodes.join()}>
                {g.nodes.join(', ')}
                {g.moves.length === 0
                  ? ''
                  : `, after ${g.moves.map((m) => `${m.name} → ${m.to}`).join(', ')}`}
              </List.Item>
            ))}
          </List>
          {found.blocked.map((b) => (
            <Text size="sm" key={b.node}>
              {b.node} cannot be emptied: {b.reason}
            </Text>
          ))}
        </>
      )}
      <Refusal of={refused} />
    </>
  );
}

function Under({ op }: { readonly op: OpView }): ReactNode {
  const args = rollingArgs(op);
  const { busy, refused, run } = useDo();
  const params = { op: op.id };
  if (args === null) return null;
  const left = args.nodes.some((n) => n.state !== 'done');
  const open = !opFinished(op);
  const button = (label: string, act: () => Promise<OpView>, disabled = false): ReactNode => (
    <Button
      size="xs"
      variant="default"
      loading={busy}
      disabled={disabled}
      onClick={() => void run(() => act().then((o) => saw('op', o)))}
    >
      {label}
    </Button>
  );
  return (
    <Alert
      variant="light"
      color={op.state === 'failed' ? 'red' : 'blue'}
      title={
        args.image === null ? 'Restart of nodes in turn' : `Update of nodes in turn to ${args.image.name}`
      }
    >
      <Stack gap="xs">
        <Group gap="xs">
          <State of={op.state} />
          <Text size="sm" role="status">
            {op.error?.message ?? op.step}
          </Text>
        </Group>
        {op.error !== null && <Text size="sm">{op.error.hint}</Text>}
        {open && <Progress value={(op.progress ?? 0) * 100} aria-label="Progress" />}
        <Rows
          label="Nodes of this work"
          head={['Node', 'State', 'Version', 'Now']}
          none="No node is concerned."
          rows={args.nodes.map((n) => ({
            key: n.node,
            cells: [<To to={`/nodes/${n.node}`}>{n.node}</To>, n.state, n.version ?? '–', n.text],
          }))}
        />
        <May role="admin">
          <Group gap="xs">
            {open && !args.paused && button('Pause', () => call('opPause', { params }))}
            {((open && args.paused) || (!open && left)) &&
              button('Go on', () => call('opResume', { params }))}
            {open && button('Cancel', () => call('opCancel', { params }), op.cancelAsked)}
          </Group>
        </May>
        <Refusal of={refused} />
      </Stack>
    </Alert>
  );
}
