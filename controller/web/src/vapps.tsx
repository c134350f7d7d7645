import { Alert, Badge, Button, Card, Checkbox, Code, Group, Stack, Text } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { Link, useLocation } from 'wouter';
import { startStages } from '../../../core/decide/vapp';
import { allocationText, failoverText } from '../../../core/domain/vapp';
import type { VappView } from '../../../core/wire/rest';
import { call, saw, useAsked, useDo } from './api';
import { ExportVapp } from './export';
import { fieldFits, FilterBar, textFits, useFilter } from './filter';
import { useAll, useOne } from './live';
import { May } from './may';
import { Confirm, Facts, Page, Refusal, Rows, State, To } from './parts';
import { CopyDialog } from './vapp-copy';

const runs = (v: VappView): string =>
  `${v.members.filter((m) => m.phase === 'running').length} of ${v.members.length} run`;

export function VappsPage(): ReactNode {
  const all = useAll('vapp');
  const filter = useFilter('/vapps');
  const { q } = filter;
  const vapps = all.filter(
    (v) => fieldFits(q, 'state', v.state) && textFits(q, v.name, v.owner, v.note, ...v.tags),
  );
  return (
    <Page
      kind="VMs handled as one"
      name="vApps"
      actions={
        <May role="operator">
          <Button size="xs" component={Link} href="/vapps/import">
            Import a package
          </Button>
        </May>
      }
    >
      {all.length > 0 && (
        <FilterBar
          filter={filter}
          text="Name, owner or tag"
          fields={[{ name: 'state', label: 'State', options: [...new Set(all.map((v) => v.state))].sort() }]}
        />
      )}
      <Rows
        label="vApps"
        head={['vApp', 'State', 'Members', 'Networks', 'Owner', 'Tags']}
        none={
          all.length > 0 ? (
            'No vApp is like that.'
          ) : (
            <>
              There is no vApp yet. Import a package, or write one as a file, and{' '}
              <Code>flotilla apply -f FILE --start</Code>.
            </>
          )
        }
        rows={vapps.map((v) => ({
          key: v.id,
          cells: [
            <To to={`/vapps/${v.id}`}>{v.name}</To>,
            <State of={v.state} />,
            runs(v),
            v.networks.map((n) => n.name).join(', '),
            v.owner,
            v.tags.join(', '),
          ],
        }))}
      />
    </Page>
  );
}

export function VappPage({ id, tab }: { readonly id: string; readonly tab: string | undefined }): ReactNode {
  const v = useOne('vapp', id);
  const ops = useAll('op');
  if (v === undefined)
    return (
      <Alert color="yellow" title="There is no such vApp">
        It may have been deleted. <To to="/vapps">To the vApps</To>
      </Alert>
    );
  const open = ops.find((o) => v.ops.includes(o.id));
  return (
    <Page
      kind="vApp"
      name={v.name}
      state={<State of={v.state} />}
      actions={
        <May role="operator" vapp={v.id}>
          <Actions v={v} busy={open !== undefined} />
        </May>
      }
      note={
        <>
          {v.note !== '' && <Text>{v.note}</Text>}
          {v.className !== null && (
            <Text size="sm">
              Service class <To to="/classes">{v.className}</To>
            </Text>
          )}
          {open !== undefined && (
            <Alert variant="light" title={open.kind} role="status">
              {open.step === '' ? open.state : open.step}
            </Alert>
          )}
        </>
      }
      at={`/vapps/${v.id}`}
      tab={tab}
      tabs={[
        { id: 'members', label: 'Members', show: () => <Drawing v={v} /> },
        { id: 'properties', label: 'Properties', show: () => <Properties v={v} /> },
        { id: 'document', label: 'Document', show: () => <Document v={v} /> },
      ]}
    />
  );
}

function Actions({ v, busy }: { readonly v: VappView; readonly busy: boolean }): ReactNode {
  const doing = useDo();
  const [, go] = useLocation();
  const [force, setForce] = useState(false);
  const suspended = v.members.some((m) => m.phase === 'paused');
  const act = async (action: 'start' | 'stop' | 'force-stop' | 'suspend' | 'resume'): Promise<void> => {
    const { op } = await call('vappAction', { params: { vapp: v.id, action }, body: {} });
    saw('op', op);
  };
  return (
    <>
      <Button
        size="xs"
        loading={doing.busy}
        disabled={busy || v.state === 'running'}
        onClick={() => void doing.run(() => act(suspended ? 'resume' : 'start'))}
      >
        {suspended ? 'Resume' : 'Start'}
      </Button>
      <Confirm
        label="Shut down"
        title={`Shut down "${v.name}"?`}
        says="Its VMs are asked to shut down, in the reverse order of their start."
        yes="Shut down"
        disabled={busy || v.state === 'stopped'}
        act={() => act('stop')}
      />
      <Confirm
        label="Suspend"
        title={`Suspend "${v.name}"?`}
        says="Its VMs stand still, in the reverse order of their start, and keep their memory on their nodes. One whose node goes off loses it, and boots when it is resumed."
        yes="Suspend"
        disabled={busy || !v.members.some((m) => m.phase === 'running')}
        act={() => act('suspend')}
      />
      <Confirm
        label="Force off"
        title={`Force "${v.name}" off?`}
        says="As if the power cords were pulled: what the guests have not written is lost."
        yes="Force off"
        disabled={busy || v.state === 'stopped'}
        act={() => act('force-stop')}
      />
      <May role="operator">
        <CopyDialog
          label="Clone"
          title={`A vApp that begins as "${v.name}" is now`}
          says="Names, ids, MACs and isolated networks are its own: it runs beside this one. All of it is made, or nothing."
          properties={v.properties}
          eulas={[]}
          disabled={busy}
          send={(body, key) => call('vappClone', { params: { vapp: v.id }, body }, { key })}
          done={(r) => r.vapp !== null && go(`/vapps/${r.vapp.id}`)}
        />
      </May>
      <ExportVapp vapp={v.id} disabled={busy} />
      <Confirm
        label="Delete"
        danger
        title={`Delete "${v.name}"?`}
        says={
          <Stack gap="xs">
            <Text size="sm">
              Its {v.members.length} VMs go with their disks, and its own networks. There is no way back.
            </Text>
            <Checkbox
              label="Also those that run"
              checked={force}
              onChange={(e) => setForce(e.currentTarget.checked)}
            />
          </Stack>
        }
        yes="Delete"
        disabled={busy}
        act={async () => {
          const { op } = await call('vappDelete', {
            params: { vapp: v.id },
            query: { force: force ? 'true' : 'false' },
          });
          saw('op', op);
        }}
        done={() => go('/vapps')}
      />
      <Refusal of={doing.refused} />
    </>
  );
}

