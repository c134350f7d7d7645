/** Consoles as they travel: browser or command line — controller (a websocket) — the owner's agent (bytes over mutual TLS). */
import { z } from 'zod';
import { nodeIdSchema, wallMsSchema } from '../domain/schema.js';

/** `serial`: the text console. `vnc`: the screen, in the RFB protocol. */
export const consoleKindSchema = z.enum(['serial', 'vnc']);
export type ConsoleKind = z.output<typeof consoleKindSchema>;

/** Most of what a serial console said before that is sent first, bytes. */
export const consoleHistoryMax = 65_536;

export const consoleAskSchema = z
  .strictObject({
    kind: consoleKindSchema,
    /** Bytes of what the serial console said before that come first. */
    history: z.number().int().min(0).max(consoleHistoryMax).default(0),
  })
  .meta({ id: 'ConsoleAsk' });

export const consoleTicketSchema = z
  .object({
    /** Good once, at the controller that gave it. */
    ticket: z.string(),
    kind: consoleKindSchema,
    /** The VM's owner when it was given. */
    node: nodeIdSchema,
    expiresMs: wallMsSchema,
  })
  .meta({ id: 'ConsoleTicket' });
export type ConsoleTicket = z.output<typeof consoleTicketSchema>;

/** The websocket's subprotocol; a ticket comes as a second one behind {@link ticketPrefix}, since URLs are logged. */
export const consoleProtocol = 'flotilla-console-v1';
const ticketPrefix = 'ticket.';
export const consoleProtocols = (ticket: string): string[] => [consoleProtocol, `${ticketPrefix}${ticket}`];

/** The ticket among a request's subprotocols; null: there is none. */
export function ticketOf(header: string | undefined): string | null {
  const found = (header ?? '').split(',').map((p) => p.trim());
  const ticket = found.find((p) => p.startsWith(ticketPrefix));
  return ticket === undefined || !found.includes(consoleProtocol) ? null : ticket.slice(ticketPrefix.length);
}

/** Why a controller ends a console; the reason's text says more. In all but the last it is worth asking for a new ticket. */
export const consoleClosed = {
  /** The machine's end is gone: stopped, restarted, moved. */
  ended: 4000,
  /** The VM has another owner now. */
  moved: 4001,
  /** The owner's agent cannot be reached, or has no such machine. */
  unreachable: 4002,
  /** Whoever opened it may not any more. */
  forbidden: 4003,
} as const;

/** What the agent's server is asked to upgrade to: bytes both ways, nothing around them. */
export const consoleUpgrade = 'flotilla-console';
export const agentConsolePath = (vm: string, kind: ConsoleKind, history: number): string =>
  `/v1/consoles/${vm}/${kind}?history=${history}`;
