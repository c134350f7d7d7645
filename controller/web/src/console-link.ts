import { useEffect, useRef, useState } from 'react';
import { vmActions } from '../../../core/domain/vm';
import {
  apiRoot,
  consoleHistoryMax,
  consoleProtocols,
  restStreams,
  type ConsoleKind,
  type VmRow,
} from '../../../core/wire/rest';
import { call, Refused } from './api';
import { live } from './live';

/** Between two tries, ms: quick at first, since a migration's switch takes a moment only. */
const againMs = [250, 500, 1_000, 2_000] as const;
/** What a machine said at its new node before anybody looked there, bytes. */
const newNodeHistory = 4_096;

export interface ConsoleState {
  /** `off`: there is no machine; `lost`: it is tried again by itself. */
  readonly link: 'off' | 'opens' | 'open' | 'lost';
  readonly text: string;
}

/**
 * Holds a console open as long as the page shows it: with a new ticket after each loss, so that it lives on through
 * a migration, a failover or another controller behind the address.
 *
 * @param attach - takes each new connection before it is open
 */
export function useConsole(vm: VmRow, kind: ConsoleKind, attach: (ws: WebSocket) => void): ConsoleState {
  const can = vmActions[vm.phase].includes('console');
  const [state, setState] = useState<ConsoleState>({ link: 'opens', text: '' });
  const latest = useRef(attach);
  useEffect(() => {
    latest.current = attach;
  });
  const lastNode = useRef<string | null>(null);
  useEffect(() => {
    if (!can) {
      setState({ link: 'off', text: 'It is off. The console opens as it starts.' });
      return undefined;
    }
    let ws: WebSocket | null = null;
    let timer = 0;
    let tries = 0;
    let ended = false;
    const again = (text: string): void => {
      if (ended) return;
      setState({ link: 'lost', text });
      timer = window.setTimeout(() => void open(), againMs[Math.min(tries++, againMs.length - 1)]);
    };
    const open = async (): Promise<void> => {
      const node = live.tables.vm.get(vm.id)?.node ?? null;
      const history =
        kind === 'vnc' || node === lastNode.current
          ? 0
          : lastNode.current === null
            ? consoleHistoryMax
            : newNodeHistory;
      try {
        const t = await call('vmConsole', { params: { vm: vm.id }, body: { kind, history } });
        if (ended) return;
        ws = new WebSocket(
          `wss://${location.host}${apiRoot}${restStreams.console}`,
          consoleProtocols(t.ticket),
        );
        ws.binaryType = 'arraybuffer';
        // Open is what has brought something: a websocket that only reached the controller is not.
        ws.addEventListener('message', () => {
          tries = 0;
          lastNode.current = t.node;
          setState((s) => (s.link === 'open' ? s : { link: 'open', text: `on ${t.node}` }));
        });
        ws.addEventListener('open', () => {
          if (kind === 'serial') setState({ link: 'open', text: `on ${t.node}` });
        });
        ws.addEventListener('close', (e) => again(e.reason === '' ? 'The connection broke' : e.reason));
        latest.current(ws);
      } catch (e) {
        again(e instanceof Refused ? e.message : String(e));
      }
    };
    void open();
    return () => {
      ended = true;
      window.clearTimeout(timer);
      ws?.close();
    };
  }, [vm.id, kind, can]);
  return state;
}