const waits = {
  running: 'until it runs',
  guest: 'until its guest answers',
  tcp: 'until it listens',
  http: 'until it answers',
} as const;

/** Members from left to right as they are started, each with the networks it is on. */
function Drawing({ v }: { readonly v: VappView }): ReactNode {
  const stages = startStages(v);
  const started = new Set(stages.flatMap((s) => s.members.map((m) => m.name)));
  const others = v.members.filter((m) => !started.has(m.name));
  const columns = [
    ...stages.map((s, i) => ({
      title: i === 0 ? 'First' : 'Then',
      after: s.delayS > 0 ? `then ${s.delayS} s` : '',
      members: s.members,
    })),
    ...(others.length > 0 ? [{ title: 'Not started with it', after: '', members: others }] : []),
  ];
  return (
    <Stack>
      <Group gap="xs">
        {v.networks.map((n) => (
          <Badge key={n.name} variant="outline" tt="none" radius="sm">
            {n.name}: {n.networkName}
            {n.own ? ', isolated' : ''}
            {n.subnet === null ? '' : `, ${n.subnet}`}
          </Badge>
        ))}
      </Group>
      <Group
        component="ol"
        gap="md"
        align="stretch"
        p={0}
        m={0}
        aria-label="Members in the order of their start"
      >
        {columns.map((c, i) => (
          <Stack component="li" key={`${c.title} ${i}`} gap="xs" miw={220} style={{ listStyle: 'none' }}>
            <Text size="sm" c="dimmed">
              {c.title} {c.after}
            </Text>
            {c.members.map((m) => (
              <Card key={m.name} withBorder padding="sm" radius="sm">
                <Stack gap={4}>
                  <Group justify="space-between" wrap="nowrap">
                    <Text fw={600}>
                      {m.group === null ? '' : `${m.group} / `}
                      {m.name}
                    </Text>
                    <State of={m.phase} />
                  </Group>
                  <Text size="sm">
                    {m.power === null ? m.vmName : <To to={`/vms/${m.vm}`}>{m.vmName}</To>}
                    {m.node === null ? '' : ` on ${m.node}`}
                  </Text>
                  {m.addresses.length > 0 && <Text size="sm">{m.addresses.join(', ')}</Text>}
                  <Text size="xs" c="dimmed">
                    {m.start.action === 'none' ? 'is left off' : waits[m.start.wait]}
                    {m.start.port === undefined ? '' : `, port ${m.start.port}`}
                  </Text>
                  {m.ha.state !== 'off' && (
                    <Text size="xs" c="dimmed">
                      HA: {m.ha.state}
                    </Text>
                  )}
                </Stack>
              </Card>
            ))}
          </Stack>
        ))}
      </Group>
      {(v.memoryAllocation !== null || v.cpuAllocation !== null) && (
        <Facts
          of={[
            v.memoryAllocation !== null && ['Memory for all', allocationText(v.memoryAllocation, 'MiB')],
            v.cpuAllocation !== null && ['CPU for all', allocationText(v.cpuAllocation, 'MHz')],
          ]}
        />
      )}
      {v.failover !== 'members' && (
        <Facts of={[['After a failover of a member', failoverText[v.failover]]]} />
      )}
      {v.rules.length > 0 && (
        <Facts
          of={v.rules.map(
            (r) =>
              [
                `${r.must ? 'Must be' : 'Better'} ${r.kind}`,
                `${r.members.join(', ')}${r.over === 'rack' ? ', by rack' : ''}`,
              ] as const,
          )}
        />
      )}
    </Stack>
  );
}

function Properties({ v }: { readonly v: VappView }): ReactNode {
  return (
    <Rows
      label="Properties"
      head={['Property', 'Type', 'Value', 'Description']}
      none="It has no properties."
      rows={v.properties.map((p) => ({
        key: p.name,
        cells: [
          p.label === '' ? p.name : `${p.label} (${p.name})`,
          p.type,
          p.secret ? 'secret' : String(p.value ?? p.default ?? ''),
          p.description,
        ],
      }))}
    />
  );
}

function Document({ v }: { readonly v: VappView }): ReactNode {
  const { value, refused } = useAsked('vappDocument', { params: { vapp: v.id }, query: {} }, v.generation);
  return (
    <Stack>
      <Text size="sm">
        As YAML: <Code>flotilla vapp export {v.name}</Code>. Changed, it is applied by{' '}
        <Code>flotilla apply -f FILE</Code>.
      </Text>
      <Refusal of={refused} />
      {value !== null && (
        <Code block tabIndex={0}>
          {JSON.stringify(value, null, 2)}
        </Code>
      )}
    </Stack>
  );
}
