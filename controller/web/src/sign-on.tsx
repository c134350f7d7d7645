import {
  Alert,
  Button,
  Checkbox,
  Code,
  Group,
  NativeSelect,
  PasswordInput,
  SimpleGrid,
  Stack,
  TagsInput,
  Text,
  Textarea,
  TextInput,
  Title,
} from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { roleSchema, type Role } from '../../../core/domain/user';
import type { RestAnswer, SignOnView } from '../../../core/wire/rest';
import { call, useAsked, useDo } from './api';
import { Confirm, Facts, NotYet, Page, Refusal } from './parts';
import { roles as roleChoices } from './users';

type Provider = NonNullable<SignOnView['provider']>;

/** The provider of identities by which people log in. */
export function SignOnPage(): ReactNode {
  const [mark, setMark] = useState(0);
  const { value, refused } = useAsked('signOnGet', {}, mark);
  const [tried, setTried] = useState<RestAnswer<'signOnTest'> | null>(null);
  const { busy, refused: untried, run } = useDo();
  const changed = (): void => {
    setTried(null);
    setMark(mark + 1);
  };
  if (value === null) return <NotYet refused={refused} />;
  const p = value.provider;
  return (
    <Page
      kind="Who may use the cluster"
      name="Sign-on"
      actions={
        p !== null && (
          <>
            <Button
              size="xs"
              loading={busy}
              onClick={() => void run(async () => setTried(await call('signOnTest', {})))}
            >
              Ask the provider
            </Button>
            <Confirm
              label="Forget it"
              danger
              title="Forget the provider?"
              says={
                <Text size="sm">
                  Nobody logs in by it any more. Users and sessions stay; who has no password needs one.
                </Text>
              }
              yes="Forget it"
              act={() => call('signOnDelete', {})}
              done={changed}
            />
          </>
        )
      }
    >
      <Text>
        {p === null
          ? 'People log in by name and password. With a provider of identities (OpenID Connect) they can also come by that.'
          : `The login form has a button "Log in with ${p.name}". Passwords work as before, also when the provider does not.`}
      </Text>
      <Text size="sm">
        The provider must know where to send people back to:{' '}
        <Code>{location.origin + value.callbackPath}</Code>, and the same below the address of each other
        controller that people use.
      </Text>
      <Refusal of={untried} />
      {tried !== null && (
        <Alert color="green" variant="light" role="status" title="It answers as it should">
          <Facts
            of={[
              ['Issuer', tried.issuer],
              ['People go to', tried.authorizationEndpoint],
              ['Keys', String(tried.keys)],
              ['Ends its own sessions', tried.endsSessions ? 'yes' : 'no'],
            ]}
          />
        </Alert>
      )}
      <ProviderForm key={JSON.stringify(p)} of={p} changed={changed} />
    </Page>
  );
}

