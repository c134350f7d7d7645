import { Alert, Button, Code, Stack, Text, TextInput, Title } from '@mantine/core';
import { useContext, useState, type FormEvent, type ReactNode } from 'react';
import { call, useDo } from './api';
import { MeContext } from './may';
import { Facts, Page, Refusal } from './parts';

export function MePage({ changed }: { readonly changed: () => void }): ReactNode {
  const me = useContext(MeContext);
  if (me === null) return null;
  return (
    <Page kind="You" name={me.name}>
      <Facts
        of={[
          ['Role', me.role],
          ['Operator of', me.operates.length === 0 ? 'nothing beyond the role' : `${me.operates.length} VMs`],
          ['Second factor', me.user?.secondFactor === true ? 'on' : 'off'],
          ...(me.user?.signOn ? [['Sign-on', `as ${me.user.signOn.name}`] as const] : []),
        ]}
      />
      {me.user?.passwordSet === false ? (
        <Alert color="blue">
          You come by a provider of identities: password and second factor are there.
        </Alert>
      ) : me.via === 'session' ? (
        <>
          <Password />
          <SecondFactor on={me.user?.secondFactor === true} changed={changed} />
        </>
      ) : (
        <Alert color="blue">You came with a token: it has neither password nor second factor.</Alert>
      )}
    </Page>
  );
}

const onSubmit =
  (act: () => void) =>
  (e: FormEvent): void => {
    e.preventDefault();
    act();
  };

function Password(): ReactNode {
  const [old, setOld] = useState('');
  const [next, setNext] = useState('');
  const [again, setAgain] = useState('');
  const [done, setDone] = useState(false);
  const { busy, refused, run } = useDo();
  const same = next === again;
  return (
    <form
      onSubmit={onSubmit(
        () =>
          void run(() => call('mePassword', { body: { old, new: next } })).then((ok) => {
            setDone(ok);
            if (!ok) return;
            setOld('');
            setNext('');
            setAgain('');
          }),
      )}
    >
      <Stack maw={380}>
        <Title order={2} size="h4">
          Password
        </Title>
        <Secret label="Old password" value={old} set={setOld} autoComplete="current-password" />
        <Secret
          label="New password, 10 characters or more"
          value={next}
          set={setNext}
          autoComplete="new-password"
        />
        <Secret
          label="New password, once more"
          value={again}
          set={setAgain}
          autoComplete="new-password"
          error={again !== '' && !same ? 'It is not the same' : null}
        />
        <Refusal of={refused} />
        {done && <Alert color="green">It is changed. Your other sessions have ended.</Alert>}
        <Button type="submit" loading={busy} disabled={!same || next.length < 10 || old === ''}>
          Change it
        </Button>
      </Stack>
    </form>
  );
}

export function Secret(p: {
  readonly label: string;
  readonly value: string;
  readonly set: (v: string) => void;
  readonly autoComplete: string;
  readonly error?: string | null;
  readonly required?: boolean;
}): ReactNode {
  return (
    <TextInput
      label={p.label}
      type="password"
      required={p.required ?? true}
      value={p.value}
      autoComplete={p.autoComplete}
      error={p.error ?? null}
      onChange={(e) => p.set(e.currentTarget.value)}
    />
  );
}

function SecondFactor({ on, changed }: { readonly on: boolean; readonly changed: () => void }): ReactNode {
  const [fresh, setFresh] = useState<{ secret: string; uri: string } | null>(null);
  const [password, setPassword] = useState('');
  const [code, setCode] = useState('');
  const { busy, refused, run } = useDo();
  const put = async (): Promise<void> => {
    const body = { password, secret: on ? null : (fresh?.secret ?? null), code: on ? null : code };
    await call('totpPut', { body });
    setFresh(null);
    setPassword('');
    setCode('');
    changed();
  };
  return (
    <form onSubmit={onSubmit(() => void run(put))}>
      <Stack maw={380}>
        <Title order={2} size="h4">
          Second factor
        </Title>
        <Text size="sm">
          {on
            ? 'A login also asks for the code that your authenticator shows.'
            : 'With it, a login also asks for a code that an authenticator shows (TOTP).'}
        </Text>
        {!on && fresh === null && (
          <Button variant="default" onClick={() => void run(async () => setFresh(await call('totpNew', {})))}>
            Set it up
          </Button>
        )}
        {!on && fresh !== null && (
          <>
            <Text size="sm">Give this to your authenticator, then the code that it shows:</Text>
            <Code block tabIndex={0}>
              {fresh.secret}
            </Code>
            <a href={fresh.uri}>Open it in an authenticator on this device</a>
            <TextInput
              label="Code"
              required
              inputMode="numeric"
              autoComplete="one-time-code"
              maxLength={6}
              value={code}
              onChange={(e) => setCode(e.currentTarget.value)}
            />
          </>
        )}
        {(on || fresh !== null) && (
          <>
            <Secret label="Password" value={password} set={setPassword} autoComplete="current-password" />
            <Button type="submit" loading={busy} {...(on ? { color: 'red', variant: 'light' } : {})}>
              {on ? 'Turn it off' : 'Turn it on'}
            </Button>
          </>
        )}
        <Refusal of={refused} />
      </Stack>
    </form>
  );
}
