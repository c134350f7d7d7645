import { execa } from 'execa';
import { Hono } from 'hono';
import type { Context, MiddlewareHandler } from 'hono';
import { FlotillaError } from '../../core/domain/error.js';
import { idSchema, parse } from '../../core/domain/schema.js';
import type { Clock, Log } from '../env.js';
import type { AuthEnv, Identity } from '../http/auth.js';
import type { HoldFile } from './holds.js';

/** Units whose journals the page shows. */
export const logUnits = [
  'flotilla-agent',
  'flotilla-keeper',
  'flotilla-etcd',
  'flotilla-mosquitto',
  'flotilla-controller',
  'libvirtd',
] as const;
const logLines = 400;
const logBytesMax = 512 * 1024;
const logLimitMs = 10_000;

export interface LocalDeps {
  readonly node: string;
  readonly holds: HoldFile;
  /** Whether a machine of that id is here. */
  readonly isHere: (vm: string) => boolean;
  /** The loop sees to it. */
  readonly wake: () => void;
  readonly clock: Pick<Clock, 'wallMs'>;
  readonly log: Log;
}

/** Whether somebody may act at this node by hand: by an admin's token, session, or as one who may break the glass. */
export const actsHere = (who: Identity | null): boolean =>
  who?.kind === 'token' && who.rights?.role === 'admin';

/**
 * What an admin can do at this node when nothing else answers: hold a VM off, let go of it, read logs. Stopping is always
 * right; letting go starts nothing: that is the loop's, with the ledger.
 */
export function localApp(d: LocalDeps): Hono<AuthEnv> {
  const app = new Hono<AuthEnv>();
  app.use(onlyAdmins);
  app.post('/hold', async (c) => {
    const { vm, sure } = await asked(c);
    if (!d.isHere(vm) && !d.holds.all().has(vm)) {
      throw new FlotillaError('not-found', 'No machine of that VM is at this node', {
        hint: 'Look at the page of the node that runs it.',
      });
    }
    if (!sure) {
      throw new FlotillaError('bad-input', 'It was not confirmed that the VM is to be forced off', {
        hint: 'Check the box beside it.',
      });
    }
    const by = nameOf(c);
    await d.holds.hold(vm, { by, atMs: d.clock.wallMs() });
    d.log.warn('audit', { who: by, what: 'hold', on: vm, from: addressOf(c), result: 'done' });
    d.wake();
    return c.redirect('/', 303);
  });
  app.post('/release', async (c) => {
    const { vm } = await asked(c);
    await d.holds.release(vm);
    d.log.warn('audit', { who: nameOf(c), what: 'release', on: vm, from: addressOf(c), result: 'done' });
    d.wake();
    return c.redirect('/', 303);
  });
  app.get('/logs/:unit', async (c) => {
    const unit = logUnits.find((u) => u === c.req.param('unit'));
    if (unit === undefined) {
      throw new FlotillaError('not-found', 'There is no such log', {
        hint: `There are: ${logUnits.join(', ')}.`,
      });
    }
    const args = ['-u', unit, '-n', `${logLines}`, '--no-pager', '-o', 'short-iso'];
    const r = await execa('journalctl', args, {
      reject: false,
      timeout: logLimitMs,
      maxBuffer: logBytesMax,
      stdin: 'ignore',
    });
    return c.text(r.failed && r.stdout === '' ? `The journal cannot be read: ${r.stderr}` : r.stdout);
  });
  return app;
}

const onlyAdmins: MiddlewareHandler<AuthEnv> = async (c, next) => {
  const who = c.get('identity');
  if (!actsHere(who)) {
    throw new FlotillaError('forbidden', 'This is for admins only', {
      hint: 'Log in here as an admin, or come with a token of that role.',
    });
  }
  const site = c.req.header('sec-fetch-site');
  if (c.req.method !== 'GET' && who?.kind === 'token' && who.byCookie && site !== 'same-origin') {
    throw new FlotillaError('forbidden', 'This came from another site, or from a browser that does not say', {
      hint: 'Use the form on the page of this node.',
    });
  }
  await next();
};

async function asked(c: Context<AuthEnv>): Promise<{ vm: string; sure: boolean }> {
  const form = await c.req.parseBody();
  return { vm: parse(idSchema, form['vm'], 'The VM'), sure: form['sure'] === 'yes' };
}

function nameOf(c: Context<AuthEnv>): string {
  const who = c.get('identity');
  return who?.kind === 'token' ? who.name.slice(0, 128) : '?';
}

const addressOf = (c: Context<AuthEnv>): string => c.env.incoming.socket.remoteAddress ?? '';
