import { createSocket } from 'node:dgram';
import { encodeBeacon, mdnsAddress, mdnsPort, type Beacon } from '../../core/wire/mdns.js';

/** How often a node says that it waits, ms: a page shows it within that time. */
const everyMs = 5_000;

/**
 * Says by multicast DNS that this node waits to be admitted. Best effort: in a network that carries no multicast its address is
 * typed instead.
 *
 * @returns ends it
 */
export function startBeacon(b: Beacon): () => void {
  const packet = encodeBeacon(b);
  const socket = createSocket({ type: 'udp4', reuseAddr: true });
  let open = true;
  socket.on('error', () => undefined);
  const send = (): void => {
    if (open) socket.send(packet, mdnsPort, mdnsAddress, () => undefined);
  };
  // From the mDNS port, as an answer must come; the system's own responder shares it.
  socket.bind(mdnsPort, () => {
    try {
      socket.setMulticastInterface(b.address);
      socket.setMulticastTTL(255);
    } catch {
      // The address went away: the next agent, with the new one, tries again.
    }
    send();
  });
  const timer = setInterval(send, everyMs);
  return () => {
    open = false;
    clearInterval(timer);
    socket.close();
  };
}
