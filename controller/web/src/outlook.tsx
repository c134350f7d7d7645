import { Button, Group, NumberInput, Stack, Text, Title } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { formatSize } from '../../../core/domain/units';
import type { CapacityView } from '../../../core/wire/rest';
import { call, useDo } from './api';
import { Refusal } from './parts';

/** How many more VMs of a size fit, and how long what there is will do. */
export function Capacity(): ReactNode {
  const [size, setSize] = useState({ cpus: 2, memoryGiB: 4 });
  const [found, setFound] = useState<CapacityView | null>(null);
  const { busy, refused, run } = useDo();
  const ask = (): Promise<void> =>
    call('capacityGet', { query: { cpus: size.cpus, memoryMiB: Math.round(size.memoryGiB * 1024) } }).then(
      setFound,
    );
  const days = (t: CapacityView['memoryMiB']): string =>
    t.daysUntilFull === null ? '' : `, full in ${Math.round(t.daysUntilFull)} days if it goes on so`;
  return (
    <Stack gap="xs">
      <Title order={2} size="h5">
        How many more fit?
      </Title>
      <Group align="end">
        <NumberInput
          label="CPUs of each"
          min={1}
          max={256}
          w={120}
          value={size.cpus}
          onChange={(v) => setSize({ ...size, cpus: Number(v) })}
        />
        <NumberInput
          label="Memory of each, GiB"
          min={0.125}
          step={1}
          w={160}
          value={size.memoryGiB}
          onChange={(v) => setSize({ ...size, memoryGiB: Number(v) })}
        />
        <Button size="sm" variant="default" loading={busy} onClick={() => void run(ask)}>
          Reckon
        </Button>
      </Group>
      {found !== null && (
        <Text size="sm" role="status">
          {found.sentence} Memory promised: {formatSize(found.memoryMiB.used * 2 ** 20)} of{' '}
          {formatSize(found.memoryMiB.total * 2 ** 20)}
          {days(found.memoryMiB)}. Pools in use: {formatSize(found.diskBytes.used)} of{' '}
          {formatSize(found.diskBytes.total)}
          {days(found.diskBytes)}.
        </Text>
      )}
      <Refusal of={refused} />
    </Stack>
  );
}
