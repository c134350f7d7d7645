import { Modal, NavLink, ScrollArea, Text, TextInput } from '@mantine/core';
import { useContext, useState, type KeyboardEvent, type ReactNode } from 'react';
import { useLocation } from 'wouter';
import { mayAs } from '../../../core/domain/user';
import { vmActions } from '../../../core/domain/vm';
import { useAll } from './live';
import { MeContext } from './may';
import { readSaved } from './saved';

const hitsMax = 30;

interface Hit {
  readonly key: string;
  readonly to: string;
  readonly label: string;
  readonly what: string;
}

/** Ctrl-K: whatever has a name, an address or a MAC, found by a part of it; and what can be done, by verb and name. */
export function Search({
  opened,
  close,
}: {
  readonly opened: boolean;
  readonly close: () => void;
}): ReactNode {
  return (
    <Modal opened={opened} onClose={close} title="Search" size="lg" yOffset="8vh">
      {opened && <Finder close={close} />}
    </Modal>
  );
}

function Finder({ close }: { readonly close: () => void }): ReactNode {
  const [text, setText] = useState('');
  const [at, setAt] = useState(0);
  const [, go] = useLocation();
  const wanted = text.trim().toLocaleLowerCase('en');
  const hits = [...useDeeds(wanted), ...useHits(wanted)].slice(0, hitsMax);
  const chosen = Math.min(at, hits.length - 1);
  const open = (h: Hit): void => {
    close();
    go(h.to);
  };
  const keys = (e: KeyboardEvent): void => {
    const hit = hits[chosen];
    if (e.key === 'ArrowDown') setAt(Math.min(chosen + 1, hits.length - 1));
    else if (e.key === 'ArrowUp') setAt(Math.max(chosen - 1, 0));
    else if (e.key === 'Enter' && hit !== undefined) open(hit);
    else return;
    e.preventDefault();
  };
  return (
    <>
      <TextInput
        label="Name, address, MAC or tag"
        description="Or what to do, and with what: migrate web"
        data-autofocus
        value={text}
        onChange={(e) => {
          setText(e.currentTarget.value);
          setAt(0);
        }}
        onKeyDown={keys}
      />
      <ScrollArea.Autosize mah="50vh" mt="sm" type="auto">
        {hits.map((h, i) => (
          <NavLink
            key={h.key}
            href={h.to}
            label={h.label}
            description={h.what}
            active={i === chosen}
            onClick={(e) => {
              e.preventDefault();
              open(h);
            }}
          />
        ))}
      </ScrollArea.Autosize>
      <Text size="sm" c="dimmed" mt="xs" role="status">
        {text === ''
          ? 'Type a part of it; arrows and Enter choose.'
          : hits.length === 0
            ? 'Nothing has that in it.'
            : ''}
      </Text>
    </>
  );
}

function useHits(text: string): readonly Hit[] {
  const vms = useAll('vm');
  const nodes = useAll('node');
  const pools = useAll('pool');
  const networks = useAll('network');
  const images = useAll('image');
  const vapps = useAll('vapp');
  if (text === '') return [];
  const has = (...words: readonly (string | null)[]): boolean =>
    words.some((w) => w !== null && w.toLocaleLowerCase('en').includes(text));
  const out: Hit[] = [];
  for (const v of vms)
    if (has(v.name, v.id, v.hostname, ...v.addresses, ...v.macs, ...v.tags))
      out.push({
        key: v.id,
        to: `/vms/${v.id}`,
        label: v.name,
        what: `VM, ${v.phase} on ${v.node ?? 'no node'}`,
      });
  for (const n of nodes)
    if (has(n.id, n.record.rack, ...n.record.addresses))
      out.push({ key: `n-${n.id}`, to: `/nodes/${n.id}`, label: n.id, what: `node, ${n.presence}` });
  for (const v of vapps)
    if (has(v.name, v.owner, ...v.tags))
      out.push({ key: v.id, to: `/vapps/${v.id}`, label: v.name, what: `vApp, ${v.state}` });
  for (const p of pools)
    if (has(p.name)) out.push({ key: p.id, to: `/pools/${p.id}`, label: p.name, what: `${p.kind} pool` });
  for (const n of networks)
    if (has(n.name, n.subnet))
      out.push({ key: n.id, to: `/networks/${n.id}`, label: n.name, what: `network, bridge ${n.bridge}` });
  for (const f of readSaved())
    if (has(f.name))
      out.push({
        key: `${f.at} ${f.name}`,
        to: `${f.at}?${f.query}`,
        label: f.name,
        what: `saved filter of ${f.at.slice(1)}`,
      });
  for (const i of images)
    if (has(i.name)) out.push({ key: i.id, to: '/images', label: i.name, what: `image, ${i.state}` });
  return out.slice(0, hitsMax);
}

/** What a VM's page has a button for, by its label; the button asks before it acts. */
const deeds = [
  { label: 'Shut down', needs: 'stop' },
  { label: 'Reboot', needs: 'reboot' },
  { label: 'Migrate', needs: 'migrate' },
  { label: 'Delete', needs: null },
] as const;
const places = [
  { label: 'New VM', to: '/vms/new', role: 'operator' },
  { label: 'Add a node', to: '/nodes', role: 'admin' },
  { label: 'New network', to: '/networks', role: 'admin' },
  { label: 'New pool', to: '/pools', role: 'admin' },
  { label: 'New user', to: '/users', role: 'admin' },
] as const;

/** `migrate web`, `web serial`, `maintenance n1`: a verb's beginning and a part of a name, in any order. */
function useDeeds(text: string): readonly Hit[] {
  const vms = useAll('vm');
  const nodes = useAll('node');
  const me = useContext(MeContext);
  if (text.length < 2 || me === null) return [];
  const may = (role: 'operator' | 'admin'): boolean => mayAs(me.role, role);
  const fits = (label: string, name: string): boolean => {
    const verb = label.toLocaleLowerCase('en');
    const what = name.toLocaleLowerCase('en');
    const words = text.split(/\s+/);
    return words.some((w, i) => {
      const rest = words.filter((_, j) => j !== i).join(' ');
      return w.length > 1 && rest !== '' && verb.startsWith(w) && what.includes(rest);
    });
  };
  const out: Hit[] = places
    .filter((p) => may(p.role) && p.label.toLocaleLowerCase('en').includes(text))
    .map((p) => ({ key: p.label, to: p.to, label: p.label, what: 'to do' }));
  if (may('operator'))
    for (const v of vms) {
      for (const { label, needs } of deeds)
        if (fits(label, v.name) && (needs === null || vmActions[v.phase].includes(needs)))
          out.push({
            key: `${label} ${v.id}`,
            to: `/vms/${v.id}?do=${encodeURIComponent(label)}`,
            label: `${label} ${v.name}`,
            what: 'VM; asks first',
          });
      for (const [tab, label] of [
        ['serial', 'Serial console'],
        ['screen', 'Screen'],
      ] as const)
        if (fits(label, v.name))
          out.push({
            key: `${tab} ${v.id}`,
            to: `/vms/${v.id}/${tab}`,
            label: `${label} of ${v.name}`,
            what: 'VM',
          });
    }
  if (may('admin'))
    for (const n of nodes) {
      const label = n.record.desired === 'active' ? 'Maintenance' : 'Set active';
      if (fits(label, n.id))
        out.push({
          key: `${label} ${n.id}`,
          to: `/nodes/${n.id}?do=${encodeURIComponent(label)}`,
          label: `${label}: ${n.id}`,
          what: 'node; asks first',
        });
    }
  return out.slice(0, hitsMax);
}
