import { Modal, NavLink, ScrollArea, Text, TextInput } from '@mantine/core';
import { useState, type KeyboardEvent, type ReactNode } from 'react';
import { useLocation } from 'wouter';
import { useAll } from './live';

const hitsMax = 30;

interface Hit {
  readonly key: string;
  readonly to: string;
  readonly label: string;
  readonly what: string;
}

/** Ctrl-K: whatever has a name, an address or a MAC, found by a part of it. */
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
  const hits = useHits(text.trim().toLocaleLowerCase('en'));
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
  for (const p of pools)
    if (has(p.name)) out.push({ key: p.id, to: '/pools', label: p.name, what: `${p.kind} pool` });
  for (const n of networks)
    if (has(n.name, n.subnet))
      out.push({ key: n.id, to: '/networks', label: n.name, what: `network, bridge ${n.bridge}` });
  for (const i of images)
    if (has(i.name)) out.push({ key: i.id, to: '/images', label: i.name, what: `image, ${i.state}` });
  return out.slice(0, hitsMax);
}
