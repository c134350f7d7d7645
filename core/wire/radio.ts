import { z } from 'zod';
import { nodeIdSchema, wallMsSchema } from '../domain/schema.js';
import { nodeStateSchema } from '../domain/node.js';
import { opSchema } from '../domain/op.js';
import { vmStateSchema } from '../domain/vm.js';

/** Largest payload a broker accepts, bytes: `max_packet_size` of mosquitto. */
export const radioPayloadBytesMax = 65_536;

/** The beat: 1 Hz, QoS 0, about 64 bytes. */
export const beatSchema = z.object({
  boot: z.string().max(64),
  seq: z.number().int().nonnegative(),
  atMs: wallMsSchema,
});
export type Beat = z.output<typeof beatSchema>;

/** A line of a node's last events, for pages. */
export const radioEventSchema = z.object({
  atMs: wallMsSchema,
  level: z.enum(['info', 'warning', 'error']),
  subject: z.string().max(128),
  text: z.string().max(1000),
});
export type RadioEvent = z.output<typeof radioEventSchema>;

/** What the broker of a peer publishes when the agent's connection to it ends without goodbye. */
export const willSchema = z.object({ boot: z.string().max(64) });

/** What follows `v1/<cluster>/n/<node>/`, and what it carries. `gone` is the agent's will on its peers' brokers. */
export const radioSchemas = {
  beat: beatSchema,
  state: nodeStateSchema,
  vm: vmStateSchema,
  op: opSchema,
  event: radioEventSchema,
  gone: willSchema,
} as const;
export type RadioKind = keyof typeof radioSchemas;
export type RadioPayload<K extends RadioKind> = z.output<(typeof radioSchemas)[K]>;

/** Kinds with an id behind them (`vm/<id>`, `op/<id>`). */
const withId: ReadonlySet<RadioKind> = new Set<RadioKind>(['vm', 'op']);
/** Kinds a broker keeps for late listeners. */
export const retained: ReadonlySet<RadioKind> = new Set<RadioKind>(['state', 'vm', 'op']);

export function topic(cluster: string, node: string, kind: RadioKind, id?: string): string {
  if (withId.has(kind) !== (id !== undefined))
    throw new Error(`topic ${kind}: id ${withId.has(kind) ? 'missing' : 'not expected'}`);
  return `v1/${cluster}/n/${node}/${kind}${id === undefined ? '' : `/${id}`}`;
}

/** All that one node says. */
export const nodeTopics = (cluster: string, node: string): string => `v1/${cluster}/n/${node}/#`;

/** Takes a topic apart; null where it is not one of ours. */
export function parseTopic(
  text: string,
): { cluster: string; node: string; kind: RadioKind; id: string | null } | null {
  const [v, cluster, n, node, kindText, id, ...rest] = text.split('/');
  if (v !== 'v1' || n !== 'n' || !cluster || rest.length > 0) return null;
  if (!nodeIdSchema.safeParse(node).success || node === undefined) return null;
  if (kindText === undefined || !Object.hasOwn(radioSchemas, kindText)) return null;
  const kind = kindText as RadioKind;
  if (withId.has(kind) ? !id || !/^[0-9a-f-]{36}$/.test(id) : id !== undefined) return null;
  return { cluster, node, kind, id: id ?? null };
}
