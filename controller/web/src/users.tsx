import { Button, Checkbox, Modal, NativeSelect, Stack, TagsInput, TextInput } from '@mantine/core';
import { useContext, useState, type ReactNode } from 'react';
import { roleSchema, type Role } from '../../../core/domain/user';
import type { UserView } from '../../../core/wire/rest';
import { call, useAsked, useDo } from './api';
import { useAll } from './live';
import { MeContext } from './may';
import { Secret } from './me';
import { Confirm, Page, Refusal, Rows } from './parts';

const roleWords: Readonly<Record<Role, string>> = {
  viewer: 'Viewer: looks',
  operator: 'Operator: handles VMs and images',
  admin: 'Admin: everything',
};
export const roles = roleSchema.options.map((value) => ({ value, label: roleWords[value] }));

export function UsersPage(): ReactNode {
  const [again, setAgain] = useState(0);
  const changed = (): void => setAgain(again + 1);
  const me = useContext(MeContext);
  const { value, refused } = useAsked('userList', { query: {} }, again);
  return (
    <Page kind="Who may use the cluster" name="Users" actions={<UserForm of={null} changed={changed} />}>
      <Refusal of={refused} />
      <Rows
        label="Users"
        head={['Name', 'Role', 'Operates', 'Logs in by', 'State', '']}
        none="There is none: everybody comes with a token."
        rows={(value?.items ?? []).map((u) => ({
          key: u.id,
          cells: [
            u.name,
            u.role,
            [
              ...(u.operates.length === 0 ? [] : [`${u.operates.length} VMs`]),
              ...u.operatesTags.map((tag) => `VMs with ${tag}`),
              ...(u.operatesVapps.length === 0 ? [] : [`${u.operatesVapps.length} vApps`]),
            ].join(', '),
            [
              ...(u.passwordSet ? [u.secondFactor ? 'password and code' : 'password'] : []),
              ...(u.signOn === null ? [] : [`sign-on as ${u.signOn.name}`]),
            ].join(', '),
            u.disabled ? 'disabled' : 'enabled',
            <>
              <UserForm key={JSON.stringify(u)} of={u} changed={changed} />{' '}
              {u.id !== me?.user?.id && (
                <Confirm
                  label="Delete"
                  danger
                  title={`Delete user "${u.name}"?`}
                  says="All sessions and tokens of this user end now."
                  yes="Delete"
                  act={() => call('userDelete', { params: { user: u.id } })}
                  done={changed}
                />
              )}
            </>,
          ],
        }))}
      />
    </Page>
  );
}

