import { Card, Stack, Text } from '@mantine/core';
import type { ReactNode } from 'react';
import { formatSize } from '../../../core/domain/units';
import type { PoolView } from '../../../core/wire/rest';
import { useAll } from './live';
import { Age, Facts, Page, Rows, Share, To } from './parts';

const kindWords: Readonly<Record<string, string>> = {
  local: 'A directory of each node: disks stay on their node, and are lost with it.',
  thin: 'Drives of each node: disks take what is really written, stay on their node, and are lost with it.',
  shared: 'One directory that all its nodes mount: any of them can run its VMs.',
};

export function PoolsPage(): ReactNode {
  const pools = useAll('pool');
  return (
    <Page kind={`${pools.length} pools`} name="Storage">
      {pools.length === 0 && <Text c="dimmed">There is no pool: flotilla pool create</Text>}
      {pools.map((p) => (
        <PoolCard key={p.id} pool={p} />
      ))}
    </Page>
  );
}

function PoolCard({ pool }: { readonly pool: PoolView }): ReactNode {
  const uses = pool.kind === 'shared' ? pool.use.slice(0, 1) : pool.use;
  const total = uses.reduce((n, u) => n + u.totalBytes, 0);
  const free = uses.reduce((n, u) => n + u.freeBytes, 0);
  return (
    <Card withBorder component="section" aria-label={`Pool ${pool.name}`}>
      <Stack gap="sm">
        <Share
          label={pool.name}
          used={total - free}
          of={total}
          text={`${formatSize(free)} of ${formatSize(total)} free`}
        />
        <Text size="sm" c="dimmed">
          {kindWords[pool.kind] ?? pool.kind}
        </Text>
        <Facts
          of={[
            ['Kind', pool.kind],
            ['Path', <code>{pool.path}</code>],
            ['Disks, images', `${pool.disks}, ${pool.images}`],
            ['Kept free', `${pool.reservePct} %`],
          ]}
        />
        <Rows
          label={`Pool ${pool.name} on each node`}
          head={['Node', 'Free', 'How it is', 'Heard']}
          none="No node has told of it yet."
          rows={pool.use.map((u) => ({
            key: u.node,
            cells: [
              <To to={`/nodes/${u.node}`}>{u.node}</To>,
              `${formatSize(u.freeBytes)} of ${formatSize(u.totalBytes)}`,
              u.ok ? 'well' : u.text,
              <Age ms={u.heardMs} />,
            ],
          }))}
        />
      </Stack>
    </Card>
  );
}
