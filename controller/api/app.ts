import type { HttpBindings } from '@hono/node-server';
import { createRoute, OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { bodyLimit } from 'hono/body-limit';
import { HTTPException } from 'hono/http-exception';
import { z } from 'zod';
import {
  authenticate,
  parseApiToken,
  requireIdentity,
  type AuthEnv,
  type Identity,
} from '../../agent/http/auth.js';
import { securityHeaders } from '../../agent/http/headers.js';
import { loginApp } from '../../agent/http/login.js';
import { problemResponse } from '../../agent/http/problem.js';
import { css, stylesheetPath } from '../../agent/http/style.js';
import type { PeerNode } from '../../agent/pki/identity.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { idSchema, inputRefused, parse } from '../../core/domain/schema.js';
import { accessOf, streamAccess } from '../../core/wire/access.js';
import {
  apiBodyBytesMax,
  apiRoot,
  packageBodyBytesMax,
  idempotencyHeader,
  idempotencyKeySchema,
  problemSchema,
  refSchema,
  rest,
  restStreams,
  uploadOffsetHeader,
  type RestName,
  type RestRoute,
} from '../../core/wire/rest.js';
import { vappMembersMax } from '../../core/domain/vapp.js';
import type { View } from '../view.js';
import { fileResponse, pagePaths, pageResponse, type WebFiles } from '../web-files.js';
import { authorize, type About } from './access.js';
import { caHandlers } from './ca.js';
import { certificateHandlers } from './certificates.js';
import { clusterHandlers, clusterView } from './cluster.js';
import { consoleHandlers } from './consoles.js';
import type { ApiDeps, Ask, Handlers, Reply } from './context.js';
import { balanceHandlers } from './balance.js';
import { drainHandlers } from './drain.js';
import { fencingHandlers } from './fencing.js';
import { haHandlers } from './ha.js';
import { historyHandlers } from './history.js';
import { exported } from './exports.js';
import { eventStream, kindsOf } from './events.js';
import { Images } from './images.js';
import { importHandlers } from './imports.js';
import { networkHandlers } from './networks.js';
import { descriptionOf, documentText } from './openapi.js';
import { notifyHandlers } from './notify.js';
import { opHandlers } from './ops.js';
import { nodeUpdateHandlers } from './node-update.js';
import { rollingHandlers } from './rolling.js';
import { pendingHandlers } from './pending.js';
import { LoginDesk } from './login-desk.js';
import { poolHandlers } from './pools.js';
import { powerHandlers, wakeForRoom } from './power.js';
import { requestLimit } from './request-limit.js';
import { ruleHandlers } from './rules.js';
import { snapshotHandlers } from './snapshots.js';
import { tokenHandlers } from './tokens.js';
import { TokenDoor } from './token-door.js';
import { userHandlers } from './users.js';
import { SignOn } from '../sign-on/sign-on.js';
import { signOnHandlers } from './sign-on.js';
import { vappPackage } from './vapp-package.js';
import { vappDocument, vappHandlers } from './vapps.js';
import { classHandlers } from './classes.js';
import { templateHandlers } from './templates.js';
import { vmHandlers } from './vms.js';

export interface ApiOptions extends Omit<ApiDeps, 'desk' | 'door' | 'signOn'> {
  /** What `/healthz` tells everyone. */
  readonly fingerprint: string;
  /** The web page. */
  readonly web: WebFiles;
}

interface Env {
  Bindings: HttpBindings;
  Variables: AuthEnv['Variables'];
}

/** The controller's whole HTTP side: API, event stream, login and the web page. */
export function controllerApp(options: ApiOptions): OpenAPIHono<Env> {
  const { view, log } = options;
  const door = new TokenDoor(view, options.clock);
  const desk = new LoginDesk(options);
  const signOn = new SignOn(options, desk);
  const deps = { ...options, door, desk, signOn };
  const app = new OpenAPIHono<Env>({ defaultHook: (result) => refuseInvalid(result) });
  const refused: Record<string, number> = {};
  const onRefused = (kind: string): void => {
    refused[kind] = (refused[kind] ?? 0) + 1;
  };
  const auth = authenticate({
    verifyToken: (t) => door.verify(t),
    isMember: (peer) => isMember(deps, peer),
    onRefused,
  });

  app.use(securityHeaders());
  app.onError((error, c) => {
    const known = error instanceof HTTPException ? badRequest(error) : error;
    if (!(known instanceof FlotillaError))
      log.error('request failed', {
        method: c.req.method,
        path: c.req.path,
        error: error.stack ?? String(error),
      });
    return problemResponse(known);
  });
  app.notFound((c) =>
    problemResponse(
      new FlotillaError('not-found', `Nothing is at ${c.req.path.slice(0, 200)}`, {
        hint: `See ${apiRoot}/openapi.json for what there is.`,
      }),
    ),
  );

  app.get('/healthz', (c) => {
    const { ready } = view.ledger;
    const ok = ready && view.ledger.freshness().ledger === 'ok';
    return c.json(
      { ok, part: 'controller', version: deps.version, fingerprint: deps.fingerprint },
      ok ? 200 : 503,
    );
  });
  app.get(stylesheetPath, (c) =>
    c.body(css, 200, {
      'content-type': 'text/css; charset=utf-8',
      'cache-control': 'public, max-age=31536000, immutable',
    }),
  );
  const login = loginApp({
    verifyToken: (t) => door.verify(t),
    title: 'Flotilla',
    home: '/',
    stylesheet: stylesheetPath,
    nowMs: () => deps.clock.nowMs(),
    onRefused,
    users: {
      login: async (ask) => parseApiToken((await desk.login(ask)).token),
      logout: (id) => desk.logout(id),
    },
    provider: signOn,
  });
  app.route('/', login as never);
  for (const path of pagePaths) {
    app.get(path, auth, (c) =>
      c.get('identity') === null ? c.redirect('/login', 303) : pageResponse(deps.web, c),
    );
  }
  // Of no use to anybody without a session, and no secret.
  app.get('/assets/:name', (c) => fileResponse(deps.web, `assets/${c.req.param('name')}`, c) ?? c.notFound());
  app.get('/icon.svg', (c) => fileResponse(deps.web, 'icon.svg', c) ?? c.notFound());

  app.use(`${apiRoot}/*`, auth, requestLimit(deps.clock), loggedIn, sameSite);
  const images = new Images(deps);
  streams(app, deps, images);
  const limited = (maxSize: number) =>
    bodyLimit({
      maxSize,
      onError: () => {
        throw new FlotillaError('too-large', 'The body of the request is too large', {
          hint: `Send at most ${maxSize} bytes; images go to ${restStreams.imageContent}.`,
        });
      },
    });
  const [usual, packages] = [limited(apiBodyBytesMax), limited(packageBodyBytesMax)];
  const packagePaths = new Set([rest.importPreview, rest.importMake].map((r) => apiRoot + r.path));
  app.use(`${apiRoot}/*`, (c, next) => (packagePaths.has(c.req.path) ? packages : usual)(c as never, next));
  tellCluster(view, deps.version);
  const vapps = vappHandlers(deps);
  const handlers: Handlers = {
    ...clusterHandlers(deps),
    ...haHandlers(deps),
    ...historyHandlers(deps),
    ...notifyHandlers(deps),
    ...fencingHandlers(deps),
    ...pendingHandlers(deps),
    ...drainHandlers(deps),
    ...nodeUpdateHandlers(deps),
    ...rollingHandlers(deps),
    ...balanceHandlers(deps),
    ...powerHandlers(deps),
    ...ruleHandlers(deps),
    ...vmHandlers(deps),
    ...snapshotHandlers(deps),
    ...classHandlers(deps),
    ...templateHandlers(deps),
    ...vapps,
    ...importHandlers(deps, vapps.vappApply),
    ...images.handlers(),
    ...poolHandlers(deps),
    ...networkHandlers(deps),
    ...opHandlers(deps),
    ...certificateHandlers(deps),
    ...caHandlers(deps),
    ...tokenHandlers(deps),
    ...consoleHandlers(deps),
    ...userHandlers(deps),
    ...signOnHandlers(deps),
  };
  for (const name of Object.keys(rest) as RestName[]) register(app, name, handlers, deps);
  let text: string | null = null;
  app.get(`${apiRoot}/openapi.json`, (c) =>
    c.body((text ??= documentText(app as never, deps.version)), 200, {
      'content-type': 'application/json; charset=utf-8',
    }),
  );
  return app;
}

/** Puts the cluster's summary among the events whenever something in it changed but its age and its use. */
function tellCluster(view: View, version: string): void {
  let before = '';
  view.onTick(() => {
    if (!view.ledger.ready) return;
    const c = clusterView(view, version);
    const mark = JSON.stringify([c.sentence, c.concerns, c.counts, c.ledger]);
    if (mark === before) return;
    before = mark;
    view.events.push('cluster', JSON.stringify(c));
  });
}

/** One row of the table as a route. */
function register(app: OpenAPIHono<Env>, name: RestName, handlers: Handlers, deps: ApiDeps): void {
  const r: RestRoute = rest[name];
  const access = accessOf(name);
  const route = createRoute({
    method: r.method,
    path: apiRoot + r.path,
    operationId: name,
    tags: [r.tag],
    summary: r.summary,
    description: descriptionOf(r, access),
    'x-flotilla-access': access,
    ...(access === 'open' ? { security: [] } : {}),
    // Before the request is judged: whoever may not, is not told what would be wrong with it.
    middleware: (async (c: Context<Env>, next: () => Promise<void>) => {
      const who = c.get('identity');
      try {
        authorize(deps.view, who, access, aboutOf(name, c));
      } catch (error) {
        if (r.method !== 'get') audit(deps.log, c, name, errorRecord(error).code);
        throw error;
      }
      await next();
    }) as never,
    request: {
      ...(r.params === undefined ? {} : { params: r.params }),
      ...(r.query === undefined ? {} : { query: r.query }),
      ...headersOf(r),
      ...(r.body === undefined
        ? {}
        : { body: { required: true, content: { 'application/json': { schema: r.body } } } }),
    },
    responses: {
      [r.status]:
        r.status === 204
          ? { description: 'Done' }
          : { description: 'As asked', content: { 'application/json': { schema: r.response } } },
      ...problems(r),
    },
  });
  const handle = handlers[name] as (ask: unknown) => Promise<Reply<RestName>>;
  app.openapi(
    route as never,
    (async (c: Context<Env>) => {
      const valid = (of: 'param' | 'query' | 'json'): unknown => c.req.valid(of as never);
      const ask = {
        params: r.params === undefined ? undefined : valid('param'),
        query: r.query === undefined ? undefined : valid('query'),
        body: r.body === undefined ? undefined : valid('json'),
        who: nameOf(c.get('identity')),
        identity: c.get('identity'),
        from: c.env.incoming.socket.remoteAddress ?? '',
        ifMatch: ifMatchOf(c.req.header('if-match')),
        idempotencyKey: keyOf(c.req.header(idempotencyHeader)),
        signal: c.req.raw.signal,
      } satisfies Record<keyof Ask<RestName>, unknown>;
      const written = r.method !== 'get' && access !== 'open';
      const reply = await handle(ask).catch(async (refused: unknown) => {
        const error = await wakeForRoom(deps, refused);
        if (written) audit(deps.log, c, name, errorRecord(error).code);
        throw error;
      });
      if (written) audit(deps.log, c, name, 'done');
      const headers = reply.etag === undefined ? {} : { etag: reply.etag };
      if (r.status === 204) return c.body(null, 204, headers);
      const text = 'json' in reply ? reply.json : JSON.stringify(reply.body);
      return c.body(text, r.status, { 'content-type': 'application/json; charset=utf-8', ...headers });
    }) as never,
  );
}

const aboutOf = (name: RestName, c: Context<Env>): About =>
  name === 'vappApply'
    ? { apply: true }
    : { vm: c.req.param('vm'), vapp: c.req.param('vapp'), op: c.req.param('op') };

/** The routes that stream: they have no body of JSON, so they stand before its limit. */
function streams(app: OpenAPIHono<Env>, deps: ApiOptions, images: Images): void {
  const { view } = deps;
  const contentPath = apiRoot + restStreams.imageContent;
  app.put(contentPath.replaceAll(/\{(.+?)\}/g, ':$1'), async (c) => {
    authorize(view, c.get('identity'), streamAccess.imageContent, {});
    const image = parse(refSchema, c.req.param('image'), 'The image in the path');
    const text = c.req.header(uploadOffsetHeader) ?? '0';
    if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(Number(text))) {
      throw new FlotillaError('bad-input', `The header ${uploadOffsetHeader} is no whole number`, {
        hint: 'Ask GET /images/{image}/upload where to go on.',
      });
    }
    const answer = await images.append(image, {
      offset: Number(text),
      body: c.req.raw.body,
      length: c.req.header('content-length'),
      signal: c.req.raw.signal,
    });
    return c.json(answer);
  });
  const exportPath = apiRoot + restStreams.exportContent;
  app.get(exportPath.replaceAll(/\{(.+?)\}/g, ':$1'), async (c) => {
    authorize(view, c.get('identity'), streamAccess.exportContent, { op: c.req.param('op') });
    const id = parse(idSchema, c.req.param('op'), 'The operation in the path');
    const got = await exported(deps, id, c.req.header('range'), c.req.raw.signal);
    return c.body(got.body, got.status as ContentfulStatusCode, got.headers);
  });
  const packagePath = apiRoot + restStreams.vappPackage;
  app.get(packagePath.replaceAll(/\{(.+?)\}/g, ':$1'), async (c) => {
    authorize(view, c.get('identity'), streamAccess.vappPackage, { vapp: c.req.param('vapp') });
    const vapp = parse(refSchema, c.req.param('vapp'), 'The vApp in the path');
    const ops = parse(
      z.array(idSchema).min(1).max(vappMembersMax),
      (c.req.query('exports') ?? '').split(','),
      'The exports in the query',
    );
    const of = await vappDocument(deps, vapp);
    const got = await vappPackage(deps, of, ops, c.req.header('range'), c.req.raw.signal);
    return c.body(got.body, got.status as ContentfulStatusCode, got.headers);
  });
  app.get(apiRoot + restStreams.events, (c) => {
    authorize(view, c.get('identity'), streamAccess.events, {});
    const stream = eventStream(view, {
      lastEventId: c.req.header('last-event-id') ?? c.req.query('lastEventId'),
      kinds: kindsOf(c.req.query('kinds')),
      cluster: () => JSON.stringify(clusterView(view, deps.version)),
    });
    return c.body(stream, 200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
    });
  });
  // Websockets come past here (ControllerServer); this is for whoever asks otherwise.
  app.get(apiRoot + restStreams.console, () => {
    throw new FlotillaError('bad-input', 'A console is a websocket', {
      hint: `Ask for a ticket at POST ${apiRoot}/vms/{vm}/console and give it as a subprotocol.`,
    });
  });
  const registry = app.openAPIRegistry;
  registry.registerPath({
    method: 'put',
    path: contentPath,
    operationId: 'imageContent',
    'x-flotilla-access': streamAccess.imageContent,
    tags: ['images'],
    summary: 'Send the bytes of an image, from an offset on; broken off, it goes on where it was',
    description: descriptionOf({ method: 'put' }, streamAccess.imageContent),
    request: {
      params: z.strictObject({ image: refSchema }),
      headers: z.object({ [uploadOffsetHeader]: z.string().optional() }),
      body: {
        required: true,
        content: { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } },
      },
    },
    responses: {
      200: {
        description: 'What is there now',
        content: { 'application/json': { schema: z.object({ offset: z.number().int(), node: z.string() }) } },
      },
      ...problemAnswer,
    },
  });
  registry.registerPath({
    method: 'get',
    path: exportPath,
    operationId: 'exportContent',
    'x-flotilla-access': streamAccess.exportContent,
    tags: ['vms'],
    summary: 'Fetch what an operation vm.export has packed: an OVA; a Range goes on where it broke off',
    description: descriptionOf({ method: 'get' }, streamAccess.exportContent),
    request: {
      params: z.strictObject({ op: idSchema }),
      headers: z.object({ range: z.string().optional() }),
    },
    responses: {
      200: {
        description: 'The archive',
        content: { 'application/x-tar': { schema: { type: 'string', format: 'binary' } } },
      },
      ...problemAnswer,
    },
  });
  registry.registerPath({
    method: 'get',
    path: packagePath,
    operationId: 'vappPackage',
    'x-flotilla-access': streamAccess.vappPackage,
    tags: ['vapps'],
    summary: 'Fetch a whole vApp of which each VM was packed, as one OVA; a Range goes on where it broke off',
    description: descriptionOf({ method: 'get' }, streamAccess.vappPackage),
    request: {
      params: z.strictObject({ vapp: refSchema }),
      query: z.strictObject({ exports: z.string() }),
      headers: z.object({ range: z.string().optional() }),
    },
    responses: {
      200: {
        description: 'The archive',
        content: { 'application/x-tar': { schema: { type: 'string', format: 'binary' } } },
      },
      ...problemAnswer,
    },
  });
  registry.registerPath({
    method: 'get',
    path: apiRoot + restStreams.events,
    operationId: 'events',
    'x-flotilla-access': streamAccess.events,
    tags: ['events'],
    summary: 'All changes as they come; Last-Event-ID resumes, else a snapshot comes first',
    description: descriptionOf({ method: 'get' }, streamAccess.events),
    request: {
      query: z.strictObject({ kinds: z.string().optional(), lastEventId: z.string().optional() }),
      headers: z.object({ 'last-event-id': z.string().optional() }),
    },
    responses: {
      200: {
        description: 'Server-sent events',
        content: { 'text/event-stream': { schema: { type: 'string' } } },
      },
      ...problemAnswer,
    },
  });
}