/** Makes a user, or changes one. */
function UserForm({
  of,
  changed,
}: {
  readonly of: UserView | null;
  readonly changed: () => void;
}): ReactNode {
  const [open, setOpen] = useState(false);
  const [name, setName] = useState('');
  const [role, setRole] = useState<Role>(of?.role ?? 'viewer');
  const [operates, setOperates] = useState<readonly string[]>(of?.operates ?? []);
  const [operatesVapps, setOperatesVapps] = useState<readonly string[]>(of?.operatesVapps ?? []);
  const [operatesTags, setOperatesTags] = useState<readonly string[]>(of?.operatesTags ?? []);
  const [password, setPassword] = useState('');
  const [signOn, setSignOn] = useState(of?.signOn?.name ?? '');
  const [disabled, setDisabled] = useState(of?.disabled ?? false);
  const [noFactor, setNoFactor] = useState(false);
  const { busy, refused, run, clear } = useDo();
  const vms = useAll('vm');
  const vapps = useAll('vapp');
  const save = async (): Promise<void> => {
    const rights = {
      role,
      operates: [...operates],
      operatesTags: [...operatesTags],
      operatesVapps: [...operatesVapps],
    };
    if (of === null)
      await call('userCreate', {
        body: {
          name,
          ...rights,
          ...(password === '' ? {} : { password }),
          ...(signOn === '' ? {} : { signOn }),
        },
      });
    else
      await call('userPatch', {
        params: { user: of.id },
        body: {
          ...rights,
          disabled,
          ...(password === '' ? {} : { password }),
          ...(signOn === (of.signOn?.name ?? '') ? {} : { signOn: signOn === '' ? null : signOn }),
          ...(noFactor ? { secondFactor: false as const } : {}),
        },
      });
  };
  return (
    <>
      <Button size="xs" {...(of === null ? {} : { variant: 'default' })} onClick={() => setOpen(true)}>
        {of === null ? 'New user' : 'Change'}
      </Button>
      <Modal
        opened={open}
        onClose={() => {
          setOpen(false);
          clear();
        }}
        title={of === null ? 'New user' : `User "${of.name}"`}
      >
        <form
          onSubmit={(e) => {
            e.preventDefault();
            void run(save).then((ok) => {
              if (!ok) return;
              setOpen(false);
              setPassword('');
              changed();
            });
          }}
        >
          <Stack>
            {of === null && (
              <TextInput
                label="Name"
                required
                autoComplete="off"
                value={name}
                onChange={(e) => setName(e.currentTarget.value)}
              />
            )}
            <NativeSelect
              label="Role in the whole cluster"
              data={roles}
              value={role}
              onChange={(e) => setRole(roleSchema.parse(e.currentTarget.value))}
            />
            {role === 'viewer' && (
              <>
                <Many label="Operator of these VMs" of={vms} value={operates} set={setOperates} />
                <TagsInput
                  label="Operator of all VMs with these tags"
                  description="Those that get the tag later, too. Enter ends each."
                  data={[...new Set(vms.flatMap((v) => v.tags))].sort()}
                  value={[...operatesTags]}
                  onChange={setOperatesTags}
                  acceptValueOnBlur
                />
                <Many
                  label="Operator of these vApps, with all that is in them"
                  of={vapps}
                  value={operatesVapps}
                  set={setOperatesVapps}
                />
              </>
            )}
            <TextInput
              label="Name at the provider of identities"
              description="For who comes by sign-on; a password is not needed then."
              autoComplete="off"
              value={signOn}
              onChange={(e) => setSignOn(e.currentTarget.value)}
            />
            {of === null ? (
              <Secret
                label="Password, 10 characters or more"
                required={signOn === ''}
                value={password}
                set={setPassword}
                autoComplete="new-password"
              />
            ) : (
              <>
                <TextInput
                  label="New password"
                  description="Empty: as it is. A new one ends the sessions."
                  type="password"
                  autoComplete="new-password"
                  value={password}
                  onChange={(e) => setPassword(e.currentTarget.value)}
                />
                <Checkbox
                  label="Disabled: sessions and tokens end, no login is taken"
                  checked={disabled}
                  onChange={(e) => setDisabled(e.currentTarget.checked)}
                />
                {of.secondFactor && (
                  <Checkbox
                    label="Turn the second factor off: the authenticator was lost"
                    checked={noFactor}
                    onChange={(e) => setNoFactor(e.currentTarget.checked)}
                  />
                )}
              </>
            )}
            <Refusal of={refused} />
            <Button type="submit" loading={busy}>
              {of === null ? 'Make it' : 'Save'}
            </Button>
          </Stack>
        </form>
      </Modal>
    </>
  );
}

/** Some of many objects; nothing where there is none. */
function Many(p: {
  readonly label: string;
  readonly of: readonly { readonly id: string; readonly name: string }[];
  readonly value: readonly string[];
  readonly set: (ids: readonly string[]) => void;
}): ReactNode {
  if (p.of.length === 0) return null;
  return (
    <label>
      {p.label} (several with Ctrl)
      <select
        multiple
        size={Math.min(8, p.of.length)}
        className="many"
        value={p.value}
        onChange={(e) => p.set([...e.currentTarget.selectedOptions].map((x) => x.value))}
      >
        {p.of.map((v) => (
          <option key={v.id} value={v.id}>
            {v.name}
          </option>
        ))}
      </select>
    </label>
  );
}
