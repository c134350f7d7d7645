import { Alert, Card, Group, SimpleGrid, Stack, Text, Title } from '@mantine/core';
import type { ReactNode } from 'react';
import { formatSize } from '../../../core/domain/units';
import type { Concern } from '../../../core/wire/rest';
import { ClusterPage } from './cluster';
import { useAll, useCluster } from './live';
import { Share, To } from './parts';
import { OpRows, useOps } from './tasks';

const opsShown = 8;

/** Is all well, what needs a hand, what is left: in this order. */
export function OverviewPage(): ReactNode {
  const c = useCluster();
  const ops = useOps().slice(0, opsShown);
  if (c === null) return null;
  const k = c.capacity;
  return (
    <ClusterPage tab="overview">
      <Alert
        color={c.well ? 'green' : c.concerns.some((x) => x.level === 'error') ? 'red' : 'yellow'}
        variant="light"
        role="status"
      >
        <Text fw={600} size="lg">
          {c.sentence}
        </Text>
      </Alert>
      {c.concerns.length > 0 && (
        <Stack gap={4}>
          <Title order={2} size="h5">
            What needs a hand
          </Title>
          <ul>
            {c.concerns.map((x) => (
              <li key={`${x.subject} ${x.text}`}>
                <ConcernLine of={x} />
              </li>
            ))}
          </ul>
        </Stack>
      )}
      <Title order={2} size="h5">
        Capacity
      </Title>
      <SimpleGrid cols={{ base: 1, sm: 2, lg: 4 }}>
        <Card withBorder>
          <Share
            label="Memory promised to VMs"
            used={k.memoryCommittedBytes}
            of={k.memoryBytes}
            text={`${formatSize(k.memoryCommittedBytes)} of ${formatSize(k.memoryBytes)}`}
          />
        </Card>
        <Card withBorder>
          <Share
            label="Memory in use"
            used={k.memoryUsedBytes}
            of={k.memoryBytes}
            text={`${formatSize(k.memoryUsedBytes)} of ${formatSize(k.memoryBytes)}`}
          />
        </Card>
        <Card withBorder>
          <Share
            label="CPUs promised to VMs"
            used={k.cpusCommitted}
            of={k.cpus}
            text={`${k.cpusCommitted} for ${k.cpus}`}
            calm
          />
        </Card>
        <Card withBorder>
          <Share
            label="Storage in use"
            used={k.poolBytes - k.poolFreeBytes}
            of={k.poolBytes}
            text={`${formatSize(k.poolFreeBytes)} of ${formatSize(k.poolBytes)} free`}
          />
        </Card>
      </SimpleGrid>
      <Group justify="space-between">
        <Title order={2} size="h5">
          Last operations
        </Title>
        <To to="/ops">All</To>
      </Group>
      <OpRows ops={ops} />
      <Text size="xs" c="dimmed">
        Controller {c.version}
      </Text>
    </ClusterPage>
  );
}

/** The subject leads to its page where it has one. */
function ConcernLine({ of }: { readonly of: Concern }): ReactNode {
  const vms = useAll('vm');
  const pools = useAll('pool');
  const [kind, ...rest] = of.subject.split(' ');
  const name = rest.join(' ');
  const vm = kind === 'VM' ? vms.find((v) => v.name === name) : undefined;
  const to =
    vm !== undefined
      ? `/vms/${vm.id}`
      : kind === 'node'
        ? `/nodes/${name}`
        : kind === 'pool'
          ? `/pools/${pools.find((p) => p.name === name)?.id ?? ''}`
          : kind === 'HA'
            ? '/ha'
            : null;
  return (
    <>
      <Text span c={of.level === 'error' ? 'red' : 'orange'} fw={600}>
        {of.level === 'error' ? 'Error' : 'Warning'}:
      </Text>{' '}
      {to === null ? (
        of.subject
      ) : (
        <To to={to} inText>
          {of.subject}
        </To>
      )}
      : {of.text}
    </>
  );
}