const problemAnswer = {
  '4XX': {
    description: 'Refused: `code` says why, `hint` the way out',
    content: { 'application/problem+json': { schema: problemSchema } },
  },
  '5XX': {
    description: 'Failed, or cannot be done now',
    content: { 'application/problem+json': { schema: problemSchema } },
  },
};

const problems = (_: RestRoute): typeof problemAnswer => problemAnswer;

function headersOf(r: RestRoute): { headers?: z.ZodObject } {
  const shape: Record<string, z.ZodType> = {};
  if (r.etag === true && r.method !== 'get' && r.method !== 'post') shape['if-match'] = z.string().optional();
  if (r.idempotent === true) shape[idempotencyHeader] = z.string().optional();
  return Object.keys(shape).length === 0 ? {} : { headers: z.object(shape) };
}

/** Whether a certificate is that of a node of the cluster now. */
export function isMember({ view }: Pick<ApiDeps, 'view'>, peer: PeerNode): boolean {
  const { node, cert } = view.ledger.tables;
  const revoked = cert.get(peer.serial)?.value.revoked ?? null;
  return revoked === null && node.get(peer.node)?.value.fingerprint === peer.fingerprint;
}

const nameOf = (who: Identity | null): string =>
  who === null ? 'nobody' : who.kind === 'node' ? `node ${who.node}` : who.name;

