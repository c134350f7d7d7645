import {
  Button,
  Checkbox,
  Group,
  NumberInput,
  Select,
  Slider,
  Stack,
  Switch,
  TagsInput,
  Text,
  TextInput,
  Textarea,
} from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { cpuSharesOf, settingWords } from '../../../core/decide/service-class';
import type { ClassSetting } from '../../../core/domain/service-class';
import type { RestCall, VmView } from '../../../core/wire/rest';
import { call, saw, useAsked, useDo } from './api';
import { Refusal } from './parts';

type Patch = RestCall<'vmPatch'>['body'];

/** What people change of a VM. Sent with the generation that was looked at: nobody's edit is overwritten unseen. */
export function EditVm({ vm }: { readonly vm: VmView }): ReactNode {
  const { spec } = vm;
  const [name, setName] = useState(spec.name);
  const [note, setNote] = useState(spec.note);
  const [tags, setTags] = useState<string[]>([...spec.tags]);
  const [cpus, setCpus] = useState(spec.cpus);
  const [memoryMiB, setMemory] = useState(spec.memoryMiB);
  const [ha, setHa] = useState(spec.ha.enabled);
  const [priority, setPriority] = useState(spec.ha.priority);
  const [onHang, setOnHang] = useState(spec.ha.onHang);
  const [cls, setCls] = useState(vm.className ?? '');
  const [cpuShares, setCpuShares] = useState(cpuSharesOf(spec));
  const [asClass, setAsClass] = useState<ClassSetting[]>([]);
  const classes = useAsked('classList', {}, '').value?.items ?? [];
  const own = spec.class?.own ?? [];
  const [autoMove, setAutoMove] = useState(spec.autoMove !== false);
  const { busy, refused, run } = useDo();
  const haBody = {
    ...(ha === spec.ha.enabled ? {} : { enabled: ha }),
    ...(priority === spec.ha.priority ? {} : { priority }),
    ...(onHang === spec.ha.onHang ? {} : { onHang }),
  };
  const body: Patch = {
    ...(name === spec.name ? {} : { name }),
    ...(note === spec.note ? {} : { note }),
    ...(tags.join() === spec.tags.join() ? {} : { tags }),
    ...(cpus === spec.cpus ? {} : { cpus }),
    ...(memoryMiB === spec.memoryMiB ? {} : { memoryMiB }),
    ...(cls === (vm.className ?? '') ? {} : { class: cls === '' ? null : cls }),
    ...(cpuShares === cpuSharesOf(spec) ? {} : { cpuShares }),
    ...(asClass.length === 0 ? {} : { asClass }),
    ...(autoMove === (spec.autoMove !== false) ? {} : { autoMove }),
    ...(Object.keys(haBody).length === 0 ? {} : { ha: haBody }),
  };
  const changed = Object.keys(body).length > 0;
  const save = async (): Promise<void> => {
    const r = await call('vmPatch', { params: { vm: vm.id }, body }, { ifMatch: `"${vm.generation}"` });
    saw('op', r.op);
  };
  return (
    <form
      onSubmit={(e) => {
        e.preventDefault();
        void run(save);
      }}
    >
      <Stack maw={520}>
        <TextInput label="Name" value={name} onChange={(e) => setName(e.currentTarget.value)} required />
        <Group grow>
          <NumberInput label="CPUs" min={1} max={256} value={cpus} onChange={(v) => setCpus(Number(v))} />
          <NumberInput
            label="Memory, MiB"
            min={32}
            step={256}
            value={memoryMiB}
            onChange={(v) => setMemory(Number(v))}
          />
        </Group>
        <TagsInput label="Tags" value={tags} onChange={setTags} />
        <Textarea
          label="Note"
          autosize
          minRows={2}
          value={note}
          onChange={(e) => setNote(e.currentTarget.value)}
        />
        {vm.level === 'lockstep' ? (
          <Text size="sm">It is to be in lockstep: another protection is chosen on the page Protection.</Text>
        ) : (
          <Switch
            label="Start it on another node when its own fails"
            checked={ha}
            onChange={(e) => setHa(e.currentTarget.checked)}
          />
        )}
        {ha && (
          <>
            <Text size="sm" id="priority">
              Who comes back first when many are down: {priority} of 100
            </Text>
            <Slider value={priority} onChange={setPriority} thumbLabel="Priority" label={null} />
            <Select
              label="When the guest hangs"
              data={[
                { value: 'nothing', label: 'Do nothing' },
                { value: 'reset', label: 'Reset it' },
              ]}
              value={onHang}
              allowDeselect={false}
              onChange={(v) => setOnHang(v === 'reset' ? 'reset' : 'nothing')}
            />
          </>
        )}
        <Switch
          label="Balancing may move it to another node"
          checked={autoMove}
          onChange={(e) => setAutoMove(e.currentTarget.checked)}
        />
        <NumberInput
          label="Weight where CPUs are short (100 is usual)"
          min={1}
          max={10_000}
          value={cpuShares}
          onChange={(v) => setCpuShares(Number(v))}
        />
        {classes.length > 0 && (
          <Select
            label="Service class"
            description="What is set here itself stays its own, whatever the class says."
            data={[{ value: '', label: 'None' }, ...classes.map((c) => ({ value: c.name, label: c.name }))]}
            value={cls}
            allowDeselect={false}
            onChange={(v) => setCls(v ?? '')}
          />
        )}
        {cls !== '' && own.length > 0 && (
          <Checkbox.Group
            label="Of its own; ticked ones become as the class says"
            value={asClass}
            onChange={(v) => setAsClass(own.filter((s) => v.includes(s)))}
          >
            <Group>
              {own.map((s) => (
                <Checkbox key={s} value={s} label={settingWords[s]} />
              ))}
            </Group>
          </Checkbox.Group>
        )}
        <Refusal of={refused} />
        <Group>
          <Button type="submit" loading={busy} disabled={!changed}>
            Save
          </Button>
          <Text size="sm" c="dimmed">
            What cannot be changed while it runs waits for its next start, and the page says so.
          </Text>
        </Group>
      </Stack>
    </form>
  );
}
