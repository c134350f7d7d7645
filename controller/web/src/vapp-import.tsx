import {
  Alert,
  Button,
  Checkbox,
  FileInput,
  Group,
  PasswordInput,
  Progress,
  ScrollArea,
  Select,
  Stack,
  Stepper,
  Switch,
  Text,
  TextInput,
} from '@mantine/core';
import { useEffect, useRef, useState, type ReactNode } from 'react';
import { useLocation } from 'wouter';
import { formatSize } from '../../../core/domain/units';
import type { ImportPreview, RestCall } from '../../../core/wire/rest';
import { call, Refused, saw, useDo } from './api';
import { useAll } from './live';
import { ended, openPackage, uploadDisk, type ChosenPackage } from './package-file';
import { Facts, Page, Refusal, Rows } from './parts';

type Body = RestCall<'importMake'>['body'];

/** What is said beside the package. */
interface Wish {
  readonly deploymentOption: string;
  /** Ours for each of theirs; empty: none. Those that are not in it are not said yet. */
  readonly networks: Readonly<Record<string, string>>;
  readonly pool: string;
  readonly prefix: string;
  readonly asVapp: boolean;
  readonly vapp: string;
  readonly properties: Readonly<Record<string, string>>;
  readonly acceptEulas: boolean;
  readonly allowFetch: boolean;
  readonly start: boolean;
}

const nothing: Wish = {
  deploymentOption: '',
  networks: {},
  pool: '',
  prefix: '',
  asVapp: false,
  vapp: '',
  properties: {},
  acceptEulas: false,
  allowFetch: false,
  start: false,
};

const bodyOf = (chosen: ChosenPackage, w: Wish): Body => ({
  ...chosen.told,
  ...(w.deploymentOption === '' ? {} : { deploymentOption: w.deploymentOption }),
  networks: Object.fromEntries(Object.entries(w.networks).map(([n, o]) => [n, o === '' ? null : o])),
  properties: { ...w.properties },
  prefix: w.prefix,
  ...(w.pool === '' ? {} : { pool: w.pool }),
  ...(w.asVapp && w.vapp !== '' ? { vapp: w.vapp } : {}),
  acceptEulas: w.acceptEulas,
  allowFetch: w.allowFetch,
  start: w.start,
});

const steps = ['Package', 'What is in it', 'Networks and place', 'Properties', 'Licences', 'Deploy'] as const;
/** What has to be right before a step is left. */
const judged: readonly (readonly ImportPreview['problems'][number]['about'][])[] = [
  [],
  ['package'],
  ['network', 'name'],
  [],
  ['licence'],
  [],
];

