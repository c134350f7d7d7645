import { Select, Text, TextInput } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { useLocation } from 'wouter';
import { formatSize } from '../../../core/domain/units';
import type { TemplateView } from '../../../core/wire/rest';
import { call, newKey, saw, useAsked } from './api';
import { FilterBar, textFits, useFilter } from './filter';
import { useAll } from './live';
import { May } from './may';
import { Confirm, FormDialog, Page, Refusal, Rows } from './parts';
import { CopyDialog } from './vapp-copy';

const holds = (t: TemplateView): number =>
  t.members.reduce((n, m) => n + m.disks.reduce((k, d) => k + (d.usedBytes ?? 0), 0), 0);

/** What vApps are made of: looked through, deployed with their parameters. */
export function TemplatesPage(): ReactNode {
  const [again, setAgain] = useState(0);
  const [, go] = useLocation();
  // One that is made is another when its operation has ended.
  const mark = `${again} ${useAll('op')
    .filter((o) => o.kind === 'template.create')
    .map((o) => `${o.id} ${o.state} ${o.step}`)
    .join()}`;
  const { value, refused } = useAsked('templateList', {}, mark);
  const changed = (): void => setAgain(again + 1);
  const filter = useFilter('/templates');
  const all = value?.items ?? [];
  const templates = all.filter((t) =>
    textFits(filter.q, t.name, t.note, t.of.name, ...t.members.map((m) => m.name)),
  );
  return (
    <Page kind="The catalogue" name="Templates">
      <Text size="sm">
        A template is a vApp or a VM as it was at one moment, with what may be set when it is deployed. What
        is made of it has names, addresses and isolated networks of its own.
      </Text>
      {all.length > 0 && <FilterBar filter={filter} text="Name, note or VM" />}
      <Rows
        label="Templates"
        head={['Template', 'VMs', 'Holds', 'Networks', 'Parameters', '']}
        none={all.length > 0 ? 'No template is like that.' : 'There is no template yet.'}
        rows={templates.map((t) => ({
          key: t.id,
          cells: [
            <>
              {t.name}
              <Text size="xs" c="dimmed">
                {t.note === '' ? `of ${t.of.kind === 'vm' ? 'VM' : 'vApp'} ${t.of.name}` : t.note}
              </Text>
              {t.unusable !== '' && (
                <Text size="xs" role="status">
                  {t.op === null || t.op.step === '' ? t.unusable : t.op.step}
                </Text>
              )}
            </>,
            t.members.map((m) => m.name).join(', '),
            formatSize(holds(t)),
            t.networks.map((n) => (n.isolated ? `${n.name} (isolated)` : n.name)).join(', '),
            t.properties.map((p) => (p.label === '' ? p.name : p.label)).join(', '),
            <May role="operator">
              <CopyDialog
                label="Deploy"
                title={`A vApp of template "${t.name}"`}
                says={
                  t.of.kind === 'vm'
                    ? 'A vApp of one VM, which has its name.'
                    : `${t.members.length} VMs, started in their order. All of it is made, or nothing.`
                }
                properties={t.properties}
                eulas={t.eulas}
                disabled={t.unusable !== ''}
                send={(body, key) =>
                  // Licences were accepted where there are any: the dialog sends nothing before.
                  call(
                    'templateDeploy',
                    { params: { template: t.id }, body: { ...body, acceptEulas: true } },
                    { key },
                  )
                }
                done={(r) => r.vapp !== null && go(`/vapps/${r.vapp.id}`)}
              />
              <Confirm
                label="Delete"
                danger
                title={`Delete template "${t.name}"?`}
                says="What was made of it stays. What linked disks need of it goes with those."
                yes="Delete"
                act={() => call('templateDelete', { params: { template: t.id } }).then(changed)}
              />
            </May>,
          ],
        }))}
      />
      <Refusal of={refused} />
      <May role="operator">
        <NewTemplate changed={changed} />
      </May>
    </Page>
  );
}

function NewTemplate({ changed }: { readonly changed: () => void }): ReactNode {
  const vapps = useAll('vapp');
  const vms = useAll('vm');
  const [name, setName] = useState('');
  const [note, setNote] = useState('');
  const [of, setOf] = useState<string | null>(null);
  const [key, setKey] = useState(newKey);
  const touched = (act: () => void): void => {
    act();
    setKey(newKey());
  };
  const create = async (): Promise<void> => {
    const [kind, id] = (of ?? '').split(' ');
    const source = kind === 'vapp' ? { vapp: id } : { vm: id };
    const t = await call('templateCreate', { body: { name, note, ...source } }, { key });
    if (t.op !== null) saw('op', t.op);
    setName('');
    changed();
  };
  return (
    <FormDialog label="New template" yes="Make it" act={create} ready={of !== null} aside>
      <TextInput
        label="Name"
        required
        data-autofocus
        value={name}
        onChange={(e) => touched(() => setName(e.currentTarget.value))}
      />
      <TextInput label="Note" value={note} onChange={(e) => touched(() => setNote(e.currentTarget.value))} />
      <Select
        label="Of"
        description="As it is now, running or off"
        required
        searchable
        value={of}
        onChange={(v) => touched(() => setOf(v))}
        data={[
          { group: 'vApps', items: vapps.map((v) => ({ value: `vapp ${v.id}`, label: v.name })) },
          {
            group: 'VMs',
            items: vms.map((v) => ({ value: `vm ${v.id}`, label: v.name })),
          },
        ]}
      />
    </FormDialog>
  );
}
