import { Badge } from '@mantine/core';
import type { ReactNode } from 'react';
import { copyState } from '../../../core/domain/copy-words';
import type { VmView } from '../../../core/wire/rest';

type Words = NonNullable<NonNullable<VmView['observed']>['copies']>[number];

/** One node's copy of a disk. */
export function CopyBadge(p: {
  readonly node: string;
  /** What it is, in a word or two. */
  readonly says?: string;
  /** Null: nobody has said. */
  readonly well: boolean | null;
}): ReactNode {
  return (
    <Badge
      variant="light"
      color={p.well === null ? 'gray' : p.well ? 'green' : 'orange'}
      tt="none"
      radius="sm"
      className="state"
    >
      {p.node}
      {p.says === undefined ? '' : `: ${p.says}`}
    </Badge>
  );
}

/** Both copies of a disk: where its VM writes, and how the other one stands. */
export function Copies({
  own,
  words,
}: {
  readonly own: VmView['own'];
  /** As the owner says; undefined: it has not. */
  readonly words: Words | undefined;
}): ReactNode {
  return (own?.copies ?? []).map((c) =>
    c.node === own?.owner ? (
      <CopyBadge key={c.node} node={c.node} says="written by the VM" well={words?.state !== 'diskless'} />
    ) : (
      <CopyBadge
        key={c.node}
        node={c.node}
        {...(words === undefined ? {} : { says: copyState(words) })}
        well={words === undefined ? null : words.state === 'in-sync'}
      />
    ),
  );
}
