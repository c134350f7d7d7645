import { setTimeout as sleep } from 'node:timers/promises';
import { journal, systemRandom as random } from '../system.js';
import { version } from '../version.js';
import type { Clock } from '../env.js';
import { KeeperEtcd } from './etcd.js';
import type { KeeperEnv } from './env.js';
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
    watchdog: new WatchdogDevice({ pipeTimeoutMs: timing.watchdogMs, nowMs: monotonicMs }),
    store: new KeeperFiles({ runtimeDir, stateDir, node }),
    takeovers: new PoolTakeovers(import.meta.filename),
    publish: (s) => server.publish(s),
  };
  const keeper = new Keeper(env);
  keeper.start();
  await server.start(keeper);

  const end = (): void => {
    const armed = keeper.state().armed.length > 0;
    const limit = armed ? sleep(stopMs) : new Promise<void>(() => undefined);
    void Promise.race([keeper.stop(), limit]).then(() => process.exit(0));
  };
  process.once('SIGTERM', end);
  process.once('SIGINT', end);
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
