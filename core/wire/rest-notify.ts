import { z } from 'zod';
import {
  incidentSchema,
  mailSchema,
  notifyTestSchema,
  sentSchema,
  webhookUrlSchema,
} from '../domain/notify.js';
import { wallMsSchema } from '../domain/schema.js';

/** Settings without secrets, and what is open. */
export const notifyViewSchema = z
  .object({
    mail: mailSchema.omit({ password: true }).extend({ passwordSet: z.boolean() }).nullable(),
    /** Scheme and host of its address: the rest is secret. */
    webhook: z.string().nullable(),
    open: z.array(incidentSchema.extend({ sinceMs: wallMsSchema })),
    /** What became of the last one sent. */
    last: sentSchema.nullable(),
    /** The last try by hand. */
    test: notifyTestSchema.nullable(),
  })
  .meta({ id: 'Notifications' });
export type NotifyView = z.output<typeof notifyViewSchema>;

/** What is not given stays as it is; null takes it away. */
export const notifyPatchSchema = z
  .strictObject({
    mail: mailSchema
      .extend({
        port: mailSchema.shape.port.default(587),
        security: mailSchema.shape.security.default('starttls'),
        user: mailSchema.shape.user.default(null),
        /** Not given: the one of before, if host and user are the same. */
        password: mailSchema.shape.password.optional(),
      })
      .strict()
      .nullable()
      .optional(),
    webhook: webhookUrlSchema.nullable().optional(),
  })
  .meta({ id: 'NotificationsPatch' });

export const notifyTestViewSchema = notifyTestSchema.meta({ id: 'NotificationsTest' });