/** Nobody finds out without a login what there is. @throws FlotillaError `unauthenticated` */
async function loggedIn(c: Context<Env>, next: () => Promise<void>): Promise<void> {
  const open = c.req.method === 'POST' && c.req.path === apiRoot + rest.login.path;
  if (open) await next();
  else await requireIdentity('node-or-token')(c as never, next);
}

/**
 * A page of another site, or of another port here, may not change anything with this browser's cookie. Besides the
 * cookie being `SameSite=Strict`: the browser must say that the page is ours, and one that says nothing is refused.
 */
async function sameSite(c: Context<Env>, next: () => Promise<void>): Promise<void> {
  const site = c.req.header('sec-fetch-site');
  const origin = c.req.header('origin');
  const who = c.get('identity');
  const unsaid = who?.kind === 'token' && who.byCookie && site !== 'same-origin' && origin !== ownOrigin(c);
  const other = site !== undefined && site !== 'same-origin' && site !== 'none';
  if (c.req.method !== 'GET' && c.req.method !== 'HEAD' && (unsaid || other)) {
    throw new FlotillaError('forbidden', 'This request came from another site', {
      hint: 'Make changes from the controller’s own page, or with an API token.',
    });
  }
  await next();
}

const ownOrigin = (c: Context<Env>): string => `https://${c.req.header('host') ?? new URL(c.req.url).host}`;

