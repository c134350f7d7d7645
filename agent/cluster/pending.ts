import { rm } from 'node:fs/promises';
import path from 'node:path';
import { Hono } from 'hono';
import { html } from 'hono/html';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { parse } from '../../core/domain/schema.js';
import type { NodeFacts } from '../../core/domain/node.js';
import { adoptRequestSchema, type Newcomer } from '../../core/wire/adopt.js';
import type { Clock, Log, Slots } from '../env.js';
import { createAgentHttp } from '../http/server.js';
import { stylesheetPath } from '../http/style.js';
import { selfSigned } from '../pki/certificates.js';
import { ensurePrivateKey, fingerprintOfPrivateKey } from '../pki/keys.js';
import { pkiPaths, readIfThere } from '../pki/store.js';
import { fingerprintText, type Screen } from '../screen.js';
import { startBeacon } from './beacon.js';
import { readClusterCache } from './cache.js';
import type { AgentConfig } from './config.js';
import { join, type Joined } from './join.js';
import { RateLimit } from './rate-limit.js';
import type { Services } from './services.js';

/** How often it is looked whether the node is in a cluster by now, ms: found or joined by a command. */
const lookMs = 1_000;
/** A token that lies ready is tried this often while the cluster cannot be reached, ms. */
const tokenAgainMs = 2_000;
/** One try with that token, ms. */
const tokenLimitMs = 30_000;
/** Largest body of an admission, bytes: a token has about 150. */
const bodyBytesMax = 1_024;

/** A join token somebody left for this node: an installer, the kernel's command line. */
export const joinTokenFile = (stateDir: string): string => path.join(stateDir, 'join-token');

export interface PendingDeps {
  readonly config: AgentConfig;
  readonly services: Services;
  readonly clock: Clock;
  readonly log: Log;
  readonly screen: Pick<Screen, 'show'>;
  readonly slots: Pick<Slots, 'state' | 'good'>;
  /** Collects what the machine is. */
  readonly facts: () => Promise<NodeFacts>;
  readonly version: string;
}

/**
 * What a node does while it is in no cluster: it makes its key, shows the fingerprint on its console and its page, and waits
 * until a cluster admits it (`POST /adopt`), a token that lies ready admits it, or somebody founds or joins by command.
 *
 * @returns once `cluster.json` is there
 */
export async function pending(d: PendingDeps): Promise<void> {
  const { config, clock, log } = d;
  if ((await readClusterCache(config.stateDir)) !== null) return;
  const keyFile = pkiPaths(config.stateDir).nodeKey;
  const key = await ensurePrivateKey(keyFile);
  const fingerprint = fingerprintOfPrivateKey(key);
  const cert = await selfSigned({
    keyFile,
    node: config.name,
    address: config.address,
    wallMs: clock.wallMs(),
  });
  log.info('this node belongs to no cluster: it waits to be admitted', { fingerprint });
  let sentence = 'waits to be admitted to a cluster';
  const tell = (text: string): void => {
    sentence = text;
    d.screen.show({ state: 'pending', config, fingerprint, cluster: null, ok: true, sentence });
  };
  tell(sentence);

  // One at a time: two admissions would race for the same files.
  let joining: Promise<Joined> | null = null;
  const joinOnce = async (token: string, limitMs: number): Promise<Joined> => {
    if (joining !== null) {
      throw new FlotillaError('wrong-state', `${config.name} is being admitted just now`, {
        hint: 'Wait for it to end.',
      });
    }
    joining = join({ config, services: d.services, clock, log, limitMs }, token);
    try {
      return await joining;
    } finally {
      joining = null;
    }
  };

  let machine: Newcomer | null = null;
  const http = createAgentHttp({
    host: '0.0.0.0',
    port: config.ports.agent,
    node: config.name,
    tls: () => ({ ca: cert, cert, key }),
    verifyToken: () => ({ ok: false, code: 'token-unknown' }),
    health: () => ({
      ok: true,
      node: config.name,
      version: d.version,
      fingerprint,
      state: 'pending' as const,
      ...(machine === null ? {} : { machine }),
    }),
    page: () => '',
    metrics: () => '',
    mounts: [
      {
        path: '/',
        app: pendingApp({ ...d, fingerprint, sentence: () => sentence, join: joinOnce }),
        allow: 'anyone',
        bodyBytesMax,
      },
    ],
    clock,
    log,
  });
  await http.start();
  void d.facts().then(
    (f) => {
      machine = { cpu: f.cpuModel, cards: f.nics.map((n) => n.name) };
    },
    (error: unknown) => log.warn('hardware facts', { error: String(error) }),
  );
  const { name, address, ports } = config;
  const endBeacon = startBeacon({ name, address, port: ports.agent, fingerprint, version: d.version });
  // To wait is all that is asked of it: a version on trial that gets here is a good one.
  const slot = await d.slots.state().catch(() => null);
  if (slot !== null && slot.onTrial !== null && slot.onTrial === slot.booted)
    await d.slots
      .good()
      .catch((error: unknown) => log.warn('the slots of this node', { error: String(error) }));
  try {
    let nextTryMs = 0;
    while ((await readClusterCache(config.stateDir)) === null || joining !== null) {
      if (clock.nowMs() >= nextTryMs && joining === null) {
        await tryToken(d, joinOnce, tell);
        nextTryMs = clock.nowMs() + tokenAgainMs;
      }
      await clock.sleep(lookMs);
    }
    // An answer to whoever admitted it may still be on its way.
    await clock.sleep(lookMs);
  } finally {
    endBeacon();
    await http.stop();
  }
  await rm(joinTokenFile(config.stateDir), { force: true });
}