function ProviderForm({
  of,
  changed,
}: {
  readonly of: Provider | null;
  readonly changed: () => void;
}): ReactNode {
  const [name, setName] = useState(of?.name ?? '');
  const [issuer, setIssuer] = useState(of?.issuer ?? '');
  const [clientId, setClientId] = useState(of?.clientId ?? '');
  const [secret, setSecret] = useState('');
  const [noSecret, setNoSecret] = useState(of?.clientSecretSet === false);
  const [ca, setCa] = useState(of?.ca ?? '');
  const [scopes, setScopes] = useState<string[]>(of?.scopes ?? ['profile', 'email']);
  const [nameClaim, setNameClaim] = useState(of?.nameClaim ?? 'preferred_username');
  const [roleClaim, setRoleClaim] = useState(of?.roleClaim ?? 'groups');
  const [roles, setRoles] = useState<readonly { value: string; role: Role }[]>(of?.roles ?? []);
  const [otherRole, setOtherRole] = useState<Role | null>(of?.otherRole ?? null);
  const [makesUsers, setMakesUsers] = useState(of?.makesUsers ?? false);
  const { busy, refused, run } = useDo();
  const save = (): Promise<unknown> =>
    call('signOnPut', {
      body: {
        ...(name === '' ? {} : { name }),
        issuer,
        clientId,
        ...(noSecret ? { clientSecret: null } : secret === '' ? {} : { clientSecret: secret }),
        ca: ca.trim() === '' ? null : ca,
        scopes,
        nameClaim,
        roleClaim,
        roles: roles.filter((r) => r.value !== ''),
        otherRole,
        makesUsers,
      },
    });
  const others = [
    { value: '', label: roles.length === 0 ? 'None: an admin sets it' : 'None: they stay out' },
    ...roleChoices,
  ];
  return (
    <form
      onSubmit={(e) => {
        e.preventDefault();
        void run(save).then((ok) => ok && changed());
      }}
    >
      <Stack maw={760}>
        <Title order={2} size="h5">
          Provider
        </Title>
        <SimpleGrid cols={{ base: 1, sm: 2 }}>
          <TextInput
            label="Issuer"
            description="Its address, to the letter as its tokens say it."
            placeholder="https://id.example.org/realms/office"
            required
            value={issuer}
            onChange={(e) => setIssuer(e.currentTarget.value)}
          />
          <TextInput
            label="Name"
            description="What the button on the login form says."
            placeholder="single sign-on"
            value={name}
            onChange={(e) => setName(e.currentTarget.value)}
          />
          <TextInput
            label="Client"
            description="What this cluster is called there."
            required
            autoComplete="off"
            value={clientId}
            onChange={(e) => setClientId(e.currentTarget.value)}
          />
          <PasswordInput
            label="Secret of the client"
            description="Not shown again."
            autoComplete="new-password"
            disabled={noSecret}
            placeholder={of?.clientSecretSet === true ? 'kept as it is' : ''}
            value={secret}
            onChange={(e) => setSecret(e.currentTarget.value)}
          />
        </SimpleGrid>
        <Checkbox
          label="The client has no secret"
          checked={noSecret}
          onChange={(e) => setNoSecret(e.currentTarget.checked)}
        />
        <TagsInput
          label="Scopes beside openid"
          value={scopes}
          onChange={setScopes}
          maxTags={16}
          acceptValueOnBlur
        />
        <Textarea
          label="CA of its certificate, PEM"
          description="Empty: those that everybody trusts."
          autosize
          minRows={2}
          maxRows={6}
          value={ca}
          onChange={(e) => setCa(e.currentTarget.value)}
        />
        <Title order={2} size="h5">
          People
        </Title>
        <SimpleGrid cols={{ base: 1, sm: 2 }}>
          <TextInput
            label="Claim that names people"
            description="One that they cannot change themselves."
            required
            value={nameClaim}
            onChange={(e) => setNameClaim(e.currentTarget.value)}
          />
          <TextInput
            label="Claim with groups or roles"
            description="Dots lead inside: realm_access.roles"
            required
            value={roleClaim}
            onChange={(e) => setRoleClaim(e.currentTarget.value)}
          />
        </SimpleGrid>
        {roles.map((r, i) => {
          const set = (next: Partial<typeof r>): void => setRoles(roles.with(i, { ...r, ...next }));
          return (
            <Group key={i} align="flex-end" gap="xs">
              <TextInput
                label={`Value ${i + 1}`}
                required
                value={r.value}
                onChange={(e) => set({ value: e.currentTarget.value })}
              />
              <NativeSelect
                label={`Role of value ${i + 1}`}
                data={roleChoices}
                value={r.role}
                onChange={(e) => set({ role: roleSchema.parse(e.currentTarget.value) })}
              />
              <Button variant="default" onClick={() => setRoles(roles.toSpliced(i, 1))}>
                Remove
              </Button>
            </Group>
          );
        })}
        <Group>
          <Button
            size="xs"
            variant="default"
            onClick={() => setRoles([...roles, { value: '', role: 'viewer' }])}
          >
            A value gives a role
          </Button>
        </Group>
        <NativeSelect
          label={roles.length === 0 ? 'Role of users that are made' : 'Role of all others'}
          data={others}
          value={otherRole ?? ''}
          onChange={(e) =>
            setOtherRole(e.currentTarget.value === '' ? null : roleSchema.parse(e.currentTarget.value))
          }
        />
        <Checkbox
          label="Make users at their first sign-in; else an admin names each before"
          checked={makesUsers}
          onChange={(e) => setMakesUsers(e.currentTarget.checked)}
        />
        <Refusal of={refused} />
        <Group>
          <Button type="submit" loading={busy}>
            Save
          </Button>
        </Group>
      </Stack>
    </form>
  );
}
