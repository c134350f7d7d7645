import { z } from 'zod';
import { vappDocSchema } from '../../core/wire/rest-vapp.js';

let made: Record<string, unknown> | null = null;

/** The JSON Schema of `kind: VApp`, for editors. */
export function vappSchemaDocument(): Record<string, unknown> {
  made ??= z.toJSONSchema(vappDocSchema, { io: 'input', unrepresentable: 'any' }) as Record<string, unknown>;
  return made;
}