/** Tries the token that lies ready. One the cluster refuses is thrown away: it will not get better. */
async function tryToken(
  d: PendingDeps,
  joinOnce: (token: string, limitMs: number) => Promise<Joined>,
  tell: (sentence: string) => void,
): Promise<void> {
  const file = joinTokenFile(d.config.stateDir);
  const token = await readIfThere(file);
  if (token === null) return;
  try {
    tell('joins a cluster with the token it was given');
    await joinOnce(token, tokenLimitMs);
  } catch (error) {
    const { code, message } = errorRecord(error);
    d.log.warn('joining with the token that was given failed', { code, message });
    const refused: ReadonlySet<string> = new Set([
      'token-unknown',
      'token-expired',
      'token-used-up',
      'bad-input',
      // Its key is that of a node that was removed.
      'forbidden',
    ]);
    if (refused.has(code)) await rm(file, { force: true });
    tell(`could not join: ${message}`);
  }
}

interface AppDeps extends Pick<PendingDeps, 'config' | 'clock' | 'log' | 'version'> {
  readonly fingerprint: string;
  readonly sentence: () => string;
  readonly join: (token: string, limitMs: number) => Promise<Joined>;
}

/** How long one admission from outside goes on trying, ms; the cluster that asked for it waits. */
const adoptLimitMs = 20_000;

function pendingApp(d: AppDeps): Hono {
  const app = new Hono();
  const limit = new RateLimit(d.clock.nowMs());
  app.get('/', async (c) => {
    c.header('refresh', '5');
    return c.html(await pendingPage(d));
  });
  app.post('/adopt', async (c) => {
    const from =
      (c.env as { incoming?: { socket?: { remoteAddress?: string } } }).incoming?.socket?.remoteAddress ?? '';
    if (!limit.take(from, d.clock.nowMs())) {
      throw new FlotillaError('rate-limited', 'Too many admissions were tried', { hint: 'Wait a minute.' });
    }
    const { token } = parse(adoptRequestSchema, await c.req.json().catch(() => null), 'the admission');
    const joined = await d.join(token, adoptLimitMs);
    return c.json({ cluster: joined.name, node: joined.node });
  });
  return app;
}

function pendingPage(d: AppDeps): ReturnType<typeof html> {
  const { name, address } = d.config;
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>${name} waits to be admitted</title>
        <link rel="icon" href="data:," />
        <link rel="stylesheet" href="${stylesheetPath}" />
      </head>
      <body>
        <header>
          <h1>${name}</h1>
          <p class="quiet">${address}, version ${d.version}</p>
        </header>
        <main>
          <div class="verdict warn" role="status"><p>${name} ${d.sentence()}.</p></div>
          <section>
            <h2>Fingerprint of its key</h2>
            <p><code>${fingerprintText(d.fingerprint)}</code></p>
            <p>
              Admit it on the cluster's page under Nodes, or with
              <code>flotilla node admit ${address}</code>, and compare the fingerprint with the one there.
            </p>
          </section>
        </main>
      </body>
    </html>`;
}
