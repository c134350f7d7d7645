import type { Clock, Log } from '../../agent/env.js';
import type { Ledger } from '../../agent/ledger/ledger.js';
import type { RestAnswer, RestBody, RestName, RestParams, RestQuery } from '../../core/wire/rest.js';
import type { Identity } from '../../agent/http/auth.js';
import type { AgentAsk } from '../agent-ask.js';
import type { Consoles } from '../consoles.js';
import type { PendingNodes } from '../pending-nodes.js';
import type { View } from '../view.js';
import type { SignOn } from '../sign-on/sign-on.js';
import type { LoginDesk } from './login-desk.js';
import type { TokenDoor } from './token-door.js';
import type { AgentExports, AgentUploads } from './uploads.js';

/** Chance, as far as the API needs it: ids, secrets, MACs. */
export interface Chance {
  uuid(): string;
  /** That many random bytes, hex. */
  hex(bytes: number): string;
}

/** What the handlers reach. */
export interface ApiDeps {
  readonly view: View;
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly chance: Chance;
  readonly log: Log;
  readonly uploads: AgentUploads & AgentExports;
  readonly ask: AgentAsk;
  readonly consoles: Consoles;
  readonly pending: PendingNodes;
  readonly desk: LoginDesk;
  readonly signOn: SignOn;
  readonly door: TokenDoor;
  readonly version: string;
}

/** A request, parsed. */
export interface Ask<N extends RestName> {
  readonly params: RestParams<N>;
  readonly query: RestQuery<N>;
  readonly body: RestBody<N>;
  /** A user's or token's name, for the op and the log. */
  readonly who: string;
  readonly identity: Identity | null;
  /** The address it came from. */
  readonly from: string;
  /** The tag of If-Match; null: none, or `*`. */
  readonly ifMatch: string | null;
  readonly idempotencyKey: string | null;
  readonly signal: AbortSignal;
}

/** An answer: a value, or its text where that is at hand. */
export type Reply<N extends RestName> = { readonly etag?: string } & (
  { readonly body: RestAnswer<N> } | { readonly json: string }
);

export type Handlers = { readonly [N in RestName]: (ask: Ask<N>) => Promise<Reply<N>> };
/** The part of the table one module answers. */
export type Some<N extends RestName> = Pick<Handlers, N>;