/** From a package to VMs: chosen, looked into, mapped, filled in, accepted, made. Nothing is sent before the last step but texts. */
export function ImportPage(): ReactNode {
  const [step, setStep] = useState(0);
  const [chosen, setChosen] = useState<ChosenPackage | null>(null);
  const [preview, setPreview] = useState<ImportPreview | null>(null);
  const [wish, setWish] = useState<Wish>(nothing);
  const doing = useDo();
  const set = (part: Partial<Wish>): void => setWish({ ...wish, ...part });

  const look = async (c: ChosenPackage, w: Wish): Promise<ImportPreview> => {
    const p = await call('importPreview', { body: bodyOf(c, w) });
    setPreview(p);
    return p;
  };
  const choose = async (files: readonly File[]): Promise<void> => {
    const c = await openPackage(files);
    const p = await look(c, nothing);
    setChosen(c);
    const several = p.vms.length > 1;
    setWish({
      ...nothing,
      asVapp: several,
      vapp: several ? vappNameOf(p.package.name) : '',
      networks: Object.fromEntries(Object.entries(p.networks).map(([n, o]) => [n, o ?? ''])),
    });
    setStep(1);
  };
  const next = async (): Promise<void> => {
    if (chosen === null) return;
    const p = await look(chosen, wish);
    const stands = p.problems.filter((x) => judged[step]?.includes(x.about));
    if (stands.length > 0)
      throw new Refused({
        code: 'unsupported',
        message: stands.map((x) => x.text).join('; '),
        hint: 'Change it here, and go on.',
        causes: [],
      });
    if (wish.asVapp && wish.vapp === '' && step === 2)
      throw new Refused({ code: 'bad-input', message: 'The vApp has no name', hint: 'Name it.', causes: [] });
    setStep(step + 1);
  };
  const shows = (): ReactNode => {
    if (step === 0)
      return <Choose busy={doing.busy} choose={(files) => void doing.run(() => choose(files))} />;
    if (chosen === null || preview === null) return null;
    const of = { preview, wish, set };
    if (step === 1) return <Within {...of} />;
    if (step === 2) return <Place {...of} />;
    if (step === 3) return <Properties {...of} />;
    if (step === 4) return <Licences {...of} />;
    return <Deploy chosen={chosen} preview={preview} wish={wish} set={set} />;
  };
  return (
    <Page kind="OVF or OVA" name="Import a package">
      <Stack>
        <Stepper active={step} size="xs" allowNextStepsSelect={false} onStepClick={setStep}>
          {steps.map((label) => (
            <Stepper.Step key={label} label={label} />
          ))}
        </Stepper>
        {shows()}
        <Refusal of={doing.refused} />
        {step > 0 && step < steps.length - 1 && (
          <Group>
            <Button
              variant="default"
              onClick={() => {
                doing.clear();
                setStep(step - 1);
              }}
            >
              Back
            </Button>
            <Button loading={doing.busy} onClick={() => void doing.run(next)}>
              Next
            </Button>
          </Group>
        )}
      </Stack>
    </Page>
  );
}

const vappNameOf = (name: string): string =>
  name
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-+|-+$/g, '')
    .slice(0, 40);

function Choose(p: { readonly busy: boolean; readonly choose: (files: readonly File[]) => void }): ReactNode {
  return (
    <FileInput
      label="Package"
      description="An .ova, or an .ovf together with its files: disks, manifest."
      placeholder="Choose"
      multiple
      accept=".ova,.ovf,.vmdk,.vhd,.vhdx,.qcow2,.img,.raw,.iso,.mf,.cert,.xml,.gz,*"
      disabled={p.busy}
      onChange={(files) => {
        if (files.length > 0) p.choose(files);
      }}
    />
  );
}

interface PartProps {
  readonly preview: ImportPreview;
  readonly wish: Wish;
  readonly set: (part: Partial<Wish>) => void;
}

const proofOf = (p: ImportPreview['package']): string => {
  if (p.manifest === null) return 'there is no manifest: nothing says that its files are whole';
  const unsaid = p.manifest.unverified.length;
  return `${p.manifest.name}: ${p.manifest.verified.length} right${unsaid === 0 ? '' : `, ${unsaid} checked as they are sent, where it has SHA-256`}`;
};

function Within({ preview, wish, set }: PartProps): ReactNode {
  const { package: p } = preview;
  const fetched = preview.images.flatMap((i) => i.url ?? []);
  return (
    <Stack>
      <Facts
        of={[
          ['Package', `${p.name} (${p.kind.toUpperCase()}, OVF ${p.version})`],
          ['Note', p.annotation],
          ['Checksums', proofOf(p)],
          [
            'Signed by',
            p.signer === null ? 'nobody' : `${p.signer.subject}${p.signer.selfSigned ? ' (by itself)' : ''}`,
          ],
        ]}
      />
      {p.deploymentOptions.length > 0 && (
        <Select
          label="Size"
          description="Applied when you go on."
          allowDeselect={false}
          data={p.deploymentOptions.map((o) => ({ value: o.id, label: o.label === '' ? o.id : o.label }))}
          value={wish.deploymentOption === '' ? p.configuration : wish.deploymentOption}
          onChange={(v) => set({ deploymentOption: v ?? '' })}
        />
      )}
      <Machines preview={preview} />
      {fetched.length > 0 && (
        <Checkbox
          label={`Let the nodes fetch ${fetched.length === 1 ? 'a disk' : `${fetched.length} disks`} from elsewhere`}
          description={fetched.join(', ')}
          checked={wish.allowFetch}
          onChange={(e) => set({ allowFetch: e.currentTarget.checked })}
        />
      )}
      {p.warnings.length > 0 && (
        <Rows
          label="Remarks on the descriptor"
          head={['Line', 'Remark']}
          none=""
          rows={p.warnings.map((w, i) => ({ key: `${i}`, cells: [w.line ?? '', w.text] }))}
        />
      )}
    </Stack>
  );
}

