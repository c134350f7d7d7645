import { z } from 'zod';
import type { Access } from './access.js';
import { refSchema } from './rest-objects.js';

/** One route of the table in `rest.ts`. */
export interface RestRoute {
  readonly method: 'get' | 'post' | 'put' | 'patch' | 'delete';
  /** Below {@link apiRoot}; parameters in braces. */
  readonly path: string;
  readonly tag: string;
  readonly summary: string;
  /** What the summary has no room for. */
  readonly description?: string;
  readonly params?: z.ZodObject;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodType;
  /** Status of success. */
  readonly status: 200 | 201 | 202 | 204;
  readonly response: z.ZodType;
  /** The answer carries an ETag, and a change takes If-Match. */
  readonly etag?: true;
  /** Where it is not what `accessOf` gives to routes of its kind. */
  readonly access?: Access;
  /** A create that takes an Idempotency-Key: sent twice, it makes one. */
  readonly idempotent?: true;
}

export const nothingSchema = z.null();

/** Parameters of a path with one object in it. */
export const at = <const K extends string>(k: K) =>
  z.strictObject({ [k]: refSchema } as Record<K, typeof refSchema>);
export const strict = <S extends z.ZodRawShape>(shape: S) => z.strictObject(shape);