/** `"7"`, `W/"7"` or `7`; null: none, or any. */
function ifMatchOf(header: string | undefined): string | null {
  const text = header?.trim() ?? '*';
  return text === '*' ? null : text.replace(/^W\//, '').replace(/^"(.*)"$/, '$1');
}

function keyOf(header: string | undefined): string | null {
  return header === undefined ? null : parse(idempotencyKeySchema, header, 'The header Idempotency-Key');
}

/** A line in the journal of this node: who did what, from where, and what came of it. Bodies have secrets, and stay out. */
function audit(log: ApiDeps['log'], c: Context<Env>, what: string, result: string): void {
  const params = c.req.param() as Record<string, string>;
  log.info('audit', {
    who: nameOf(c.get('identity')),
    what,
    ...(Object.keys(params).length === 0 ? {} : { params }),
    from: c.env.incoming.socket.remoteAddress ?? '',
    result,
  });
}

/** @throws FlotillaError `bad-input`, `unknown-field` */
function refuseInvalid(result: {
  success: boolean;
  target?: string;
  error?: { readonly issues: readonly z.core.$ZodIssue[] };
}): undefined {
  if (result.success || result.error === undefined) return undefined;
  const where = { json: 'The body', query: 'The query', param: 'The path', header: 'The headers' }[
    result.target ?? 'json'
  ];
  throw inputRefused(result.error.issues, where ?? 'The request');
}

function badRequest(error: HTTPException): FlotillaError {
  const text = error.message === '' ? `status ${error.status}` : error.message;
  return new FlotillaError('bad-input', `The request was refused: ${text}`, {
    hint: `Send well-formed JSON with content-type application/json; see ${apiRoot}/openapi.json.`,
  });
}