function Machines({ preview }: { readonly preview: ImportPreview }): ReactNode {
  const order = (name: string): string => {
    const i = preview.stages.findIndex((s) => s.vms.includes(name));
    return i === -1 ? 'by hand' : String(i + 1);
  };
  return (
    <Rows
      label="VMs that will be made"
      head={['VM', 'CPUs', 'Memory', 'Disks', 'NICs', 'Started', 'Otherwise than in the package']}
      none="There is none."
      rows={preview.vms.map((v) => ({
        key: v.system,
        cells: [
          v.name,
          v.cpus,
          formatSize(v.memoryMiB * 2 ** 20),
          v.disks
            .map((d) => `${d.sizeBytes === null ? 'as its image' : formatSize(d.sizeBytes)} ${d.bus}`)
            .join(', '),
          v.nics.map((n) => `${n.network} (${n.model})`).join(', '),
          order(v.name),
          v.changes.join('; '),
        ],
      }))}
    />
  );
}

function Place({ preview, wish, set }: PartProps): ReactNode {
  const ours = useAll('network');
  const pools = useAll('pool');
  return (
    <Stack>
      {preview.package.networks.map((n) => (
        <Select
          key={n.name}
          label={`Network "${n.name}" of the package is`}
          description={n.description}
          placeholder="Say which"
          allowDeselect={false}
          data={[
            { value: '', label: 'None: NICs on it are left out' },
            ...ours.map((o) => ({ value: o.name, label: o.name })),
          ]}
          value={wish.networks[n.name] ?? null}
          onChange={(v) => set({ networks: { ...wish.networks, [n.name]: v ?? '' } })}
        />
      ))}
      <Select
        label="Pool"
        allowDeselect={false}
        data={[
          { value: '', label: 'As usual' },
          ...pools
            .filter((x) => x.kind !== 'thin')
            .map((x) => ({ value: x.name, label: `${x.name} (${x.kind})` })),
        ]}
        value={wish.pool}
        onChange={(v) => set({ pool: v ?? '' })}
      />
      <TextInput
        label="Before the names of VMs"
        maxLength={32}
        value={wish.prefix}
        onChange={(e) => set({ prefix: e.currentTarget.value })}
      />
      <Switch
        label="One vApp of all its VMs, with their order"
        checked={wish.asVapp}
        onChange={(e) => set({ asVapp: e.currentTarget.checked })}
      />
      {wish.asVapp && (
        <TextInput
          label="Name of the vApp"
          required
          maxLength={63}
          value={wish.vapp}
          onChange={(e) => set({ vapp: e.currentTarget.value })}
        />
      )}
    </Stack>
  );
}

function Properties({ preview, wish, set }: PartProps): ReactNode {
  const asked = preview.package.properties.filter((p) => p.userConfigurable);
  if (asked.length === 0) return <Text>The package asks for nothing.</Text>;
  const put = (id: string, value: string): void => {
    const { [id]: _, ...others } = wish.properties;
    set({ properties: value === '' ? others : { ...others, [id]: value } });
  };
  return (
    <Stack>
      <Text size="sm">Its guests are told these. What is left empty stays as the package says.</Text>
      {asked.map((p) => {
        const about = {
          label: `${p.category === null ? '' : `${p.category}: `}${p.label === '' ? p.id : p.label}`,
          description: [p.description, p.type].filter((x) => x !== '').join(' · '),
          placeholder: p.secret && p.hasDefault ? 'as the package says' : (p.default ?? ''),
        };
        const value = wish.properties[p.id] ?? '';
        if (p.type === 'boolean')
          return (
            <Select
              key={p.id}
              {...about}
              data={[
                { value: '', label: `As the package says (${p.default ?? 'nothing'})` },
                { value: 'true', label: 'Yes' },
                { value: 'false', label: 'No' },
              ]}
              allowDeselect={false}
              value={value}
              onChange={(v) => put(p.id, v ?? '')}
            />
          );
        const Input = p.secret ? PasswordInput : TextInput;
        return (
          <Input key={p.id} {...about} value={value} onChange={(e) => put(p.id, e.currentTarget.value)} />
        );
      })}
    </Stack>
  );
}

