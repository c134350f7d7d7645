/** Packages over the API: what is sent of one, what would be made of it, and the making. A part of the table in `rest.ts`. */
import { z } from 'zod';
import { nameSchema } from '../domain/schema.js';
import { opViewSchema, refSchema } from './rest-objects.js';

/** Bytes of a request about a package: its descriptor may have 16 MiB, a third more in base64. */
export const packageBodyBytesMax = 32 * 1024 * 1024;
const filesMax = 20_000;
const valueCharsMax = 16_384;

export const importSchema = z
  .strictObject({
    /** The archive's or descriptor's name. */
    file: z.string().min(1).max(255),
    /** `ova`: all its files have to be there. */
    kind: z.enum(['ova', 'ovf']).default('ova'),
    /**
     * All files of the package, in their order. `content` in base64: of the descriptor, and of manifest, certificate and
     * texts where there are; disks are sent as images.
     */
    files: z
      .array(
        z.strictObject({
          name: z.string().min(1).max(1024),
          sizeBytes: z.int().nonnegative(),
          content: z.base64().optional(),
        }),
      )
      .min(1)
      .max(filesMax),
    deploymentOption: z.string().max(255).optional(),
    language: z.string().max(35).optional(),
    /** The cluster's network for each of the package's; null: NICs on it are left out. Else the one of the same name. */
    networks: z.record(z.string().max(1024), z.string().max(255).nullable()).default({}),
    /** Values of properties by their ids; secret ones, too. */
    properties: z.record(z.string().max(1024), z.string().max(valueCharsMax)).default({}),
    /** Before the names of VMs and images. */
    prefix: z.string().max(32).default(''),
    pool: refSchema.optional(),
    node: refSchema.optional(),
    /** Makes one vApp of this name of all its VMs. */
    vapp: nameSchema.optional(),
    acceptEulas: z.boolean().default(false),
    /** Nodes may fetch disks that the package names by an http(s) address. */
    allowFetch: z.boolean().default(false),
    /** Several VMs are started only as a vApp, in its order. */
    start: z.boolean().default(false),
    /** Disks are copies of the images, which stay. */
    keepImages: z.boolean().default(false),
  })
  .meta({ id: 'Import' });
export type ImportBody = z.output<typeof importSchema>;

const lineSchema = z.int().nullable();

export const importPreviewSchema = z
  .object({
    package: z.object({
      name: z.string(),
      kind: z.enum(['ova', 'ovf']),
      version: z.string(),
      annotation: z.string(),
      configuration: z.string().nullable(),
      deploymentOptions: z.array(
        z.object({ id: z.string(), label: z.string(), description: z.string(), default: z.boolean() }),
      ),
      networks: z.array(z.object({ name: z.string(), description: z.string() })),
      properties: z.array(
        z.object({
          id: z.string(),
          label: z.string(),
          description: z.string(),
          category: z.string().nullable(),
          type: z.string(),
          qualifiers: z.string().nullable(),
          /** Null: none, or it is secret. */
          default: z.string().nullable(),
          hasDefault: z.boolean(),
          userConfigurable: z.boolean(),
          secret: z.boolean(),
        }),
      ),
      eulas: z.array(z.object({ owner: z.string().nullable(), text: z.string() })),
      manifest: z
        .object({ name: z.string(), verified: z.array(z.string()), unverified: z.array(z.string()) })
        .nullable(),
      /** Who signed the manifest: whether to trust that one is not judged. */
      signer: z
        .object({
          subject: z.string(),
          fingerprint256: z.string(),
          selfSigned: z.boolean(),
          expired: z.boolean(),
        })
        .nullable(),
      /** What was read otherwise than it is written, or is left out. */
      warnings: z.array(z.object({ line: lineSchema, text: z.string() })),
    }),
    /**
     * To be uploaded as images of these names before the import, each file's pieces joined, and unpacked; or, where there is a
     * `url`, to be fetched from there.
     */
    images: z.array(
      z.object({
        name: z.string(),
        files: z.array(z.string()),
        url: z.string().nullable(),
        iso: z.boolean(),
        gzip: z.boolean(),
        /** Of what is stored. */
        storedBytes: z.int(),
        /** Unpacked, more than so much is no disk; null: as stored. */
        bytesMax: z.int().nullable(),
        /** Of what is uploaded, as the manifest says; null: it does not say. */
        sha256: z.string().nullable(),
      }),
    ),
    vms: z.array(
      z.object({
        system: z.string(),
        name: z.string(),
        cpus: z.int(),
        memoryMiB: z.int(),
        firmware: z.string(),
        disks: z.array(
          z.object({
            name: z.string(),
            bus: z.string(),
            /** Null: as its image. */
            sizeBytes: z.int().nullable(),
            image: z.string().nullable(),
          }),
        ),
        nics: z.array(z.object({ network: z.string(), model: z.string() })),
        cdroms: z.array(z.string().nullable()),
        /** What is otherwise than in the package, in words. */
        changes: z.array(z.string()),
      }),
    ),
    /** VMs that are started together, and what is waited for before the next. */
    stages: z.array(
      z.object({ vms: z.array(z.string()), waitForGuest: z.boolean(), delayS: z.int().nonnegative() }),
    ),
    /** Which network of the cluster each of the package's is; null: none. Those not in it are not said yet. */
    networks: z.record(z.string(), z.string().nullable()),
    /** What stands against it, and about what; none: it can be imported once its images are there. */
    problems: z.array(
      z.object({ about: z.enum(['package', 'network', 'name', 'licence']), text: z.string() }),
    ),
    /** A tag of all that this package becomes. */
    tag: z.string(),
  })
  .meta({ id: 'ImportPreview' });
export type ImportPreview = z.output<typeof importPreviewSchema>;

export const importedSchema = z
  .object({
    /** Its id, where one was asked for. */
    vapp: z.string().nullable(),
    vms: z.array(z.object({ id: z.string(), name: z.string() })),
    ops: z.array(opViewSchema),
    /** It was made by an earlier request of the same package. */
    there: z.boolean(),
  })
  .meta({ id: 'Imported' });
export type Imported = z.output<typeof importedSchema>;

export const importRoutes = {
  importPreview: {
    method: 'post',
    path: '/imports/preview',
    tag: 'vapps',
    summary: 'What an import of a package (OVF, OVA) would make, and what stands against it; nothing is made',
    body: importSchema,
    status: 200,
    response: importPreviewSchema,
    access: 'operator',
  },
  importMake: {
    method: 'post',
    path: '/imports',
    tag: 'vapps',
    summary:
      'Make the VMs or the vApp of a package whose disks were uploaded as images; asked again it makes no second',
    body: importSchema,
    status: 202,
    response: importedSchema,
    access: 'operator',
  },
} as const;
