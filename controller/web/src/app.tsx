import {
  Alert,
  Anchor,
  AppShell,
  Burger,
  Button,
  Group,
  Kbd,
  Loader,
  NavLink,
  ScrollArea,
  Text,
} from '@mantine/core';
import { useDisclosure, useHotkeys } from '@mantine/hooks';
import { useEffect, useMemo, useState, type ReactNode } from 'react';
import { Link, Route, Switch, useLocation } from 'wouter';
import { formatSpan } from '../../../core/domain/units';
import type { VmRow } from '../../../core/wire/rest';
import { BalancePage } from './balance';
import { ClassesPage } from './classes';
import { HaPage } from './ha';
import { ImagesPage } from './images';
import { useAll, useCluster, useLink } from './live';
import { useAsked } from './api';
import { MeContext } from './may';
import { MePage } from './me';
import { NotifyPage } from './notify';
import { NetworkPage, NetworksPage } from './networks';
import { NodePage } from './node';
import { NodesPage } from './nodes';
import { OverviewPage } from './overview';
import { useNow } from './parts';
import { PoolPage, PoolsPage } from './pools';
import { Search } from './search';
import { OpPage, OpsPage, TaskStrip } from './tasks';
import { SignOnPage } from './sign-on';
import { TemplatesPage } from './templates';
import { TokensPage } from './tokens';
import { UsersPage } from './users';
import { ImportPage } from './vapp-import';
import { VappPage, VappsPage } from './vapps';
import { VmPage } from './vm';
import { NewVmPage } from './vm-new';
import { VmsPage } from './vms';

const places: readonly (readonly [string, string])[] = [
  ['/', 'Overview'],
  ['/vms', 'VMs'],
  ['/vapps', 'vApps'],
  ['/templates', 'Templates'],
  ['/nodes', 'Nodes'],
  ['/pools', 'Storage'],
  ['/networks', 'Networks'],
  ['/images', 'Images'],
  ['/ha', 'High availability'],
  ['/balance', 'Balance'],
  ['/classes', 'Classes'],
  ['/ops', 'Operations'],
  ['/tokens', 'Access'],
];
const adminPlaces: typeof places = [
  ['/users', 'Users'],
  ['/sign-on', 'Sign-on'],
  ['/notifications', 'Notifications'],
];

export function App(): ReactNode {
  const [menu, { toggle, close }] = useDisclosure();
  const [search, setSearch] = useState(false);
  const [at] = useLocation();
  const cluster = useCluster();
  const [mark, setMark] = useState(0);
  const { value: me } = useAsked('meGet', {}, mark);
  const shown = me?.role === 'admin' ? [...places, ...adminPlaces] : places;
  useHotkeys([['mod+K', () => setSearch(true)]], []);
  useEffect(close, [at, close]);
  return (
    <MeContext value={me}>
      <AppShell
        header={{ height: 50 }}
        navbar={{ width: 230, breakpoint: 'sm', collapsed: { mobile: !menu } }}
        footer={{ height: 38 }}
        padding="md"
      >
        <a className="skip" href="#content">
          To the content
        </a>
        <AppShell.Header>
          <Group h="100%" px="md" justify="space-between" wrap="nowrap">
            <Group gap="sm" wrap="nowrap">
              <Burger opened={menu} onClick={toggle} hiddenFrom="sm" size="sm" aria-label="Menu" />
              <Anchor component={Link} href="/" fw={700} c="inherit" underline="never">
                {cluster?.meta?.name ?? 'Flotilla'}
              </Anchor>
              <LinkMark />
            </Group>
            <Group gap="xs" wrap="nowrap">
              <Button size="xs" variant="default" onClick={() => setSearch(true)}>
                Search{' '}
                <Kbd ml={6} size="xs" visibleFrom="sm">
                  Ctrl K
                </Kbd>
              </Button>
              {me !== null && (
                <Anchor component={Link} href="/me" size="sm" visibleFrom="xs">
                  {me.name}
                </Anchor>
              )}
              <form method="post" action="/logout">
                <Button size="xs" variant="subtle" type="submit">
                  Log out
                </Button>
              </form>
            </Group>
          </Group>
        </AppShell.Header>
        <AppShell.Navbar p="xs" aria-label="Sections">
          <ScrollArea type="auto">
            {shown.map(([to, label]) => (
              <NavLink
                key={to}
                component={Link}
                href={to}
                label={label}
                active={to === '/' ? at === '/' : at.startsWith(to)}
                aria-current={at === to ? 'page' : undefined}
              />
            ))}
            <Tree />
          </ScrollArea>
        </AppShell.Navbar>
        <AppShell.Main id="content">
          {cluster === null ? (
            <Group>
              <Loader size="sm" aria-hidden="true" />
              <Text role="status">Asking the controller for the cluster…</Text>
            </Group>
          ) : (
            <Pages meChanged={() => setMark(mark + 1)} />
          )}
        </AppShell.Main>
        <AppShell.Footer>
          <TaskStrip />
        </AppShell.Footer>
        <Search opened={search} close={() => setSearch(false)} />
      </AppShell>
    </MeContext>
  );
}

