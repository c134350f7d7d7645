import { Anchor, Button, Group, MultiSelect, Popover, Select, Text, TextInput } from '@mantine/core';
import { useCallback, useMemo, useState, type ReactNode } from 'react';
import { Link, useLocation, useSearch } from 'wouter';
import { deleteSaved, savedAt, saveFilter } from './saved';

/** A list's filter is its URL: it can be bookmarked, sent and saved. */
export interface Filter {
  readonly at: string;
  readonly q: URLSearchParams;
  readonly set: (name: string, value: string | null) => void;
}

/** @param at - the list's path */
export function useFilter(at: string): Filter {
  const text = useSearch();
  const [, go] = useLocation();
  const q = useMemo(() => new URLSearchParams(text), [text]);
  const set = useCallback(
    (name: string, value: string | null): void => {
      const next = new URLSearchParams(q);
      if (value === null || value === '') next.delete(name);
      else next.set(name, value);
      go(`${at}${next.size === 0 ? '' : `?${next}`}`, { replace: true });
    },
    [at, go, q],
  );
  return { at, q, set };
}

export interface FilterField {
  /** In the URL. */
  readonly name: string;
  readonly label: string;
  readonly options: readonly (string | { readonly value: string; readonly label: string })[];
  /** Several may be chosen; all must fit. */
  readonly many?: boolean;
}

/** Whether the text that is looked for is in one of the words, in any case. */
export function textFits(q: URLSearchParams, ...words: readonly (string | null | undefined)[]): boolean {
  const text = q.get('q')?.trim().toLocaleLowerCase('en') ?? '';
  return text === '' || words.some((w) => w?.toLocaleLowerCase('en').includes(text) === true);
}

/** Whether that field was left open, or says this. */
export const fieldFits = (q: URLSearchParams, name: string, value: string | null): boolean =>
  q.get(name) === null || q.get(name) === value;

/** Above a list: what of it is shown. */
export function FilterBar(p: {
  readonly filter: Filter;
  /** Of the field for a part of a text. */
  readonly text: string;
  readonly fields?: readonly FilterField[];
}): ReactNode {
  const { q, set } = p.filter;
  return (
    <Group gap="xs" align="flex-end" role="search" aria-label="What is shown">
      <TextInput
        size="xs"
        label={p.text}
        value={q.get('q') ?? ''}
        onChange={(e) => set('q', e.currentTarget.value)}
      />
      {p.fields?.map((f) =>
        f.many === true ? (
          f.options.length > 0 && (
            <MultiSelect
              key={f.name}
              size="xs"
              label={f.label}
              data={f.options}
              value={q.get(f.name)?.split(',') ?? []}
              onChange={(v) => set(f.name, v.join(','))}
              miw={140}
              maw={260}
            />
          )
        ) : (
          <Select
            key={f.name}
            size="xs"
            label={f.label}
            clearable
            data={f.options}
            value={q.get(f.name)}
            onChange={(v) => set(f.name, v)}
            w={140}
          />
        ),
      )}
      <SavedFilters at={p.filter.at} query={q.toString()} />
    </Group>
  );
}

/** Filters that somebody wants again; kept by this browser. */
function SavedFilters({ at, query }: { readonly at: string; readonly query: string }): ReactNode {
  const [saved, setSaved] = useState(() => savedAt(at));
  const [name, setName] = useState('');
  const [open, setOpen] = useState(false);
  return (
    <Popover position="bottom-start" shadow="md" trapFocus returnFocus opened={open} onChange={setOpen}>
      <Popover.Target>
        <Button size="xs" variant="default" aria-haspopup="dialog" onClick={() => setOpen(!open)}>
          Saved filters
        </Button>
      </Popover.Target>
      <Popover.Dropdown p="xs" miw={240} aria-label="Saved filters">
        {saved.map((s) => (
          <Group key={s.name} justify="space-between" wrap="nowrap">
            <Anchor component={Link} href={`${at}?${s.query}`} size="sm" onClick={() => setOpen(false)}>
              {s.name}
            </Anchor>
            <Button
              size="compact-xs"
              variant="subtle"
              aria-label={`Forget ${s.name}`}
              onClick={() => setSaved(deleteSaved(at, s.name))}
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
          />
          <Button
            size="xs"
            disabled={name.trim() === '' || query === ''}
            onClick={() => {
              setSaved(saveFilter(at, name.trim(), query));
              setName('');
            }}
          >
            Save
          </Button>
        </Group>
      </Popover.Dropdown>
    </Popover>
  );
}
