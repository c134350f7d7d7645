import { Button, Checkbox, Group, Text } from '@mantine/core';
import { useVirtualizer } from '@tanstack/react-virtual';
import {
  memo,
  useCallback,
  useMemo,
  useRef,
  useState,
  type Dispatch,
  type ReactNode,
  type SetStateAction,
} from 'react';
import { Link } from 'wouter';
import { vmPhaseSchema } from '../../../core/domain/vm';
import { formatSize } from '../../../core/domain/units';
import type { VmRow } from '../../../core/wire/rest';
import { fieldFits, FilterBar, textFits, useFilter } from './filter';
import { useAll } from './live';
import { Page, State, To } from './parts';
import { May } from './may';
import { Bulk } from './vm-bulk';

const rowHeight = 40;

/** What of a VM is searched, made once for each of its states. */
const words = new WeakMap<VmRow, string>();
function wordsOf(v: VmRow): string {
  let text = words.get(v);
  if (text === undefined) {
    text = [v.name, v.hostname ?? '', ...v.addresses, ...v.macs].join('\n').toLocaleLowerCase('en');
    words.set(v, text);
  }
  return text;
}

function filterOf(q: URLSearchParams): (v: VmRow) => boolean {
  const tags = q.get('tags')?.split(',') ?? [];
  return (v) =>
    fieldFits(q, 'node', v.node) &&
    fieldFits(q, 'phase', v.phase) &&
    fieldFits(q, 'ha', v.ha.state) &&
    tags.every((t) => v.tags.includes(t)) &&
    textFits(q, wordsOf(v));
}

export function VmsPage(): ReactNode {
  const all = useAll('vm');
  const nodes = useAll('node');
  const filter = useFilter('/vms');
  const { q } = filter;
  const [picked, setPicked] = useState<ReadonlySet<string>>(new Set());
  const shown = useMemo(() => all.filter(filterOf(q)), [all, q]);
  const tags = useMemo(() => [...new Set(all.flatMap((v) => v.tags))].sort(), [all]);
  const chosen = useMemo(() => shown.filter((v) => picked.has(v.id)), [shown, picked]);
  return (
    <Page
      kind={`${all.length} in all, ${shown.length} shown`}
      name="VMs"
      actions={
        <May role="operator">
          <Button component={Link} href="/vms/new" size="xs">
            New VM
          </Button>
        </May>
      }
    >
      <FilterBar
        filter={filter}
        text="Name, address or MAC"
        fields={[
          { name: 'node', label: 'Node', options: nodes.map((n) => n.id) },
          { name: 'phase', label: 'State', options: vmPhaseSchema.options },
          { name: 'ha', label: 'Protection', options: ['protected', 'unprotected', 'paused', 'off'] },
          { name: 'tags', label: 'Tags', options: tags, many: true },
        ]}
      />
      <Group gap="xs" mih={30} role="region" aria-label="With the chosen VMs">
        <Text size="sm" c="dimmed">
          {chosen.length === 0 ? 'Choose VMs to act on several at once.' : `${chosen.length} chosen:`}
        </Text>
        {chosen.length > 0 && (
          <May role="operator">
            {(['start', 'stop', 'reboot', 'force-stop', 'migrate'] as const).map((a) => (
              <Bulk
                key={`${a} ${chosen.map((v) => v.id).join()}`}
                action={a}
                vms={chosen}
                done={() => setPicked(new Set())}
              />
            ))}
          </May>
        )}
      </Group>
      <VmGrid vms={shown} picked={picked} pick={setPicked} />
    </Page>
  );
}

const heads = ['', 'Name', 'State', 'Node', 'Protection', 'Memory', 'Address', 'Load'];

function VmGrid(p: {
  readonly vms: readonly VmRow[];
  readonly picked: ReadonlySet<string>;
  readonly pick: Dispatch<SetStateAction<ReadonlySet<string>>>;
}): ReactNode {
  const box = useRef<HTMLDivElement>(null);
  const rows = useVirtualizer({
    count: p.vms.length,
    getScrollElement: () => box.current,
    estimateSize: () => rowHeight,
    overscan: 12,
  });
  const all = p.vms.length > 0 && p.vms.every((v) => p.picked.has(v.id));
  const { pick } = p;
  const flip = useCallback(
    (id: string): void =>
      pick((before) => {
        const next = new Set(before);
        if (!next.delete(id)) next.add(id);
        return next;
      }),
    [pick],
  );
  if (p.vms.length === 0) return <Text c="dimmed">No VM is like that.</Text>;
  return (
    <div className="list" ref={box} tabIndex={0} role="region" aria-label="VMs, scrolls">
      <div
        className="grid"
        role="grid"
        aria-label="VMs"
        aria-rowcount={p.vms.length + 1}
        aria-multiselectable="true"
      >
        <div className="row head" role="row" aria-rowindex={1}>
          {heads.map((h, i) => (
            <span key={h} role="columnheader">
              {i === 0 ? (
                <Checkbox
                  size="xs"
                  aria-label="Choose all shown"
                  checked={all}
                  onChange={() => p.pick(new Set(all ? [] : p.vms.map((v) => v.id)))}
                />
              ) : (
                h
              )}
            </span>
          ))}
        </div>
        <div style={{ height: rows.getTotalSize(), position: 'relative' }} role="rowgroup">
          {rows.getVirtualItems().map((r) => {
            const v = p.vms[r.index];
            if (v === undefined) return null;
            const on = p.picked.has(v.id);
            return (
              <div
                key={v.id}
                className="row"
                role="row"
                aria-rowindex={r.index + 2}
                aria-selected={on}
                style={{
                  position: 'absolute',
                  top: 0,
                  left: 0,
                  right: 0,
                  transform: `translateY(${r.start}px)`,
                }}
              >
                <VmCells vm={v} on={on} flip={flip} />
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}

/** Drawn again only when its VM has changed: lists of thousands have some that do all the time. */
const VmCells = memo(function VmCells({
  vm: v,
  on,
  flip,
}: {
  readonly vm: VmRow;
  readonly on: boolean;
  readonly flip: (id: string) => void;
}): ReactNode {
  return (
    <>
      <span role="gridcell">
        <Checkbox size="xs" aria-label={`Choose ${v.name}`} checked={on} onChange={() => flip(v.id)} />
      </span>
      <span role="gridcell" title={v.name}>
        <To to={`/vms/${v.id}`}>{v.name}</To>
      </span>
      <span role="gridcell" title={v.reason}>
        <State of={v.phase} />
      </span>
      <span role="gridcell">{v.node === null ? '–' : <To to={`/nodes/${v.node}`}>{v.node}</To>}</span>
      <span role="gridcell" title={v.ha.text}>
        {v.ha.state === 'off' ? '–' : <State of={v.ha.state} />}
      </span>
      <span role="gridcell">{formatSize(v.memoryMiB * 2 ** 20)}</span>
      <span role="gridcell" title={v.addresses.join(', ')}>
        {v.addresses.join(', ')}
      </span>
      <span role="gridcell">
        {v.cpuPct === null ? '' : `${Math.round(v.cpuPct)} % of ${v.cpus} ${v.cpus === 1 ? 'CPU' : 'CPUs'}`}
      </span>
    </>
  );
});