function Pages({ meChanged }: { readonly meChanged: () => void }): ReactNode {
  return (
    <Switch>
      <Route path="/" component={OverviewPage} />
      <Route path="/vms" component={VmsPage} />
      <Route path="/vms/new" component={NewVmPage} />
      <Route path="/vms/:id/:tab?">{(p) => <VmPage key={p.id} id={p.id} tab={p.tab} />}</Route>
      <Route path="/vapps" component={VappsPage} />
      <Route path="/vapps/import" component={ImportPage} />
      <Route path="/vapps/:id/:tab?">{(p) => <VappPage key={p.id} id={p.id} tab={p.tab} />}</Route>
      <Route path="/nodes" component={NodesPage} />
      <Route path="/nodes/:id/:tab?">{(p) => <NodePage key={p.id} id={p.id} tab={p.tab} />}</Route>
      <Route path="/pools" component={PoolsPage} />
      <Route path="/pools/:id/:tab?">{(p) => <PoolPage key={p.id} id={p.id} tab={p.tab} />}</Route>
      <Route path="/networks" component={NetworksPage} />
      <Route path="/networks/:id/:tab?">{(p) => <NetworkPage key={p.id} id={p.id} tab={p.tab} />}</Route>
      <Route path="/images" component={ImagesPage} />
      <Route path="/ha" component={HaPage} />
      <Route path="/balance" component={BalancePage} />
      <Route path="/classes" component={ClassesPage} />
      <Route path="/templates" component={TemplatesPage} />
      <Route path="/ops" component={OpsPage} />
      <Route path="/ops/:id">{(p) => <OpPage key={p.id} id={p.id} />}</Route>
      <Route path="/tokens" component={TokensPage} />
      <Route path="/users" component={UsersPage} />
      <Route path="/sign-on" component={SignOnPage} />
      <Route path="/notifications" component={NotifyPage} />
      <Route path="/me">
        <MePage changed={meChanged} />
      </Route>
      <Route>
        <Alert color="yellow" title="Nothing is here">
          The address may be of something that was deleted.{' '}
          <Anchor component={Link} href="/">
            To the overview
          </Anchor>
        </Alert>
      </Route>
    </Switch>
  );
}

/** Says when what is shown is not live: an old picture is never passed off as news. */
function LinkMark(): ReactNode {
  const link = useLink();
  const cluster = useCluster();
  const now = useNow(5_000);
  if (link === 'lost')
    return (
      <Text size="sm" c="red" role="alert" fw={600}>
        Connection lost: this is old
      </Text>
    );
  if (cluster?.ledger === 'stale')
    return (
      <Text size="sm" c="red" role="alert" fw={600}>
        The ledger cannot be read: {formatSpan(now - cluster.asOfMs)} old
      </Text>
    );
  return (
    <Text size="xs" c="dimmed" visibleFrom="sm">
      {link === 'live' ? 'live' : 'connecting…'}
    </Text>
  );
}

/** More VMs of one node than this are left to the list, which scrolls. */
const treeVmsMax = 30;

/** Nodes and what they own; open where one is. */
function Tree(): ReactNode {
  const nodes = useAll('node');
  const vms = useAll('vm');
  const [at] = useLocation();
  const byNode = useMemo(() => {
    const lists = new Map<string, VmRow[]>();
    for (const v of vms) {
      if (v.node === null) continue;
      const list = lists.get(v.node);
      if (list === undefined) lists.set(v.node, [v]);
      else list.push(v);
    }
    return lists;
  }, [vms]);
  return (
    <div className="tree">
      <Text size="xs" c="dimmed" mt="sm" px="sm">
        By node
      </Text>
      {nodes.map((n) => {
        const own = byNode.get(n.id) ?? [];
        return (
          <NavLink
            key={n.id}
            component="button"
            label={`${n.id} (${own.length})`}
            description={n.presence === 'here' ? undefined : n.presence}
            childrenOffset={14}
            defaultOpened={at.startsWith(`/nodes/${n.id}`)}
            // Sixteen nodes have hundreds: what is not looked at is not there.
            keepMounted={false}
          >
            <NavLink
              component={Link}
              href={`/nodes/${n.id}`}
              label="The node"
              active={at === `/nodes/${n.id}`}
            />
            {own.slice(0, treeVmsMax).map((v) => (
              <NavLink
                key={v.id}
                component={Link}
                href={`/vms/${v.id}`}
                label={v.name}
                description={v.phase === 'running' ? undefined : v.phase}
                active={at.startsWith(`/vms/${v.id}`)}
              />
            ))}
            {own.length > treeVmsMax && (
              <NavLink component={Link} href={`/vms?node=${n.id}`} label={`all ${own.length} …`} />
            )}
          </NavLink>
        );
      })}
    </div>
  );
}
