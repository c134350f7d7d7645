import { z } from 'zod';
import type { FlotillaError } from './error.js';
import { nodeIdSchema, wallMsSchema } from './schema.js';

/**
 * How a node is powered off from outside: its BMC, by IPMI or by Redfish.
 *
 * Every text here ends up as a `name=value` line or as a word of a command that somebody else's program builds.
 * So each is bound to the characters it needs, and none can hold a newline or another control character.
 */

/** Printable ASCII from first to last: what both protocols and both programs pass on unchanged. */
const printable = /^[\x20-\x7e]*$/;
/** A name that stands in a command and in an HTTP header. No `:`, which ends the user in HTTP basic login. */
const userName = /^[A-Za-z0-9_][A-Za-z0-9_.@\\+-]*$/;
const dnsName = /^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/i;

/** Where the BMC is: an IPv4 address, or a name whose last part starts with a letter, so that it is no address. */
export const bmcAddressSchema = z.union(
  [z.ipv4(), z.string().max(253).regex(dnsName)],
  'an IPv4 address or a DNS name',
);

const portSchema = z.number().int().min(1).max(65_535);
const passwordSchema = (max: number) =>
  z.string().min(1).max(max).regex(printable, 'printable ASCII characters only');

const ipmiFields = {
  kind: z.literal('ipmi'),
  address: bmcAddressSchema,
  port: portSchema.default(623),
  /** IPMI 2.0 knows 16 bytes of a user's name, and 20 of a password. */
  user: z.string().max(16).regex(userName, 'letters, digits and _ . @ + - \\'),
  password: passwordSchema(20),
  /** Both encrypt: 17 with SHA-256, 3 with SHA-1 for older BMCs. The others hide nothing, or use MD5. */
  cipher: z.union([z.literal(3), z.literal(17)]).default(17),
  /** What is asked for at login. An operator may switch power; more is not needed. */
  privilege: z.enum(['operator', 'administrator']).default('operator'),
};

const redfishFields = {
  kind: z.literal('redfish'),
  address: bmcAddressSchema,
  port: portSchema.default(443),
  user: z.string().max(64).regex(userName, 'letters, digits and _ . @ + - \\'),
  password: passwordSchema(128),
  /** The system to switch, e.g. `/redfish/v1/Systems/1`. Null: the only one there is; more than one is refused. */
  systemUri: z
    .string()
    .max(255)
    .regex(/^\/redfish\/v1(\/[A-Za-z0-9_~:-][A-Za-z0-9._~:-]*)+$/, 'a path such as /redfish/v1/Systems/1')
    .nullable()
    .default(null),
  /** False: any certificate is taken, as most BMCs come with one of their own making. */
  verifyTls: z.boolean().default(false),
  /** The CA that signed the BMC's certificate, PEM; null: those that Debian trusts. Used with `verifyTls` only. */
  ca: z
    .string()
    .max(16_384)
    .regex(
      /^(-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=]+\r?\n)+-----END CERTIFICATE-----\s*)+$/,
      'certificates in PEM',
    )
    .nullable()
    .default(null),
};

/** A fencing device as the ledger holds it, with its secret. */
export const fencingDeviceSchema = z.discriminatedUnion('kind', [
  z.strictObject(ipmiFields),
  z.strictObject(redfishFields),
]);
export type FencingDevice = z.output<typeof fencingDeviceSchema>;
/** The same as people give it: what has a default may be left out. */
export type FencingDeviceInput = z.input<typeof fencingDeviceSchema>;
export type IpmiDevice = Extract<FencingDevice, { kind: 'ipmi' }>;
export type RedfishDevice = Extract<FencingDevice, { kind: 'redfish' }>;

/** A fencing device as it may be shown: everything but the password. */
export const fencingDeviceViewSchema = z.discriminatedUnion('kind', [
  z.object(ipmiFields).omit({ password: true }),
  z.object(redfishFields).omit({ password: true }),
]);
export type FencingDeviceView = z.output<typeof fencingDeviceViewSchema>;

