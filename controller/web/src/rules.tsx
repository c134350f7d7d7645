import { Alert, NativeSelect, Switch, TagsInput, TextInput, Title } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import type { RuleView } from '../../../core/wire/rest';
import { call, newKey, useAsked } from './api';
import { useAll } from './live';
import { May } from './may';
import { Confirm, FormDialog, Refusal, Rows, To } from './parts';

type Kind = RuleView['kind'];
const kindText: Record<Kind, string> = {
  together: 'together',
  apart: 'apart',
  on: 'only on',
  'not-on': 'never on',
};

/** What people want of where VMs are, what breaks it, and what cannot be kept. */
export function Rules(): ReactNode {
  const [again, setAgain] = useState(0);
  const vms = useAll('vm');
  const mark = `${again} ${vms.map((v) => `${v.id} ${v.node}`).join()}`;
  const { value, refused } = useAsked('ruleList', {}, mark);
  const changed = (): void => setAgain(again + 1);
  return (
    <>
      <Title order={2} size="h5">
        Rules
      </Title>
      {(value?.conflicts ?? []).map((c) => (
        <Alert key={c.text} color="red" role="alert">
          {c.rules.join(', ')} cannot all be kept: {c.text}.
        </Alert>
      ))}
      <Rows
        label="Rules"
        head={['Rule', 'Strength', 'VMs', 'Where', 'Broken by', '']}
        none="No rule: VMs are wherever they fit best."
        rows={(value?.items ?? []).map((r) => ({
          key: r.id,
          cells: [
            r.name,
            r.must ? 'must' : 'prefer',
            <>
              {r.vms.map((v, i) => (
                <span key={v.vm}>
                  {i === 0 ? '' : ', '}
                  <To to={`/vms/${v.vm}`}>{v.name}</To>
                </span>
              ))}
              {r.tags.length > 0 && ` (by tag ${r.tags.join(', ')})`}
            </>,
            whereText(r),
            r.broken.join('; '),
            <May role="admin">
              <Confirm
                label="Remove"
                danger
                title={`Remove rule "${r.name}"?`}
                says="No VM moves for it; those it kept where they are may move from now on."
                yes="Remove"
                act={() => call('ruleDelete', { params: { rule: r.id } }).then(changed)}
              />
            </May>,
          ],
        }))}
      />
      <Refusal of={refused} />
      <May role="admin">
        <NewRule changed={changed} />
      </May>
    </>
  );
}

function whereText(r: RuleView): string {
  const over = r.over === 'rack' ? 'rack' : 'node';
  if (r.kind === 'together') return `on one ${over}`;
  if (r.kind === 'apart') return `on different ${over}s`;
  const places = [...r.nodes, ...r.racks.map((x) => `rack ${x}`), ...r.nodeTags.map((x) => `tagged ${x}`)];
  return `${kindText[r.kind]} ${places.join(', ')}`;
}

const empty = { name: '', kind: 'apart' as Kind, over: 'node' as 'node' | 'rack', must: true };

function NewRule({ changed }: { readonly changed: () => void }): ReactNode {
  const [f, setF] = useState(empty);
  const [lists, setLists] = useState<Record<'vms' | 'tags' | 'nodes' | 'racks' | 'nodeTags', string[]>>({
    vms: [],
    tags: [],
    nodes: [],
    racks: [],
    nodeTags: [],
  });
  const [key, setKey] = useState(newKey);
  const vms = useAll('vm');
  const nodes = useAll('node');
  const placed = f.kind === 'on' || f.kind === 'not-on';
  const put = (patch: Partial<typeof f>): void => {
    setF({ ...f, ...patch });
    setKey(newKey());
  };
  const list = (name: keyof typeof lists, label: string, data: readonly string[] = []): ReactNode => (
    <TagsInput
      label={label}
      data={[...new Set(data)].sort()}
      value={lists[name]}
      onChange={(v) => {
        setLists({ ...lists, [name]: v });
        setKey(newKey());
      }}
    />
  );
  const none = { nodes: [], racks: [], nodeTags: [] };
  const create = (): Promise<unknown> =>
    call('ruleCreate', { body: { ...f, ...lists, ...(placed ? {} : none) } }, { key });
  return (
    <FormDialog label="New rule" yes="Create" act={create} done={changed} aside>
      <TextInput
        label="Name"
        required
        value={f.name}
        onChange={(e) => put({ name: e.currentTarget.value })}
      />
      {list(
        'vms',
        'VMs',
        vms.map((v) => v.name),
      )}
      {list(
        'tags',
        'And all VMs with one of these tags',
        vms.flatMap((v) => v.tags),
      )}
      <NativeSelect
        label="Are to be"
        value={f.kind}
        data={(['apart', 'together', 'on', 'not-on'] as const).map((value) => ({
          value,
          label: kindText[value],
        }))}
        onChange={(e) => put({ kind: e.currentTarget.value as Kind })}
      />
      {placed ? (
        <>
          {list(
            'nodes',
            'Nodes',
            nodes.map((n) => n.id),
          )}
          {list(
            'racks',
            'Racks',
            nodes.flatMap((n) => n.record.rack ?? []),
          )}
          {list(
            'nodeTags',
            'Nodes with one of these tags',
            nodes.flatMap((n) => n.record.tags ?? []),
          )}
        </>
      ) : (
        <NativeSelect
          label={f.kind === 'apart' ? 'On different' : 'On one'}
          value={f.over}
          data={[
            { value: 'node', label: f.kind === 'apart' ? 'nodes' : 'node' },
            { value: 'rack', label: f.kind === 'apart' ? 'racks' : 'rack' },
          ]}
          onChange={(e) => put({ over: e.currentTarget.value === 'rack' ? 'rack' : 'node' })}
        />
      )}
      <Switch
        label="Must: nothing breaks it, no failover either. Off: a wish, which weighs"
        checked={f.must}
        onChange={(e) => put({ must: e.currentTarget.checked })}
      />
    </FormDialog>
  );
}
