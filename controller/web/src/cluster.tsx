import { Button } from '@mantine/core';
import type { ReactNode } from 'react';
import { Link } from 'wouter';
import { useCluster } from './live';
import { May } from './may';
import { Page, State } from './parts';

const tabs = [
  { id: 'overview', label: 'Overview', to: '/' },
  { id: 'ha', label: 'High availability', to: '/ha' },
  { id: 'balance', label: 'Balance', to: '/balance' },
  { id: 'classes', label: 'Classes', to: '/classes' },
  { id: 'ops', label: 'Operations', to: '/ops' },
  { id: 'tokens', label: 'Access', to: '/tokens' },
] as const;

/** The cluster's page, in the shape of every object's: each of its tabs is a page of the menu, too. */
export function ClusterPage(p: {
  readonly tab: (typeof tabs)[number]['id'];
  /** What this tab has to do beside what the cluster always has. */
  readonly actions?: ReactNode;
  readonly children: ReactNode;
}): ReactNode {
  const c = useCluster();
  const bad = c?.concerns.some((x) => x.level === 'error') === true;
  return (
    <Page
      kind="Cluster"
      name={c?.meta?.name ?? 'Flotilla'}
      title={tabs.find((t) => t.id === p.tab)?.label}
      state={c !== null && <State of={c.well ? 'well' : bad ? 'in trouble' : 'needs a hand'} />}
      actions={
        <>
          {p.actions}
          <May role="operator">
            <Button component={Link} href="/vms/new" size="xs">
              New VM
            </Button>
          </May>
        </>
      }
      tab={p.tab}
      tabs={tabs.map((t) => ({ ...t, show: () => p.children }))}
    />
  );
}