/** Takes the secret off. Built from the schema, so a field that is added later stays hidden until it is named. */
export function fencingDeviceView(device: FencingDevice): FencingDeviceView {
  return fencingDeviceViewSchema.parse(device);
}

/** The device in a sentence: `BMC 10.0.0.7 (ipmi)`. */
export const fencingDeviceName = (d: { kind: string; address: string }): string =>
  `BMC ${d.address} (${d.kind})`;

/**
 * What an attempt to power a node off came to. There is no third case: whatever is not proved is not confirmed, and
 * then the node must be taken for running.
 */
export type FenceOutcome =
  /** The BMC took the order, and asked again in a connection of its own it said that the power is off. */
  | { readonly kind: 'confirmed-off' }
  /** `fence-failed`, `fence-timeout` or `cancelled`. The node may be off all the same. */
  | { readonly kind: 'not-confirmed'; readonly error: FlotillaError };

/** What an attempt to power a node on came to. */
export type WakeOutcome =
  /** The BMC took the order, and asked again it said that the power is on. What starts there, or not, it does not know. */
  | { readonly kind: 'confirmed-on' }
  /** `fence-failed`, `fence-timeout` or `cancelled`. The node may be on all the same. */
  | { readonly kind: 'not-confirmed'; readonly error: FlotillaError };

/** What a look at the device found: whether it could be used if it were needed now. */
export type FenceStatus =
  | { readonly kind: 'answers'; readonly power: 'on' | 'off' }
  | { readonly kind: 'no-answer'; readonly error: FlotillaError };

/** What a BMC said of the machine that it belongs to. */
export type FenceIdentity =
  /** Its system's UUID as it gives it; null: it gives none. */
  | { readonly kind: 'answers'; readonly uuid: string | null }
  | { readonly kind: 'no-answer'; readonly error: FlotillaError };

/** `/flotilla/bmc-test/<node>`: that somebody asked for a try of the node's fencing device, and what came of it. */
export const bmcTestSchema = z.object({
  node: nodeIdSchema,
  askedMs: wallMsSchema,
  askedBy: z.string().max(128),
  /** Null: no node has tried it yet. */
  result: z
    .object({
      /** The node that asked the BMC. */
      by: nodeIdSchema,
      atMs: wallMsSchema,
      /** Null: it does not answer, or takes other credentials. */
      power: z.enum(['on', 'off']).nullable(),
      /** Whether it is the BMC of this very machine, by the UUID that both give. `other`: it is not used. */
      machine: z.enum(['same', 'other', 'unknown']),
      text: z.string().max(500),
    })
    .nullable(),
});
export type BmcTest = z.output<typeof bmcTestSchema>;

/** Its BMC is proven to belong to another machine: it would truly say that that one is off. */
export const isOthers = (t: BmcTest | undefined): boolean => t?.result?.machine === 'other';

/**
 * Whether two UUIDs are those of one machine. IPMI, SMBIOS and RFC 4122 each write the same 16 bytes in an order of
 * their own, and BMCs mix them up, so all four orders count. @returns null: one of them says nothing
 */
export function sameMachine(a: string, b: string): boolean | null {
  const [x, y] = [bytes(a), bytes(b)];
  if (x === null || y === null) return null;
  const swapped = (u: readonly string[]): string[] => [
    ...u.slice(0, 4).reverse(),
    ...u.slice(4, 6).reverse(),
    ...u.slice(6, 8).reverse(),
    ...u.slice(8),
  ];
  const turned = [...x].reverse();
  return [x, swapped(x), turned, swapped(turned)].some((u) => u.join('') === y.join(''));
}

/** Null: no UUID, or one that makers put into machines that have none. */
function bytes(uuid: string): string[] | null {
  const hex = uuid.toLowerCase().replace(/[^0-9a-f]/g, '');
  if (hex.length !== 32 || /^(.)\1*$/.test(hex) || /^0{24}/.test(hex)) return null;
  return hex.match(/../g);
}
