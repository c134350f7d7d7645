import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { journal, systemRandom as random } from '../system.js';
import { version } from '../version.js';
import type { Clock } from '../env.js';
import { KeeperEtcd } from './etcd.js';
import type { KeeperEnv } from './env.js';
import { SystemdFdStore } from './fd-store.js';
import { CgroupFreezer } from './freezer.js';
import { Keeper } from './keeper.js';
import { keeperSocket, monotonicMs } from './protocol.js';
import { KeeperServer } from './server.js';
import { KeeperFiles } from './store.js';
import { readEndpoints, readKeeperConfig, Surroundings } from './surroundings.js';
import { PoolTakeovers, serveTakeovers } from './takeovers.js';
import { WatchdogDevice } from './watchdog.js';

/** A node that belongs to no cluster yet is looked at so often, ms. */
const pendingMs = 1_000;
/** With VMs armed the next start must come within the watchdog's time: so long is waited for calls under way, ms. */
const stopMs = 500;
/** The same when the machine shuts down: no start follows. The lease is given back within it, or ends by itself. */
const offMs = 4_000;
/** systemd answers at once; without an answer it is not known to shut down, ms. */
const askMs = 200;

/** A clock that a restart of the keeper does not change. */
const clock: Clock = {
  nowMs: monotonicMs,
  wallMs: () => Date.now(),
  async sleep(ms, signal) {
    await sleep(ms, undefined, signal === undefined ? {} : { signal });
  },
};

async function main(): Promise<void> {
  const log = journal();
  const runtimeDir = '/run/flotilla';
  const { node, stateDir, timing } = await readKeeperConfig('/etc/flotilla/agent.json');
  while ((await readEndpoints(stateDir)) === null) await sleep(pendingMs);

  const ledger = new KeeperEtcd({ timing });
  const surroundings = new Surroundings({ stateDir, ledger, log });
  await surroundings.start();
  const server = new KeeperServer({ path: keeperSocket(runtimeDir), log });
  const env: KeeperEnv = {
    node,
    version,
    timing,
    clock,
    random,
    log,
    ledger,
    freezer: new CgroupFreezer(),
    watchdog: new WatchdogDevice({
      pipeTimeoutMs: timing.watchdogMs,
      nowMs: monotonicMs,
      store: new SystemdFdStore('watchdog'),
    }),
    store: new KeeperFiles({ runtimeDir, stateDir, node }),
    takeovers: new PoolTakeovers(import.meta.filename),
    trusts: () => surroundings.trusts,
    publish: (s) => server.publish(s),
  };
  const keeper = new Keeper(env);
  keeper.start();
  await server.start(keeper);

  const end = async (): Promise<void> => {
    const off = await shutsDown();
    const hurry = keeper.state().armed.length > 0 && !off;
    await Promise.race([keeper.stop({ off }), sleep(hurry ? stopMs : offMs)]);
    process.exit(0);
  };
  process.once('SIGTERM', () => void end());
  process.once('SIGINT', () => void end());
}

/** Told to end because the machine is being switched off, and not for an upgrade. */
function shutsDown(): Promise<boolean> {
  return new Promise((resolve) => {
    execFile('systemctl', ['is-system-running'], { timeout: askMs }, (_error, stdout) =>
      resolve(stdout.trim() === 'stopping'),
    );
  });
}

// The same program is the thread that reads pools.
if (!serveTakeovers()) {
  main().catch((error: unknown) => {
    console.error(
      `<3>flotilla-keeper: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    );
    process.exit(1);
  });
  process.on('unhandledRejection', (reason) => {
    console.error(
      `<3>unhandled: ${reason instanceof Error ? (reason.stack ?? reason.message) : String(reason)}`,
    );
    process.exit(1);
  });
}
