import { OpenAPIHono } from '@hono/zod-openapi';
import { sessionCookie } from '../../agent/http/auth.js';
import type { Access } from '../../core/wire/access.js';
import { idempotencyHeader, type RestRoute } from '../../core/wire/rest.js';
import { opAnswerSchema } from '../../core/wire/rest-objects.js';

type Registry = OpenAPIHono['openAPIRegistry'];

/** What the API is divided into. */
const tags = {
  cluster: 'The cluster as a whole: how it is, its switches, its plan',
  certificates: 'Certificates of nodes, and their revocation',
  nodes: 'Machines that VMs run on, from waiting to be admitted to removed',
  ha: 'Failover, and how nodes are powered off from outside',
  vms: 'VMs: what users own',
  vapps: 'Several VMs as one',
  disks: 'What VMs keep their data on',
  images: 'What disks are made from',
  pools: 'Where disks and images are',
  networks: 'What VMs are connected to',
  ops: 'Work that takes longer than its request',
  users: 'People, and what they may',
  tokens: 'Secrets that nodes join and programs log in with',
  events: 'Changes as they come',
} as const;

const who: Readonly<Record<Access, string>> = {
  open: 'Without a login.',
  self: 'For everybody who is logged in; it concerns their own only.',
  viewer: 'For every role.',
  operator: 'For the role operator, on a VM also for its operators.',
  admin: 'For the role admin.',
};

/** What holds for a route and its summary does not say: who may, and how a repetition and a race are harmless. */
export function descriptionOf(
  r: Pick<RestRoute, 'method'> &
    Partial<Pick<RestRoute, 'description' | 'status' | 'etag' | 'idempotent' | 'response'>>,
  access: Access,
): string {
  return [
    ...(r.description === undefined ? [] : [r.description]),
    who[access],
    ...(r.status === 202
      ? [
          r.response === opAnswerSchema
            ? 'The work goes on after the answer: `op` is the operation to follow.'
            : 'The work goes on after the answer.',
        ]
      : []),
    ...(r.etag !== true
      ? []
      : r.method === 'get'
        ? ['The header `etag` is what a change takes as `if-match`.']
        : ['With `if-match` it is refused if somebody else changed it meanwhile.']),
    ...(r.idempotent === true ? [`With \`${idempotencyHeader}\` a repetition does nothing twice.`] : []),
  ].join(' ');
}

/** The document of what was registered, as JSON. */
export function documentText(app: OpenAPIHono<never>, version: string): string {
  const registry: Registry = app.openAPIRegistry;
  registry.registerComponent('securitySchemes', 'token', {
    type: 'http',
    scheme: 'bearer',
    bearerFormat: 'flt-api.<id>.<secret>',
  });
  registry.registerComponent('securitySchemes', 'session', {
    type: 'apiKey',
    in: 'cookie',
    name: sessionCookie,
  });
  const doc = app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: {
      title: 'Flotilla',
      version,
      description: 'A handful of Linux servers as one virtual datacenter.',
      contact: { name: 'Who runs this cluster' },
      license: { name: 'Apache-2.0', url: 'https://www.apache.org/licenses/LICENSE-2.0' },
    },
    servers: [{ url: '/' }],
    security: [{ token: [] }, { session: [] }],
    tags: Object.entries(tags).map(([name, description]) => ({ name, description })),
  });
  return JSON.stringify(doc, (_, value: unknown) => closedTuple(value));
}

/** The generator writes the first items of a tuple only, so that any number more would be right. */
function closedTuple(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !('prefixItems' in value)) return value;
  const { length } = value.prefixItems as unknown[];
  // Spectral wants `items` to be a schema with fields; no item is left that it could allow.
  return { ...value, items: {}, minItems: length, maxItems: length };
}
