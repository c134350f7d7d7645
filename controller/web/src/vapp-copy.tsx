import { Button, Checkbox, List, Modal, PasswordInput, Select, Stack, Text, TextInput } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { valueFault } from '../../../core/decide/vapp-value';
import type { VappApplied, VappView } from '../../../core/wire/rest';
import { newKey, saw, useDo } from './api';
import { Refusal } from './parts';

type Property = VappView['properties'][number];

/** What a vApp that begins as something else is asked for with. */
export interface CopyWish {
  readonly name: string;
  readonly linked: boolean;
  readonly values: Readonly<Record<string, string>>;
  readonly start: boolean;
  readonly dryRun: boolean;
}

/** A new vApp of another one, or of a template: named, filled in, looked at, made. Nothing is made before it was looked at. */
export function CopyDialog(p: {
  readonly label: string;
  readonly title: string;
  readonly says: string;
  readonly properties: readonly Property[];
  /** Licences that must be accepted. */
  readonly eulas: readonly string[];
  readonly disabled?: boolean;
  readonly send: (w: CopyWish, key: string) => Promise<VappApplied>;
  readonly done?: (r: VappApplied) => void;
}): ReactNode {
  const [open, setOpen] = useState(false);
  const [name, setName] = useState('');
  const [linked, setLinked] = useState(false);
  const [start, setStart] = useState(false);
  const [accepted, setAccepted] = useState(false);
  const [values, setValues] = useState<Readonly<Record<string, string>>>({});
  const [seen, setSeen] = useState<VappApplied | null>(null);
  const [key, setKey] = useState(newKey);
  const doing = useDo();
  /** Something is otherwise than what was looked at. */
  const changed = (act: () => void): void => {
    act();
    setSeen(null);
    setKey(newKey());
  };
  const faults = p.properties.filter((x) => faultOf(x, values[x.name] ?? '') !== null);
  const ready = name !== '' && faults.length === 0 && (p.eulas.length === 0 || accepted);
  const send = async (): Promise<void> => {
    const dryRun = seen === null;
    const given = Object.fromEntries(Object.entries(values).filter(([, v]) => v !== ''));
    const r = await p.send({ name, linked, values: given, start, dryRun }, key);
    if (dryRun) {
      setSeen(r);
      return;
    }
    if (r.op !== null) saw('op', r.op);
    setOpen(false);
    setValues({});
    p.done?.(r);
  };
  return (
    <>
      <Button size="xs" variant="default" disabled={p.disabled === true} onClick={() => setOpen(true)}>
        {p.label}
      </Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={p.title} size="lg">
        <form
          onSubmit={(e) => {
            e.preventDefault();
            if (ready) void doing.run(send);
          }}
        >
          <Stack gap="xs">
            <Text size="sm">{p.says}</Text>
            <TextInput
              label="Name"
              required
              data-autofocus
              value={name}
              onChange={(e) => changed(() => setName(e.currentTarget.value))}
            />
            {p.properties.map((x) => (
              <PropertyInput
                key={x.name}
                of={x}
                value={values[x.name] ?? ''}
                put={(v) => changed(() => setValues({ ...values, [x.name]: v }))}
              />
            ))}
            {p.eulas.length > 0 && (
              <>
                {p.eulas.map((text, i) => (
                  <Text
                    key={i}
                    size="xs"
                    tabIndex={0}
                    mah={160}
                    style={{ overflow: 'auto', whiteSpace: 'pre-wrap' }}
                  >
                    {text}
                  </Text>
                ))}
                <Checkbox
                  label={
                    p.eulas.length === 1
                      ? 'I accept this licence'
                      : `I accept these ${p.eulas.length} licences`
                  }
                  checked={accepted}
                  onChange={(e) => setAccepted(e.currentTarget.checked)}
                />
              </>
            )}
            <Checkbox
              label="Linked: store only what differs"
              description="At once and with little room; what it begins as is kept as long as its disks"
              checked={linked}
              onChange={(e) => changed(() => setLinked(e.currentTarget.checked))}
            />
            <Checkbox
              label="Start it when it is made"
              checked={start}
              onChange={(e) => changed(() => setStart(e.currentTarget.checked))}
            />
            {seen !== null && <Seen of={seen} />}
            <Refusal of={doing.refused} />
            <Button type="submit" loading={doing.busy} disabled={!ready}>
              {seen === null ? 'See what is made' : 'Make it'}
            </Button>
          </Stack>
        </form>
      </Modal>
    </>
  );
}

/** What is wrong with what stands in a field; null: nothing. Empty: it stays as it is. */
const faultOf = (p: Property, text: string): string | null => (text === '' ? null : valueFault(text, p));

function PropertyInput(p: {
  readonly of: Property;
  readonly value: string;
  readonly put: (v: string) => void;
}): ReactNode {
  const { of, value, put } = p;
  const usual = of.value ?? of.default;
  const common = {
    label: of.label === '' ? of.name : of.label,
    description: of.description === '' ? undefined : of.description,
    error: faultOf(of, value),
    disabled: !of.userConfigurable,
  };
  const choices = of.type === 'boolean' ? [true, false] : of.choices;
  if (choices !== undefined && !of.secret)
    return (
      <Select
        {...common}
        data={choices.map(String)}
        value={value === '' ? null : value}
        placeholder={usual === null ? 'none' : String(usual)}
        clearable
        onChange={(v) => put(v ?? '')}
      />
    );
  if (of.secret)
    return (
      <PasswordInput
        {...common}
        value={value}
        autoComplete="new-password"
        placeholder="as it is"
        onChange={(e) => put(e.currentTarget.value)}
      />
    );
  return (
    <TextInput
      {...common}
      value={value}
      inputMode={of.type === 'string' ? 'text' : 'decimal'}
      placeholder={usual === null ? 'none' : String(usual)}
      onChange={(e) => put(e.currentTarget.value)}
    />
  );
}

function Seen({ of }: { readonly of: VappApplied }): ReactNode {
  return (
    <Stack gap={4} role="status">
      <List size="sm">
        {of.changes.map((c) => (
          <List.Item key={c.text}>{c.text}</List.Item>
        ))}
        {of.placement.map((x) => (
          <List.Item key={x.member}>
            {x.member} on {x.node}
            {x.standby === null ? '' : `, standby ${x.standby}`}
          </List.Item>
        ))}
      </List>
      {of.warnings.map((w) => (
        <Text key={w} size="sm" c="orange.9">
          {w}
        </Text>
      ))}
    </Stack>
  );
}
