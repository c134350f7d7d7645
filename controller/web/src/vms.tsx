import { Button, Checkbox, Group, Menu, MultiSelect, Select, Text, TextInput } from '@mantine/core';
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
import { Link, useLocation, useSearch } from 'wouter';
import { vmPhaseSchema } from '../../../core/domain/vm';
import { formatSize } from '../../../core/domain/units';
import type { VmRow } from '../../../core/wire/rest';
import { useAll } from './live';
import { Page, State, To } from './parts';
import { May } from './may';
import { BulkAction } from './vm-actions';
import { BulkMigrate } from './vm-bulk-migrate';
import { deleteSaved, readSaved, saveFilter } from './saved';

const rowHeight = 40;

/** The list's filter is its URL: it can be bookmarked, sent and saved. */
function useFilter(): readonly [URLSearchParams, (name: string, value: string | null) => void] {
  const text = useSearch();
  const [, go] = useLocation();
  const q = useMemo(() => new URLSearchParams(text), [text]);
  return [
    q,
    (name, value) => {
      const next = new URLSearchParams(q);
      if (value === null || value === '') next.delete(name);
      else next.set(name, value);
      go(`/vms${next.size === 0 ? '' : `?${next}`}`, { replace: true });
    },
  ];
}

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
  const text = q.get('q')?.toLocaleLowerCase('en') ?? '';
  const tags = q.get('tags')?.split(',') ?? [];
  const [node, phase, ha] = [q.get('node'), q.get('phase'), q.get('ha')];
  return (v) =>
    (node === null || v.node === node) &&
    (phase === null || v.phase === phase) &&
    (ha === null || v.ha.state === ha) &&
    tags.every((t) => v.tags.includes(t)) &&
    (text === '' || wordsOf(v).includes(text));
}

export function VmsPage(): ReactNode {
  const all = useAll('vm');
  const nodes = useAll('node');
  const [q, set] = useFilter();
  const [picked, setPicked] = useState<ReadonlySet<string>>(new Set());
  const shown = useMemo(() => all.filter(filterOf(q)), [all, q]);
  const tags = useMemo(() => [...new Set(all.flatMap((v) => v.tags))].sort(), [all]);
  const chosen = useMemo(() => shown.filter((v) => picked.has(v.id)), [shown, picked]);
  return (
    <Page
      kind={`${all.length} in all, ${shown.length} shown`}
      name="VMs"
      actions={
        <>
          <SavedFilters query={q.toString()} />
          <May role="operator">
            {' '}
            <Button component={Link} href="/vms/new" size="xs">
              New VM
            </Button>
          </May>
        </>
      }
    >
      <Group gap="xs" align="flex-end">
        <TextInput
          size="xs"
          label="Name, address or MAC"
          value={q.get('q') ?? ''}
          onChange={(e) => set('q', e.currentTarget.value)}
        />
        <Select
          size="xs"
          label="Node"
          clearable
          data={nodes.map((n) => n.id)}
          value={q.get('node')}
          onChange={(v) => set('node', v)}
          w={120}
        />
        <Select
          size="xs"
          label="State"
          clearable
          data={vmPhaseSchema.options}
          value={q.get('phase')}
          onChange={(v) => set('phase', v)}
          w={130}
        />
        <Select
          size="xs"
          label="Protection"
          clearable
          data={['protected', 'unprotected', 'paused', 'off']}
          value={q.get('ha')}
          onChange={(v) => set('ha', v)}
          w={140}
        />
        {tags.length > 0 && (
          <MultiSelect
            size="xs"
            label="Tags"
            data={tags}
            value={q.get('tags')?.split(',') ?? []}
            onChange={(v) => set('tags', v.join(','))}
            maw={260}
          />
        )}
      </Group>
      <Group gap="xs" mih={30} role="region" aria-label="With the chosen VMs">
        <Text size="sm" c="dimmed">
          {chosen.length === 0 ? 'Choose VMs to act on several at once.' : `${chosen.length} chosen:`}
        </Text>
        {chosen.length > 0 &&
          (['start', 'stop', 'reboot', 'force-stop'] as const).map((a) => (
            <May key={a} role="operator">
              <BulkAction action={a} vms={chosen} done={() => setPicked(new Set())} />
            </May>
          ))}
        {chosen.length > 0 && (
          <May role="operator">
            <BulkMigrate
              key={chosen.map((v) => v.id).join()}
              vms={chosen}
              done={() => setPicked(new Set())}
            />
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

/** Filters that somebody wants again; kept by this browser. */
function SavedFilters({ query }: { readonly query: string }): ReactNode {
  const [saved, setSaved] = useState(readSaved);
  const [name, setName] = useState('');
  const [, go] = useLocation();
  return (
    <Menu closeOnItemClick={false}>
      <Menu.Target>
        <Button size="xs" variant="default">
          Saved filters
        </Button>
      </Menu.Target>
      <Menu.Dropdown p="xs" miw={240}>
        {saved.map((s) => (
          <Group key={s.name} justify="space-between" wrap="nowrap">
            <Menu.Item onClick={() => go(`/vms?${s.query}`)}>{s.name}</Menu.Item>
            <Button
              size="compact-xs"
              variant="subtle"
              aria-label={`Forget ${s.name}`}
              onClick={() => setSaved(deleteSaved(s.name))}
            >
              Forget
            </Button>
          </Group>
        ))}
        {saved.length === 0 && (
          <Text size="sm" c="dimmed">
            None yet.
          </Text>
        )}
        <Group gap="xs" align="flex-end" mt="xs" wrap="nowrap">
          <TextInput
            size="xs"
            label="Save this filter as"
            value={name}
            maxLength={40}
            onChange={(e) => setName(e.currentTarget.value)}
            onKeyDown={(e) => e.stopPropagation()}
          />
          <Button
            size="xs"
            disabled={name.trim() === '' || query === ''}
            onClick={() => {
              setSaved(saveFilter(name.trim(), query));
              setName('');
            }}
          >
            Save
          </Button>
        </Group>
      </Menu.Dropdown>
    </Menu>
  );
}
