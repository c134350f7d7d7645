import {
  Button,
  Checkbox,
  Code,
  Group,
  List,
  Modal,
  NumberInput,
  Select,
  Stack,
  Text,
  TextInput,
} from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { settingText, settingWords } from '../../../core/decide/service-class';
import {
  classSettingSchema,
  type ClassSetting,
  type ClassSettings,
} from '../../../core/domain/service-class';
import { snapshotScheduleSchema } from '../../../core/domain/snapshot-schedule';
import type { ClassChanged, ClassView } from '../../../core/wire/rest';
import { call, newKey, saw, useAsked, useDo } from './api';
import { ClusterPage } from './cluster';
import { useAll } from './live';
import { May } from './may';
import { Confirm, Refusal, Rows, To } from './parts';

/** VMs named of a class before the rest is only counted. */
const namedMax = 8;

const usual: Required<ClassSettings> = {
  replicas: 2,
  ha: true,
  haPriority: 50,
  onHang: 'nothing',
  restartsPerHourMax: 5,
  autoMove: true,
  cpuShares: 100,
  snapshots: { hourly: 0, daily: 7, weekly: 4 },
};

/** Levels of service that VMs and vApps ask for by name. */
export function ClassesPage(): ReactNode {
  const [again, setAgain] = useState(0);
  // Its members follow one after the other: each is news of a VM.
  const mark = `${again} ${useAll('vm')
    .map((v) => `${v.id} ${v.generation}`)
    .join()}`;
  const { value, refused } = useAsked('classList', {}, mark);
  const changed = (): void => setAgain(again + 1);
  return (
    <ClusterPage tab="classes">
      <Text size="sm">
        A class is a set of settings with a name. VMs and vApps ask for it by that name; changing it changes
        them, but for what each has of its own.
      </Text>
      <Rows
        label="Classes"
        head={['Class', 'Settings', 'VMs', 'vApps', '']}
        none="There is no class yet: each VM says all for itself."
        rows={(value?.items ?? []).map((c) => ({
          key: c.id,
          cells: [
            <>
              {c.name}
              {c.note !== '' && (
                <Text size="xs" c="dimmed">
                  {c.note}
                </Text>
              )}
            </>,
            classSettingSchema.options
              .filter((k) => c.settings[k] !== undefined)
              .map((k) => `${settingWords[k]}: ${settingText(c.settings[k])}`)
              .join(', '),
            <Members c={c} />,
            c.vapps.map((v, i) => (
              <span key={v.vapp}>
                {i === 0 ? '' : ', '}
                <To to={`/vapps/${v.vapp}`}>{v.name}</To>
              </span>
            )),
            <May role="admin">
              <Group gap="xs" wrap="nowrap">
                <EditClass key={c.generation} of={c} changed={changed} />
                <Confirm
                  label="Remove"
                  danger
                  title={`Remove class "${c.name}"?`}
                  says="Only a class that no VM and no vApp is of can go."
                  yes="Remove"
                  act={() => call('classDelete', { params: { class: c.id } }).then(changed)}
                />
              </Group>
            </May>,
          ],
        }))}
      />
      <Refusal of={refused} />
      <May role="admin">
        <EditClass of={null} changed={changed} />
      </May>
    </ClusterPage>
  );
}

function Members({ c }: { readonly c: ClassView }): ReactNode {
  const left = c.vms.length - namedMax;
  return (
    <>
      {c.vms.slice(0, namedMax).map((v, i) => (
        <span key={v.vm}>
          {i === 0 ? '' : ', '}
          <To to={`/vms/${v.vm}`}>{v.name}</To>
          {v.own.length > 0 && ` (own ${v.own.map((s) => settingWords[s]).join(', ')})`}
          {!v.follows && ' (does not follow yet)'}
        </span>
      ))}
      {left > 0 && ` and ${left} more`}
    </>
  );
}

