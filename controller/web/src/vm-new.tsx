import {
  Button,
  Fieldset,
  Grid,
  Group,
  NumberInput,
  Select,
  Stack,
  Switch,
  TextInput,
  Textarea,
} from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { useLocation } from 'wouter';
import { settingText, settingWords } from '../../../core/decide/service-class';
import type { ClassSetting } from '../../../core/domain/service-class';
import type { RestCall } from '../../../core/wire/rest';
import { apiRoot } from '../../../core/wire/rest';
import { call, newKey, saw, useAsked, useDo } from './api';
import { useAll } from './live';
import { Page, Refusal, SameAs } from './parts';

type Body = RestCall<'vmCreate'>['body'];

interface Form {
  readonly name: string;
  readonly cpus: number;
  readonly memoryMiB: number;
  readonly image: string;
  readonly sizeGiB: number;
  readonly pool: string;
  readonly twice: boolean;
  readonly network: string;
  readonly user: string;
  readonly sshKeys: string;
  readonly cls: string;
  readonly ha: boolean;
  readonly node: string;
  readonly start: boolean;
}

const empty: Form = {
  name: '',
  cpus: 1,
  memoryMiB: 1024,
  image: '',
  sizeGiB: 10,
  pool: '',
  twice: false,
  network: '',
  user: '',
  sshKeys: '',
  cls: '',
  ha: false,
  node: '',
  start: true,
};

const lines = (text: string): string[] =>
  text
    .split('\n')
    .map((l) => l.trim())
    .filter((l) => l !== '');

function bodyOf(f: Form): Body {
  return {
    name: f.name,
    cpus: f.cpus,
    memoryMiB: f.memoryMiB,
    disks: [
      {
        sizeBytes: f.sizeGiB * 2 ** 30,
        ...(f.pool === '' ? {} : { pool: f.pool }),
        ...(f.image === '' ? {} : { image: f.image }),
        ...(f.twice ? { replicas: 2 } : {}),
      },
    ],
    nics: f.network === '' ? [] : [{ network: f.network }],
    ...(f.user === '' && f.sshKeys === ''
      ? {}
      : { cloudInit: { ...(f.user === '' ? {} : { user: f.user }), sshKeys: lines(f.sshKeys) } }),
    ...(f.cls === '' ? {} : { class: f.cls }),
    ...(f.ha ? { ha: { enabled: true } } : {}),
    ...(f.node === '' ? {} : { node: f.node }),
    power: f.start ? 'running' : 'stopped',
  };
}

