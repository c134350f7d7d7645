import { Alert, Button, Group, Loader, Stack, Text, Textarea } from '@mantine/core';
import { lazy, Suspense, useRef, useState, type ReactNode } from 'react';
import type { ConsoleKind, VmRow } from '../../../core/wire/rest';
import type { ConsoleState } from './console-link';

/** What draws it is large, and loaded only by who looks. */
const parts = {
  serial: lazy(() => import('./console-serial')),
  vnc: lazy(() => import('./console-screen')),
} as const satisfies Record<ConsoleKind, unknown>;

export function Console({ vm, kind }: { readonly vm: VmRow; readonly kind: ConsoleKind }): ReactNode {
  const Part = parts[kind];
  return (
    <Suspense fallback={<Loader size="sm" role="img" aria-label="Loading" />}>
      <Part vm={vm} />
    </Suspense>
  );
}

/** What both kinds have around them: how it stands, paste, full screen. */
export function ConsoleFrame(p: {
  readonly state: ConsoleState;
  readonly paste: (text: string) => void;
  readonly more?: ReactNode;
  readonly hint: string;
  readonly children: ReactNode;
}): ReactNode {
  const frame = useRef<HTMLDivElement>(null);
  const [text, setText] = useState<string | null>(null);
  const { link } = p.state;
  return (
    <div ref={frame} className="console">
      <Stack gap="xs" h="100%">
        <Group gap="xs">
          {p.more}
          <Button size="xs" variant="default" disabled={link !== 'open'} onClick={() => setText('')}>
            Paste
          </Button>
          <Button size="xs" variant="default" onClick={() => void full(frame.current)}>
            Full screen
          </Button>
          <Button
            size="xs"
            variant="default"
            component="a"
            href={location.pathname}
            target="_blank"
            rel="noopener"
          >
            Own window
          </Button>
          <Text size="sm" role="status" data-link={link} {...(link === 'lost' ? { c: 'red', fw: 600 } : {})}>
            {words[link]}
            {p.state.text === '' || link === 'off' ? '' : `: ${p.state.text}`}
          </Text>
        </Group>
        {text !== null && (
          <form
            onSubmit={(e) => {
              e.preventDefault();
              p.paste(text);
              setText(null);
            }}
          >
            <Textarea
              label="What is to be typed"
              description="Paste it here; it is typed into the machine as it stands."
              autosize
              minRows={2}
              maxRows={8}
              value={text}
              data-autofocus
              onChange={(e) => setText(e.currentTarget.value)}
            />
            <Group gap="xs" mt="xs">
              <Button size="xs" type="submit" disabled={text === ''}>
                Type it
              </Button>
              <Button size="xs" variant="default" onClick={() => setText(null)}>
                Leave it
              </Button>
            </Group>
          </form>
        )}
        {link === 'off' && <Alert color="blue">{p.state.text}</Alert>}
        {p.children}
        <Text size="xs" c="dimmed">
          {p.hint}
        </Text>
      </Stack>
    </div>
  );
}

const words: Readonly<Record<ConsoleState['link'], string>> = {
  off: 'off',
  opens: 'opening…',
  open: 'open',
  lost: 'lost, trying again',
};

async function full(of: HTMLElement | null): Promise<void> {
  if (document.fullscreenElement === null) await of?.requestFullscreen().catch(() => undefined);
  else await document.exitFullscreen();
}
