import RFB from '@novnc/novnc';
import { Button } from '@mantine/core';
import { useEffect, useRef, type ReactNode } from 'react';
import type { VmRow } from '../../../core/wire/rest';
import { ConsoleFrame } from './console';
import { useConsole } from './console-link';

/** Keys of the American layout that need Shift: QEMU gives the guest keys, not letters. */
const shifted = /[A-Z~!@#$%^&*()_+{}|:"<>?]/;
const keys = { shift: 0xffe1, enter: 0xff0d, tab: 0xff09 } as const;
/** Between two keys, ms: the keyboard of a guest holds a few of them only. */
const keyMs = 15;

export default function Screen({ vm }: { readonly vm: VmRow }): ReactNode {
  const box = useRef<HTMLDivElement>(null);
  const screen = useRef<RFB | null>(null);
  useEffect(() => () => screen.current?.disconnect(), []);

  const state = useConsole(vm, 'vnc', (ws) => {
    const at = box.current;
    if (at === null) return ws.close();
    const rfb = new RFB(at, ws, { shared: true });
    rfb.scaleViewport = true;
    rfb.background = 'transparent';
    rfb.showDotCursor = true;
    const picture = at.lastElementChild?.querySelector('canvas') ?? null;
    rfb.addEventListener('connect', () => {
      at.querySelectorAll(':scope > canvas').forEach((old) => old.remove());
      rfb.focus({ preventScroll: true });
    });
    // Until the next connection the last picture stays, pale.
    rfb.addEventListener('disconnect', () => {
      if (picture !== null && picture.width > 0 && at.querySelector(':scope > canvas') === null)
        at.prepend(picture);
    });
    screen.current = rfb;
  });
  return (
    <ConsoleFrame
      state={state}
      paste={(text) => void type(screen.current, text)}
      more={
        <Button
          size="xs"
          variant="default"
          disabled={state.link !== 'open'}
          onClick={() => screen.current?.sendCtrlAltDel()}
        >
          Ctrl-Alt-Del
        </Button>
      }
      hint="Paste types by an American keyboard. The serial console takes any text."
    >
      <div ref={box} className="screen" />
    </ConsoleFrame>
  );
}

async function type(rfb: RFB | null, text: string): Promise<void> {
  for (const c of text.replaceAll('\r\n', '\n')) {
    const point = c.codePointAt(0) ?? 0;
    const key = c === '\n' ? keys.enter : c === '\t' ? keys.tab : point < 0x100 ? point : 0x1000000 + point;
    const shift = shifted.test(c);
    if (shift) rfb?.sendKey(keys.shift, 'ShiftLeft', true);
    rfb?.sendKey(key, null);
    if (shift) rfb?.sendKey(keys.shift, 'ShiftLeft', false);
    await new Promise((go) => setTimeout(go, keyMs));
  }
}