/** A word for a shell: quoted where it needs to be. */
const word = (text: string): string =>
  /^[\w./:@=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

function cliOf(f: Form): string {
  const disk = [
    `size=${f.sizeGiB}G`,
    ...(f.pool === '' ? [] : [`pool=${f.pool}`]),
    ...(f.image === '' ? [] : [`image=${f.image}`]),
    ...(f.twice ? ['replicas=2'] : []),
  ];
  const parts = [
    `flotilla vm create ${word(f.name === '' ? 'NAME' : f.name)} --cpus ${f.cpus} --memory ${f.memoryMiB}M`,
    `--disk ${word(disk.join(','))}`,
    ...(f.network === '' ? [] : [`--nic ${word(f.network)}`]),
    ...(f.user === '' ? [] : [`--user ${word(f.user)}`]),
    ...(lines(f.sshKeys).length === 0 ? [] : ['--ssh-key KEYS.pub']),
    ...(f.cls === '' ? [] : [`--class ${word(f.cls)}`]),
    ...(f.ha ? ['--ha on'] : []),
    ...(f.node === '' ? [] : [`--node ${f.node}`]),
    ...(f.start ? ['--start'] : []),
  ];
  return parts.join(' \\\n  ');
}

/** A VM on one screen, with the same wish in the words of API and command line beside it. */
export function NewVmPage(): ReactNode {
  const [f, setF] = useState<Form>(empty);
  // Kept until the wish changes: a click repeated after a lost answer makes no second VM.
  const [key, setKey] = useState(newKey);
  const [, go] = useLocation();
  const { busy, refused, run } = useDo();
  const set = (part: Partial<Form>): void => {
    setF({ ...f, ...part });
    setKey(newKey());
  };
  const create = async (): Promise<void> => {
    const r = await call('vmCreate', { body: bodyOf(f) }, { key });
    saw('op', r.op);
    saw('vm', r.vm);
    go(`/vms/${r.vm.id}`);
  };
  return (
    <Page kind="New" name="New VM">
      <Grid>
        <Grid.Col span={{ base: 12, md: 7 }}>
          <form
            onSubmit={(e) => {
              e.preventDefault();
              void run(create);
            }}
          >
            <Stack>
              <Machine f={f} set={set} />
              <Guest f={f} set={set} />
              <Place f={f} set={set} />
              <Refusal of={refused} />
              <Group>
                <Button type="submit" loading={busy}>
                  {f.start ? 'Create and start' : 'Create'}
                </Button>
              </Group>
            </Stack>
          </form>
        </Grid.Col>
        <Grid.Col span={{ base: 12, md: 5 }}>
          <SameAs cli={cliOf(f)} api={`POST ${apiRoot}/vms\n${JSON.stringify(bodyOf(f), null, 2)}`} />
        </Grid.Col>
      </Grid>
    </Page>
  );
}

interface PartProps {
  readonly f: Form;
  readonly set: (part: Partial<Form>) => void;
}

function Machine({ f, set }: PartProps): ReactNode {
  const images = useAll('image').filter((i) => i.state === 'ready' && i.format !== 'iso');
  const pools = useAll('pool');
  const networks = useAll('network');
  const isThin = (name: string | null): boolean => pools.find((p) => p.name === name)?.kind === 'thin';
  const least = images.find((i) => i.name === f.image)?.virtualSizeBytes ?? 0;
  return (
    <Fieldset legend="Machine">
      <Stack>
        <TextInput
          label="Name"
          required
          maxLength={63}
          value={f.name}
          onChange={(e) => set({ name: e.currentTarget.value })}
        />
        <Group grow>
          <NumberInput
            label="CPUs"
            min={1}
            max={256}
            value={f.cpus}
            onChange={(v) => set({ cpus: Number(v) })}
          />
          <NumberInput
            label="Memory, MiB"
            min={32}
            step={256}
            value={f.memoryMiB}
            onChange={(v) => set({ memoryMiB: Number(v) })}
          />
        </Group>
        <Select
          label="First disk from"
          data={[
            { value: '', label: 'Nothing: a blank disk' },
            ...images.map((i) => ({ value: i.name, label: i.name })),
          ]}
          value={f.image}
          allowDeselect={false}
          onChange={(v) => set({ image: v ?? '' })}
        />
        <Group grow>
          <NumberInput
            label="Its size, GiB"
            min={Math.max(1, Math.ceil(least / 2 ** 30))}
            value={f.sizeGiB}
            onChange={(v) => set({ sizeGiB: Number(v) })}
          />
          <Select
            label="Pool"
            data={[
              { value: '', label: 'As usual' },
              ...pools.map((p) => ({ value: p.name, label: `${p.name} (${p.kind})` })),
            ]}
            value={f.pool}
            allowDeselect={false}
            onChange={(v) => set({ pool: v ?? '', twice: isThin(v) && f.twice })}
          />
        </Group>
        {isThin(f.pool) && (
          <Switch
            label="On two nodes"
            description="Every write is on both before the guest is told: no loss of one node loses any."
            checked={f.twice}
            onChange={(e) => set({ twice: e.currentTarget.checked })}
          />
        )}
        <Select
          label="Network"
          data={[{ value: '', label: 'None' }, ...networks.map((n) => ({ value: n.name, label: n.name }))]}
          value={f.network}
          allowDeselect={false}
          onChange={(v) => set({ network: v ?? '' })}
        />
      </Stack>
    </Fieldset>
  );
}

function Guest({ f, set }: PartProps): ReactNode {
  return (
    <Fieldset legend="Guest, by cloud-init">
      <Stack>
        <TextInput
          label="Login to make"
          value={f.user}
          onChange={(e) => set({ user: e.currentTarget.value })}
        />
        <Textarea
          label="SSH keys, one a line"
          autosize
          minRows={1}
          value={f.sshKeys}
          onChange={(e) => set({ sshKeys: e.currentTarget.value })}
        />
      </Stack>
    </Fieldset>
  );
}

function Place({ f, set }: PartProps): ReactNode {
  const nodes = useAll('node').filter((n) => !n.record.witness);
  const classes = useAsked('classList', {}, '').value?.items ?? [];
  const said = classes.find((c) => c.name === f.cls)?.settings ?? {};
  return (
    <Fieldset legend="Where, and how safe">
      <Stack>
        {classes.length > 0 && (
          <Select
            label="Service class"
            description={Object.entries(said)
              .map(([k, v]) => `${settingWords[k as ClassSetting]}: ${settingText(v)}`)
              .join(', ')}
            data={[{ value: '', label: 'None' }, ...classes.map((c) => ({ value: c.name, label: c.name }))]}
            value={f.cls}
            allowDeselect={false}
            onChange={(v) => set({ cls: v ?? '' })}
          />
        )}
        <Switch
          label="Start it on another node when its own fails"
          description={`Needs disks on a shared pool, or on two nodes.${said.ha === undefined ? '' : ' Off: as the class says.'}`}
          checked={f.ha}
          onChange={(e) => set({ ha: e.currentTarget.checked })}
        />
        <Select
          label="Node"
          data={[
            { value: '', label: 'The one that fits best' },
            ...nodes.map((n) => ({ value: n.id, label: n.id })),
          ]}
          value={f.node}
          allowDeselect={false}
          onChange={(v) => set({ node: v ?? '' })}
        />
        <Switch
          label="Start it at once"
          checked={f.start}
          onChange={(e) => set({ start: e.currentTarget.checked })}
        />
      </Stack>
    </Fieldset>
  );
}
