import type { Log } from '../agent/env.js';
import { EtcdLedger } from '../agent/ledger/etcd.js';
import { certificateInfo } from '../agent/pki/certificates.js';
import { readTls } from '../agent/pki/store.js';
import type { TlsMaterial } from '../agent/pki/tls.js';
import { MqttRadio } from '../agent/radio/mqtt-radio.js';
import { errorRecord } from '../core/domain/error.js';
import { isHeard } from '../core/domain/node.js';
import { HttpsAsk } from './agent-ask.js';
import { AuditCopies } from './audit-copies.js';
import { controllerApp, isMember } from './api/app.js';
import { HttpsUploads, type AgentAddress } from './api/uploads.js';
import { readClusterFile, type ClusterFile, type ControllerConfig } from './config.js';
import { HttpsConsoles } from './console-dial.js';
import { Consoles } from './consoles.js';
import { EventLog } from './event-log.js';
import { ControllerServer } from './server.js';
import { systemChance, systemClock as clock, systemRandom as random } from './system.js';
import { NetworkPendingNodes } from './pending-nodes.js';
import { version } from './version.js';
import { View } from './view.js';
import { readWebFiles } from './web-files.js';

/** A node that is not in a cluster yet is looked at so often, ms. */
const joinedPollMs = 2_000;
/** The certificate may be renewed, others be revoked, and voters change: looked at so often, ms. */
const upkeepMs = 10_000;

/** Puts the controller together from its parts and runs it until the signal. The only place that knows them all. */
export async function runController(config: ControllerConfig, log: Log, signal: AbortSignal): Promise<void> {
  const cluster = await whenJoined(config, log, signal);
  if (cluster === null) return;
  let tls = await readTls(config.stateDir);
  const own = certificateInfo(tls.cert);
  const boot = random.uuid();
  const ledger = new EtcdLedger({ endpoints: cluster.ledgerEndpoints, tls });
  const radio = new MqttRadio({
    cluster: cluster.clusterId,
    node: cluster.node,
    boot,
    mode: 'listen',
    port: config.radioPort,
    tls: () => tls,
    clock,
    random,
    log,
  });
  const view = new View({ ledger, radio, clock, log, events: new EventLog(boot) });
  const uploads = new HttpsUploads({ tls: () => tls, port: config.agentPort });
  const ask = new HttpsAsk({ tls: () => tls, port: config.agentPort });
  const consoles = new Consoles({
    view,
    clock,
    chance: systemChance,
    agents: new HttpsConsoles({ tls: () => tls, port: config.agentPort }),
  });
  const pending = new NetworkPendingNodes({ clock, log, port: config.agentPort });
  const audit = new AuditCopies({
    log,
    clock,
    others: () => heardOthers(view, cluster.node),
    send: async (node, letter, until) => void (await ask.post(node, '/v1/audit', letter, until)),
  });
  const app = controllerApp({
    view,
    ledger,
    clock,
    chance: systemChance,
    log: audit.log,
    uploads,
    ask,
    consoles,
    pending,
    version,
    fingerprint: own.fingerprint,
    web: await readWebFiles(new URL('./flotilla-web.mjs', import.meta.url)),
  });
  const server = new ControllerServer({ app, consoles, host: config.host, port: config.port, tls });

  radio.start();
  view.start();
  pending.start();
  await server.start();
  log.info('controller is up', { version, cluster: cluster.name, port: server.port });

  // The tables change before the page's events do: whoever was removed is cut within a second or two.
  view.onTick(() => {
    if (view.ledger.ready) server.cutStrangers((peer) => isMember({ view }, peer));
  });
  const upkeep = setInterval(() => {
    followVoters();
    void renewed();
  }, upkeepMs);
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
  log.info('controller stops');
  clearInterval(upkeep);
  // The view first: it ends the event streams, which would hold the server.
  view.stop();
  consoles.stop();
  await server.stop();
  uploads.close();
  await audit.stop();
  ask.close();
  pending.stop();
  await radio.stop();
  await ledger.close();

  function followVoters(): void {
    const urls: string[] = [];
    for (const { value: n } of view.ledger.tables.node.values())
      if (n.voter) urls.push(`https://${n.addresses[0]}:${config.ledgerPort}`);
    // A list without voters is a ledger not read yet, not a cluster without one.
    if (urls.length > 0) ledger.setEndpoints(urls.sort());
  }

  async function renewed(): Promise<void> {
    let now: TlsMaterial;
    try {
      now = await readTls(config.stateDir);
    } catch (error) {
      log.warn(`the certificate cannot be read: ${errorRecord(error).message}`);
      return;
    }
    if (JSON.stringify(now) === JSON.stringify(tls)) return;
    tls = now;
    server.setTls(now);
    ledger.setTls(now);
    log.info('the renewed certificate, the CA or the list of revoked ones is used');
  }
}

/** Nodes but this one whose agents are heard, in the order of their names. */
function heardOthers(view: View, me: string): AgentAddress[] {
  const nodes = [...view.ledger.tables.node.values()]
    .map((k) => k.value)
    .filter((n) => n.id !== me && n.witness !== true);
  return nodes
    .filter((n) => isHeard(view.presenceOf(n.id)))
    .flatMap(({ id, addresses: [address] }) => (address === undefined ? [] : [{ id, address }]))
    .sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** Waits until the node has founded a cluster or joined one. */
async function whenJoined(
  config: ControllerConfig,
  log: Log,
  signal: AbortSignal,
): Promise<ClusterFile | null> {
  let told = false;
  while (!signal.aborted) {
    const cluster = await readClusterFile(config.stateDir);
    if (cluster !== null) return cluster;
    if (!told) log.info('waits: this node is in no cluster yet', { stateDir: config.stateDir });
    told = true;
    await clock.sleep(joinedPollMs, signal).catch(() => undefined);
  }
  return null;
}
