import { z } from 'zod';
import { nodeIdSchema, wallMsSchema } from './schema.js';

const secretSchema = z.string().min(1).max(512);
const addressSchema = z.email().max(254);

/** Where mail goes out. */
export const mailSchema = z.object({
  host: z.string().regex(/^[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$/, 'a name or an address'),
  port: z.number().int().min(1).max(65_535),
  /** `starttls` and `tls` refuse a server without a good certificate; `none`: nothing is encrypted, for a relay nearby. */
  security: z.enum(['starttls', 'tls', 'none']),
  user: z.string().min(1).max(254).nullable(),
  password: secretSchema.nullable(),
  from: addressSchema,
  to: z.array(addressSchema).min(1).max(16),
});
export type Mail = z.output<typeof mailSchema>;

/** Whom to tell by HTTP: chat services take it as it is. Their addresses hold a secret, so the whole address is one. */
export const webhookUrlSchema = z
  .url({ protocol: /^https?$/ })
  .max(2_048)
  .refine((u) => URL.canParse(u) && new URL(u).username === '' && new URL(u).password === '', {
    error: 'an http or https address without a login in it',
  });

/** `/flotilla/notify`: with secrets, so it is read where it is used, and in no view. */
export const notifySettingsSchema = z.object({
  mail: mailSchema.nullable(),
  webhook: webhookUrlSchema.nullable(),
});
export type NotifySettings = z.output<typeof notifySettingsSchema>;

export const incidentKindSchema = z.enum([
  'node-down',
  'failover',
  'drive',
  'copies',
  'pool',
  'certificate',
  'health',
]);
export type IncidentKind = z.output<typeof incidentKindSchema>;

/** Something that somebody should know of. */
export const incidentSchema = z.object({
  /** One incident has one: while it is open it is not told again. */
  key: z.string().max(128),
  kind: incidentKindSchema,
  /** Whose word it is; null: the ledger's. While that node is silent nobody knows whether it is over. */
  node: nodeIdSchema.nullable(),
  text: z.string().max(240),
});
export type Incident = z.output<typeof incidentSchema>;

/** Bounds of what is remembered: together far below what a record may hold. */
export const incidentsOpenMax = 64;
export const incidentsToldMax = 32;

/** What is told at once: incidents that began, and those that are over. */
export const notificationSchema = z.object({
  atMs: wallMsSchema,
  began: z.array(incidentSchema).max(incidentsToldMax),
  over: z.array(incidentSchema).max(incidentsToldMax),
  /** How many more there are than it names. */
  more: z.number().int().nonnegative(),
});
export type Notification = z.output<typeof notificationSchema>;

export const sentSchema = z.object({
  by: nodeIdSchema,
  atMs: wallMsSchema,
  ok: z.boolean(),
  /** What became of it, without secrets. */
  text: z.string().max(300),
});
export type Sent = z.output<typeof sentSchema>;

/** `/flotilla/notify-state`: what was told, so that another leader does not tell it again. */
export const notifyStateSchema = z.object({
  open: z.array(incidentSchema.extend({ sinceMs: wallMsSchema })).max(incidentsOpenMax),
  /** Over since: one that comes back within the hour is not told anew. */
  past: z.array(z.object({ key: z.string().max(128), overMs: wallMsSchema })).max(incidentsOpenMax),
  /** Written before it is sent, taken away after: one that died between lets the next leader send it. */
  outbox: notificationSchema.nullable(),
  last: sentSchema.nullable(),
});
export type NotifyState = z.output<typeof notifyStateSchema>;
export const notifyStateNone: NotifyState = { open: [], past: [], outbox: null, last: null };

/** `/flotilla/notify-test`: somebody wants to see whether it works; a result of null: nobody has tried yet. */
export const notifyTestSchema = z.object({
  askedMs: wallMsSchema,
  askedBy: z.string().max(128),
  result: sentSchema.nullable(),
});
export type NotifyTest = z.output<typeof notifyTestSchema>;

/** Subject and text of a notification, for people. */
export function notificationWords(cluster: string, n: Notification): { subject: string; text: string } {
  const [first] = n.began;
  const [over] = n.over;
  const count = n.began.length + n.over.length + n.more;
  const head = first?.text ?? (over === undefined ? 'nothing' : `over: ${over.text}`);
  const lines = [
    ...n.began.map((i) => `- ${i.text}`),
    ...(n.over.length === 0 ? [] : ['', 'Over:', ...n.over.map((i) => `- ${i.text}`)]),
    ...(n.more === 0 ? [] : ['', `… and ${n.more} more.`]),
  ];
  return {
    subject: `[${cluster}] ${head}${count > 1 ? ` (and ${count - 1} more)` : ''}`
      .replace(/[\r\n]+/g, ' ')
      .slice(0, 200),
    text: [`Cluster ${cluster}:`, '', ...lines].join('\n'),
  };
}