function Licences({ preview, wish, set }: PartProps): ReactNode {
  const { eulas } = preview.package;
  if (eulas.length === 0) return <Text>There is no licence to accept.</Text>;
  return (
    <Stack>
      {eulas.map((e, i) => (
        <ScrollArea.Autosize key={`${e.owner ?? ''} ${i}`} mah={300} type="auto" tabIndex={0}>
          <Text size="sm" style={{ whiteSpace: 'pre-wrap' }}>
            {e.text}
          </Text>
        </ScrollArea.Autosize>
      ))}
      <Checkbox
        label={eulas.length === 1 ? 'I accept this licence' : `I accept these ${eulas.length} licences`}
        checked={wish.acceptEulas}
        onChange={(e) => set({ acceptEulas: e.currentTarget.checked })}
      />
    </Stack>
  );
}

function Deploy({ chosen, preview, wish, set }: PartProps & { readonly chosen: ChosenPackage }): ReactNode {
  const doing = useDo();
  const [, go] = useLocation();
  const [said, setSaid] = useState<{ text: string; share: number } | null>(null);
  const stop = useRef<AbortController | null>(null);
  useEffect(() => () => stop.current?.abort(), []);
  const several = preview.vms.length > 1 && !wish.asVapp;
  const total = preview.images.reduce((n, i) => n + i.storedBytes, 0);
  const deploy = async (): Promise<void> => {
    stop.current = new AbortController();
    const { signal } = stop.current;
    const made: string[] = [];
    let done = 0;
    for (const image of preview.images) {
      const before = done;
      const { id, made: ours } = await uploadDisk(chosen, image, {
        pool: wish.pool === '' ? undefined : wish.pool,
        node: undefined,
        signal,
        progress: (bytes) =>
          setSaid({
            text:
              image.url === null ? `sending ${image.files[0] ?? image.name}` : `a node fetches ${image.url}`,
            share: (before + bytes) / Math.max(1, total),
          }),
      });
      done += image.storedBytes;
      if (ours && !image.iso) made.push(id);
    }
    setSaid({ text: 'making its VMs', share: 1 });
    const answer = await call('importMake', {
      body: bodyOf(chosen, several ? { ...wish, start: false } : wish),
    });
    for (const op of answer.ops) {
      saw('op', op);
      await ended(op, signal);
    }
    for (const image of made) await call('imageDelete', { params: { image } }).catch(() => undefined);
    go(
      answer.vapp !== null
        ? `/vapps/${answer.vapp}`
        : answer.vms.length === 1
          ? `/vms/${answer.vms[0]?.id ?? ''}`
          : '/vms',
    );
  };
  return (
    <Stack>
      <Machines preview={preview} />
      <Text size="sm">
        {preview.images.length} disks and media, {formatSize(total)}, are sent from here. This page has to
        stay open until then; stopped, it goes on where it was when the same package is imported again.
      </Text>
      {several ? (
        <Alert variant="light">Several VMs that are no vApp are not started with the import.</Alert>
      ) : (
        <Switch
          label="Start it when it is made"
          checked={wish.start}
          disabled={doing.busy}
          onChange={(e) => set({ start: e.currentTarget.checked })}
        />
      )}
      {said !== null && (
        <Stack gap={4}>
          <Text size="sm" role="status">
            {said.text}
          </Text>
          <Progress value={said.share * 100} aria-label="Sent" />
        </Stack>
      )}
      <Refusal of={doing.refused} />
      <Group>
        <Button loading={doing.busy} onClick={() => void doing.run(deploy)}>
          Import
        </Button>
        {doing.busy && (
          <Button variant="default" onClick={() => stop.current?.abort()}>
            Stop
          </Button>
        )}
      </Group>
    </Stack>
  );
}
