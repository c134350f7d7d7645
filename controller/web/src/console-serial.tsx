import '@xterm/xterm/css/xterm.css';
import { FitAddon } from '@xterm/addon-fit';
import { Terminal } from '@xterm/xterm';
import { useEffect, useRef, type ReactNode } from 'react';
import type { VmRow } from '../../../core/wire/rest';
import { useConsole } from './console-link';
import { ConsoleFrame } from './console';

/** Guests at a serial line take it for a terminal of this width. */
const columnsMin = 80;
const scrollback = 5_000;
/** Leaves the terminal, which takes all other keys: Ctrl-] as on the command line. */
const leaves = (e: KeyboardEvent): boolean => e.ctrlKey && e.code === 'BracketRight';

export default function SerialConsole({ vm }: { readonly vm: VmRow }): ReactNode {
  const box = useRef<HTMLDivElement>(null);
  const term = useRef<Terminal | null>(null);
  const line = useRef<WebSocket | null>(null);
  const send = (bytes: Uint8Array<ArrayBuffer>): void => {
    if (line.current?.readyState === WebSocket.OPEN) line.current.send(bytes);
  };

  useEffect(() => {
    const at = box.current;
    if (at === null) return undefined;
    const t = new Terminal({ scrollback, cursorBlink: false });
    const fit = new FitAddon();
    t.loadAddon(fit);
    openWithNonce(t, at);
    t.onData((text) => send(new TextEncoder().encode(text)));
    t.onBinary((text) => send(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    t.attachCustomKeyEventHandler((e) => {
      if (!leaves(e)) return true;
      t.blur();
      return false;
    });
    const size = new ResizeObserver(() => {
      const s = fit.proposeDimensions();
      if (s !== undefined && s.rows > 1) t.resize(Math.max(columnsMin, s.cols), s.rows);
    });
    size.observe(at);
    term.current = t;
    return () => {
      size.disconnect();
      t.dispose();
      term.current = null;
    };
  }, []);

  const state = useConsole(vm, 'serial', (ws) => {
    line.current = ws;
    ws.addEventListener('message', (e: MessageEvent<ArrayBuffer>) =>
      term.current?.write(new Uint8Array(e.data)),
    );
    ws.addEventListener('open', () => term.current?.focus());
  });
  return (
    <ConsoleFrame
      state={state}
      paste={(text) => term.current?.paste(text)}
      hint="Ctrl-] leaves the terminal, for the keyboard to go on in the page. All who look at it see and type the same."
    >
      <div ref={box} className="tty" />
    </ConsoleFrame>
  );
}

/**
 * The terminal makes style elements as it opens, and the page's policy wants its nonce on them. Its own option for that,
 * another document, does not reach all of them (xterm.js 6.0.0, CoreBrowserTerminal's `mainDocument`).
 */
function openWithNonce(t: Terminal, at: HTMLElement): void {
  const nonce = document.querySelector('meta[name="csp-nonce"]')?.getAttribute('content') ?? '';
  const make = (name: string): HTMLElement => Document.prototype.createElement.call(document, name);
  const own = document as { createElement?: unknown };
  own.createElement = (name: string) => {
    const made = make(name);
    if (name === 'style') made.nonce = nonce;
    return made;
  };
  try {
    t.open(at);
  } finally {
    delete own.createElement;
  }
}
