import { z } from 'zod';
import { idSchema, nameSchema, noteSchema, tagsSchema, wallMsSchema } from './schema.js';
import { vappFromSchema, vappMembersMax, vappPartSchema } from './vapp.js';

/** Templates of a cluster, at most. */
export const templatesMax = 128;

/**
 * `/flotilla/template/<id>`: what vApps are made of: a document with its properties, and for each member the snapshot that
 * its disks begin as. It needs nothing of what it was made of.
 */
export const templateSchema = z.object({
  id: idSchema,
  name: nameSchema,
  note: noteSchema,
  tags: tagsSchema,
  /** What it was made of, and the name that had. A VM's has one member. */
  of: z.object({ kind: z.enum(['vapp', 'vm']), name: z.string().max(256) }),
  /** `vappDocSchema`, all references by id. Values of secret properties are not in it. */
  document: z.record(z.string(), z.unknown()),
  /** Not those without disks. */
  begins: z.array(z.object({ member: vappPartSchema, from: vappFromSchema })).max(vappMembersMax),
  state: z.enum(['making', 'ready']),
  createdMs: wallMsSchema,
});
export type Template = z.output<typeof templateSchema>;

/** The member of a template that was made of a VM. */
export const templateVmMember = 'vm';