/** A class made, or changed after a look at what that does. @param of - null: a new one */
function EditClass(p: { readonly of: ClassView | null; readonly changed: () => void }): ReactNode {
  const { of } = p;
  const [open, setOpen] = useState(false);
  const [name, setName] = useState(of?.name ?? '');
  const [note, setNote] = useState(of?.note ?? '');
  const [s, setS] = useState<ClassSettings>(of?.settings ?? {});
  const [preview, setPreview] = useState<ClassChanged | null>(null);
  const [key, setKey] = useState(newKey);
  const { busy, refused, run } = useDo();
  const touched = (): void => {
    setPreview(null);
    setKey(newKey());
  };
  const put = <K extends ClassSetting>(k: K, v: ClassSettings[K]): void => {
    const { [k]: _, ...rest } = s;
    setS(v === undefined ? rest : { ...rest, [k]: v });
    touched();
  };
  const sent = async (dryRun: boolean): Promise<void> => {
    if (of === null) {
      await call('classCreate', { body: { name, note, settings: s } }, { key });
    } else {
      const gone = classSettingSchema.options.filter(
        (k) => of.settings[k] !== undefined && s[k] === undefined,
      );
      const settings = { ...s, ...Object.fromEntries(gone.map((k) => [k, null])) };
      const r = await call(
        'classPatch',
        { params: { class: of.id }, body: { name, note, settings, dryRun } },
        { ifMatch: `"${of.generation}"` },
      );
      if (dryRun) {
        setPreview(r);
        return;
      }
      if (r.op !== null) saw('op', r.op);
    }
    setOpen(false);
    p.changed();
  };
  const look = of !== null && preview === null;
  return (
    <>
      <Button size="xs" variant="default" onClick={() => setOpen(true)} w="fit-content">
        {of === null ? 'New class' : 'Change'}
      </Button>
      <Modal
        opened={open}
        onClose={() => setOpen(false)}
        title={of === null ? 'New class' : `Change class "${of.name}"`}
        size="lg"
      >
        <form
          onSubmit={(e) => {
            e.preventDefault();
            void run(() => sent(look));
          }}
        >
          <Stack gap="xs">
            <TextInput
              label="Name"
              required
              value={name}
              onChange={(e) => {
                setName(e.currentTarget.value);
                touched();
              }}
            />
            <TextInput
              label="Note"
              value={note}
              onChange={(e) => {
                setNote(e.currentTarget.value);
                touched();
              }}
            />
            <Text size="sm">What it says; of what is not ticked each VM says for itself.</Text>
            {classSettingSchema.options.map((k) => (
              <Group key={k} grow align="center">
                <Checkbox
                  label={settingWords[k]}
                  checked={s[k] !== undefined}
                  onChange={(e) => put(k, e.currentTarget.checked ? usual[k] : undefined)}
                />
                {s[k] === undefined ? <span /> : <Value k={k} value={s[k]} put={put} />}
              </Group>
            ))}
            {preview !== null && <Preview of={preview} />}
            <Refusal of={refused} />
            <Button type="submit" loading={busy} disabled={preview !== null && preview.cannot.length > 0}>
              {of === null ? 'Create' : look ? 'See what changes' : 'Change it so'}
            </Button>
          </Stack>
        </form>
      </Modal>
    </>
  );
}

function Value<K extends ClassSetting>(p: {
  readonly k: K;
  readonly value: ClassSettings[K];
  readonly put: (k: K, v: ClassSettings[K]) => void;
}): ReactNode {
  const { k, value, put } = p;
  if (typeof value === 'object')
    return (
      <Group grow gap="xs" wrap="nowrap">
        {(['hourly', 'daily', 'weekly'] as const).map((kind) => (
          <NumberInput
            key={kind}
            label={kind}
            size="xs"
            min={0}
            max={snapshotScheduleSchema.shape[kind].maxValue ?? 0}
            value={value[kind]}
            onChange={(n) => put(k, { ...value, [kind]: Number(n) || 0 })}
          />
        ))}
      </Group>
    );
  const choices: Partial<Record<ClassSetting, readonly [unknown, string][]>> = {
    replicas: [
      [1, '1'],
      [2, '2'],
    ],
    ha: [
      [true, 'on'],
      [false, 'off'],
    ],
    autoMove: [
      [true, 'yes'],
      [false, 'never'],
    ],
    onHang: [
      ['nothing', 'do nothing'],
      ['reset', 'reset it'],
    ],
  };
  const of = choices[k];
  if (of !== undefined)
    return (
      <Select
        aria-label={settingWords[k]}
        data={of.map(([v, label]) => ({ value: String(v), label }))}
        value={String(value)}
        allowDeselect={false}
        onChange={(v) => put(k, of.find(([x]) => String(x) === v)?.[0] as ClassSettings[K])}
      />
    );
  return (
    <NumberInput
      aria-label={settingWords[k]}
      min={k === 'cpuShares' ? 1 : 0}
      max={k === 'cpuShares' ? 10_000 : 100}
      value={Number(value)}
      onChange={(v) => put(k, Number(v) as ClassSettings[K])}
    />
  );
}

const whens = {
  now: '',
  'next-start': ', from its next start',
  'new-disks': ', only of disks made from now on',
} as const;

function Preview({ of }: { readonly of: ClassChanged }): ReactNode {
  if (of.changes.length + of.cannot.length === 0)
    return (
      <Text size="sm" role="status">
        No VM becomes otherwise.
      </Text>
    );
  return (
    <Stack gap="xs" role="status">
      {of.changes.length > 0 && <Text size="sm">These VMs become otherwise:</Text>}
      <List size="sm">
        {of.changes.map((c) => (
          <List.Item key={c.vm}>
            <Code>{c.name}</Code> {c.effects.map((e) => `${e.text}${whens[e.when]}`).join('; ')}
          </List.Item>
        ))}
      </List>
      {of.cannot.map((c) => (
        <Text size="sm" c="red" key={c.vm}>
          {c.text}. {c.hint}
        </Text>
      ))}
    </Stack>
  );
}
