import { Button } from '@mantine/core';
import type { ReactNode } from 'react';
import { apiRoot, restStreams, type OpView } from '../../../core/wire/rest';
import { call, saw, useDo } from './api';
import { ended } from './package-file';
import { Refusal } from './parts';

/** Packed by the nodes, then fetched by the browser as a file. */
function Export(p: {
  readonly disabled: boolean;
  readonly ask: () => Promise<readonly OpView[]>;
  /** Where the file is, below the API's root. */
  readonly at: (ops: readonly OpView[]) => string;
}): ReactNode {
  const doing = useDo();
  const pack = async (): Promise<void> => {
    const ops = await p.ask();
    for (const op of ops) saw('op', op);
    for (const op of ops) await ended(op, new AbortController().signal);
    location.assign(apiRoot + p.at(ops));
  };
  return (
    <>
      <Button
        size="xs"
        variant="default"
        loading={doing.busy}
        disabled={p.disabled}
        title="As an OVA. What runs is packed as it was at one moment, from a snapshot"
        onClick={() => void doing.run(pack)}
      >
        Export
      </Button>
      <Refusal of={doing.refused} />
    </>
  );
}

export function ExportVm({ vm }: { readonly vm: { readonly id: string } }): ReactNode {
  return (
    <Export
      disabled={false}
      ask={async () => [(await call('vmExport', { params: { vm: vm.id } })).op]}
      at={(ops) => restStreams.exportContent.replace('{op}', ops[0]?.id ?? '')}
    />
  );
}

export function ExportVapp(p: { readonly vapp: string; readonly disabled: boolean }): ReactNode {
  return (
    <Export
      disabled={p.disabled}
      ask={async () => (await call('vappExport', { params: { vapp: p.vapp } })).ops}
      at={(ops) =>
        `${restStreams.vappPackage.replace('{vapp}', p.vapp)}?exports=${ops.map((op) => op.id).join(',')}`
      }
    />
  );
}
