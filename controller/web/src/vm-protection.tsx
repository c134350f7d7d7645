import { Alert, Badge, Card, Group, List, Stack, Text, Title } from '@mantine/core';
import type { ReactNode } from 'react';
import { formatSpan } from '../../../core/domain/units';
import type { LevelView, ProtectionView, VmView } from '../../../core/wire/rest';
import { call, saw, useAsked } from './api';
import { useMay } from './may';
import { Confirm, Facts, NotYet, State, To } from './parts';

/** How it is protected, what each level would keep and cost, and the change of it. */
export function Levels({ vm }: { readonly vm: VmView }): ReactNode {
  const { value, refused } = useAsked('vmProtection', { params: { vm: vm.id } }, vm);
  if (value === null) return <NotYet refused={refused} />;
  return (
    <Stack>
      <Pair of={value} node={vm.node} />
      <Stack gap="xs">
        <Title order={2} size="h5">
          When its node dies
        </Title>
        {value.levels.map((l) => (
          <Level key={l.level} vm={vm} of={l} now={value.level} />
        ))}
      </Stack>
    </Stack>
  );
}

/** Both machines of a VM in lockstep. */
function Pair({ of, node }: { readonly of: ProtectionView; readonly node: string | null }): ReactNode {
  const { pair } = of;
  if (pair === null) return null;
  const at = (id: string | null): ReactNode => (id === null ? 'none' : <To to={`/nodes/${id}`}>{id}</To>);
  return (
    <Stack gap="xs">
      {pair.degraded && (
        <Alert color="orange" variant="light" title="Not protected now">
          {pair.text}
        </Alert>
      )}
      <Facts
        of={[
          ['In lockstep', <State of={pair.state} />],
          ['Runs on', at(node)],
          ['Its twin', at(pair.twin)],
          [
            'Protected',
            pair.sinceMs === null
              ? pair.state === 'protected'
                ? 'yes'
                : 'no'
              : `for ${formatSpan(Date.now() - pair.sinceMs)}`,
          ],
        ]}
      />
    </Stack>
  );
}

/** Whether nothing speaks against it. */
const can = (l: LevelView): boolean => l.blockers.length === 0 && (l.level !== 'lockstep' || l.to !== null);

function Level(p: {
  readonly vm: VmView;
  readonly of: LevelView;
  readonly now: ProtectionView['level'];
}): ReactNode {
  const { vm, of: l, now } = p;
  const may = useMay('operator', vm.id);
  const chosen = l.level === now;
  return (
    <Card withBorder padding="sm" component="section" aria-label={`Protection ${l.title}`}>
      <Stack gap={4}>
        <Group gap="xs">
          <Text fw={600}>{l.title}</Text>
          {l.experimental && (
            <Badge color="orange" variant="light" tt="none" radius="sm">
              experimental
            </Badge>
          )}
          {chosen && (
            <Badge variant="light" tt="none" radius="sm">
              asked for
            </Badge>
          )}
        </Group>
        <Text size="sm">Lost: {l.loses}</Text>
        <List size="sm">
          {l.costs.map((c) => (
            <List.Item key={c}>{c}</List.Item>
          ))}
        </List>
        {l.to !== null && (
          <Text size="sm">
            Second node:{' '}
            <To to={`/nodes/${l.to}`} inText>
              {l.to}
            </To>
            {l.reasons.length === 0 ? '' : `: ${l.reasons.join('; ')}`}
          </Text>
        )}
        {l.warnings.map((w) => (
          <Text key={w} size="sm" c="orange">
            {w}
          </Text>
        ))}
        <Blockers of={l} />
        {may && !chosen && (
          <Group>
            <Confirm
              label={words[l.level]}
              title={`${words[l.level]} for "${vm.name}"?`}
              says={<Text size="sm">{says(l, vm)}</Text>}
              disabled={!can(l)}
              yes={words[l.level]}
              act={async () => {
                const ha = { enabled: l.level !== 'none', lockstep: l.level === 'lockstep' };
                saw('op', (await call('vmPatch', { params: { vm: vm.id }, body: { ha } })).op);
              }}
            />
          </Group>
        )}
      </Stack>
    </Card>
  );
}

const words: Readonly<Record<LevelView['level'], string>> = {
  none: 'No protection',
  restart: 'Restart elsewhere',
  lockstep: 'Lockstep',
};

const says = (l: LevelView, vm: VmView): string => {
  const start = (l.level === 'lockstep') !== (vm.pair !== null) && vm.phase !== 'stopped';
  const then = start ? ' It comes with its next start: its machine is another one.' : '';
  return `Lost when its node dies: ${l.loses}${then}`;
};

function Blockers({ of: l }: { readonly of: LevelView }): ReactNode {
  if (can(l) && l.nodes.length === 0) return null;
  return (
    <>
      <Text size="sm" {...(can(l) ? {} : { fw: 600 })}>
        {can(l) ? 'Nodes that could not be its second one:' : 'Not possible now:'}
      </Text>
      <List size="sm">
        {l.blockers.map((b) => (
          <List.Item key={b.code + b.text}>
            {b.text}. {b.hint}
          </List.Item>
        ))}
        {l.nodes.flatMap((n) =>
          n.blockers.map((b) => (
            <List.Item key={n.node + b.code + b.text}>
              {n.node}: {b.text}. {b.hint}
            </List.Item>
          )),
        )}
      </List>
    </>
  );
}
