import { Alert, Button, Group, SimpleGrid, Stack, Text } from '@mantine/core';
import { lazy, Suspense, useMemo, useState, type ReactNode } from 'react';
import { formatFigure, historyNames } from '../../../core/domain/history-words';
import type { HistoryField, HistorySpan } from '../../../core/domain/history';
import type { HistoryView } from '../../../core/wire/rest';
import { useAsked } from './api';
import { NotYet, Rows, useNow } from './parts';

/** It draws with a library of its own, loaded only by who looks. */
const Chart = lazy(() => import('./chart'));

const ranges = [
  ['1 hour', 'day', 3_600],
  ['6 hours', 'day', 21_600],
  ['24 hours', 'day', 86_400],
  ['7 days', 'month', 604_800],
  ['30 days', 'month', 2_592_000],
] as const satisfies readonly (readonly [string, HistorySpan, number])[];

const charts: readonly (readonly [string, readonly HistoryField[]])[] = [
  ['CPU', ['cpuPct']],
  ['Memory', ['memoryUsedBytes']],
  ['Disks', ['diskReadBps', 'diskWriteBps']],
  ['Network', ['netRxBps', 'netTxBps']],
];

/** Asked anew so often, ms: as often as nodes write. */
const freshMs = 30_000;

/** From and to, s. */
export type Zoom = readonly [number, number];

/** How a node or VM fared: charts that are zoomed together, and the same in figures. */
export function HistoryOf(p: { readonly of: 'node' | 'vm'; readonly id: string }): ReactNode {
  const [at, setAt] = useState(0);
  const [zoom, setZoom] = useState<Zoom | null>(null);
  const now = useNow(freshMs);
  const [, span, lengthS] = ranges[at] ?? ranges[0];
  const query = { span };
  const node = useAsked('nodeHistory', { params: { node: p.id }, query }, now, p.of === 'node');
  const vm = useAsked('vmHistory', { params: { vm: p.id }, query }, now, p.of === 'vm');
  const { value, refused } = p.of === 'node' ? node : vm;
  const nowS = Math.floor(now / 1000);
  const [from, to] = zoom ?? [nowS - lengthS, nowS];
  const move = (by: (length: number) => Zoom): void => setZoom(by(to - from));
  if (value === null) return <NotYet refused={refused} />;
  return (
    <Stack>
      <Group gap="xs">
        <Group gap={4} role="group" aria-label="How far back">
          {ranges.map(([label], i) => (
            <Button
              key={label}
              size="compact-sm"
              variant={i === at && zoom === null ? 'filled' : 'default'}
              aria-pressed={i === at && zoom === null}
              onClick={() => {
                setAt(i);
                setZoom(null);
              }}
            >
              {label}
            </Button>
          ))}
        </Group>
        <Group gap={4} role="group" aria-label="Zoom">
          <Button size="compact-sm" variant="default" onClick={() => move((n) => [from - n / 2, to - n / 2])}>
            Earlier
          </Button>
          <Button size="compact-sm" variant="default" onClick={() => move((n) => [from + n / 2, to + n / 2])}>
            Later
          </Button>
          <Button size="compact-sm" variant="default" onClick={() => move((n) => [from + n / 4, to - n / 4])}>
            Closer
          </Button>
          {zoom !== null && (
            <Button size="compact-sm" variant="default" onClick={() => setZoom(null)}>
              All of it
            </Button>
          )}
        </Group>
        <Text size="xs" c="dimmed">
          Drag over a chart to look closer.
        </Text>
      </Group>
      {value.silent.length > 0 && (
        <Alert color="yellow" variant="light">
          {value.silent.join(', ')} {value.silent.length === 1 ? 'does' : 'do'} not answer: what was kept
          there is missing.
        </Alert>
      )}
      {value.atMs.length === 0 ? (
        <Text c="dimmed">
          Nothing was kept yet: the first point comes half a minute after it began to run.
        </Text>
      ) : (
        <>
          <SimpleGrid cols={{ base: 1, lg: 2 }}>
            {charts.map(([label, fields]) => (
              <figure key={label} className="chart">
                <figcaption>{label}</figcaption>
                <Suspense fallback={<div className="chart-room" />}>
                  <Chart history={value} fields={fields} from={from} to={to} zoom={setZoom} />
                </Suspense>
              </figure>
            ))}
          </SimpleGrid>
          <Figures history={value} from={from} to={to} />
        </>
      )}
    </Stack>
  );
}

/** What the charts show, for who cannot see them or wants the numbers. */
function Figures(p: {
  readonly history: HistoryView;
  readonly from: number;
  readonly to: number;
}): ReactNode {
  const { history: h, from, to } = p;
  const rows = useMemo(() => {
    const shown = h.atMs.flatMap((ms, i) => (ms >= from * 1000 && ms <= to * 1000 ? [i] : []));
    return (Object.keys(historyNames) as HistoryField[]).map((f) => {
      const avg = shown.map((i) => h.avg[f][i] ?? 0);
      const say = (n: number): string => (shown.length === 0 ? '–' : formatFigure(f, n));
      return {
        key: f,
        cells: [
          historyNames[f],
          say(avg.at(-1) ?? 0),
          say(avg.reduce((a, b) => a + b, 0) / Math.max(1, avg.length)),
          say(Math.max(0, ...shown.map((i) => h.max[f][i] ?? 0))),
        ],
      };
    });
  }, [h, from, to]);
  return <Rows label="In figures" head={['In figures', 'Last', 'Mean', 'Highest']} none="" rows={rows} />;
}
