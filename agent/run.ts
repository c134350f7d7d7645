import { networkInterfaces } from 'node:os';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { watchSet } from '../core/decide/watch-set.js';
import { errorRecord } from '../core/domain/error.js';
import type { Health } from '../core/domain/node.js';
import { timingProfiles } from '../core/domain/timing.js';
import { readClusterCache, refreshedCache, writeClusterCache, type ClusterCache } from './cluster/cache.js';
import type { AgentConfig } from './cluster/config.js';
import { CaRotation } from './cluster/ca-rotation.js';
import { joinApp } from './cluster/join-app.js';
import { catchUp, fetchCaKeysFromAll } from './cluster/join.js';
import { brokerLogFile } from './cluster/mosquitto.js';
import { SystemConnections } from './cluster/connections.js';
import { Membership, removedText } from './cluster/membership.js';
import { Revocation } from './cluster/revocation.js';
import { SystemdServices } from './cluster/services.js';
import { openMigrationPort } from './cluster/migration-port.js';
import { noGuests, noHypervisor } from './cluster/witness.js';
import { Upkeep } from './cluster/upkeep.js';
import { VoterLoop } from './cluster/voters.js';
import { VoterSeat } from './cluster/voter-seat.js';
import { ConsoleDoor } from './consoles/door.js';
import { Drbd } from './drbd/drbd.js';
import { FenceDoor, FenceJudge } from './drbd/fence-door.js';
import type { AgentEnv, Log } from './env.js';
import { FencePrograms } from './fence/fence-programs.js';
import { Seeds } from './guest/seed.js';
import { historyApp } from './history/http.js';
import { historyDir, HistoryKeeper } from './history/keep.js';
import { auditApp } from './http/audit.js';
import { createAgentHttp } from './http/server.js';
import { KeeperLink } from './keeper-link.js';
import { keeperSocket } from './keeper/protocol.js';
import { TokenCache } from './http/token-cache.js';
import { EtcdLedger } from './ledger/etcd.js';
import { LedgerMembers } from './ledger/members.js';
import { RecordStore } from './ledger/records.js';
import { journalApp } from './journal/http.js';
import { FileJournal, journalHealth } from './journal/journal.js';
import { journalFile } from './journal/read.js';
import { eitherHypervisor } from './lockstep/either-hypervisor.js';
import { lockstepApp, lockstepBodyMax } from './lockstep/http.js';
import { LockstepHypervisor } from './lockstep/lockstep-hypervisor.js';
import { QemuLockstep } from './lockstep/lockstep.js';
import { LockstepMachines } from './lockstep/machines.js';
import { LockstepPeers } from './lockstep/peer.js';
import { SystemdScopes } from './lockstep/scopes.js';
import { runTool } from './pool/tool.js';
import { LibvirtHypervisor } from './libvirt/libvirt-hypervisor.js';
import { tlsPeer } from './libvirt/peer.js';
import { AgentLoop } from './loop.js';
import { NodeMachine } from './machine/machine.js';
import { NotifyDesk } from './notify/desk.js';
import { Bridges } from './net/bridges.js';
import { overlayPeers } from './net/overlay.js';
import { certificateInfo } from './pki/certificates.js';
import type { PeerNode } from './pki/identity.js';
import { caKeyFile, readTls } from './pki/store.js';
import type { TlsMaterial } from './pki/tls.js';
import { imagesApp } from './pool/http.js';
import { peerImages } from './pool/peer.js';
import { DriveList } from './lvm/drives.js';
import { Lvm } from './lvm/lvm.js';
import { Volumes } from './pool/volumes.js';
import { poolHasNode } from '../core/domain/pool.js';
import { auditLetterBytesMax } from '../core/wire/audit.js';
import { ledger as kinds } from '../core/wire/ledger-keys.js';
import { exportsApp } from './export/http.js';
import { MqttRadio } from './radio/mqtt-radio.js';
import { BootSlots } from './slots/slots.js';
import { SnapshotKeeper } from './snapshots/keep.js';
import { snapshotsDir } from './snapshots/shelf.js';
import { AgentMeter } from './status/agent-use.js';
import { FailoverCount } from './status/failover-count.js';
import { metricsText } from './status/metrics.js';
import { BreakGlass } from './local/break-glass.js';
import { actsHere, localApp } from './local/app.js';
import { holdsFile } from './local/commands.js';
import { HoldFile } from './local/holds.js';
import { statusPage } from './status/page.js';
import type { StatusView } from './status/view.js';
import { Screen } from './screen.js';
import { keptOrNow, type Snapshot } from './snapshot.js';
import { ConsoleSockets, systemClock as clock, systemRandom as random } from './system.js';
import { version } from './version.js';

/** The QEMU of VMs in lockstep, where the appliance has it. @see images/lib/lockstep.sh */
const lockstepQemu = '/usr/lib/flotilla/qemu-lockstep/qemu-system-x86_64';
/** How often it is looked whether the console of the machine shows what is, ms. */
const screenMs = 5_000;
/** Until the ledger answers for the first time it is asked again so often, ms. */
const openAgainMs = 1_000;

/** An agent that runs. */
export interface RunningAgent {
  stop(): Promise<void>;
}

/** What collects the facts of the machine, in a process of its own that comes after all else. */
export const factsCommand = [
  '/usr/bin/nice',
  '-n',
  '19',
  process.execPath,
  path.join(import.meta.dirname, 'flotilla-facts.mjs'),
];

/** Puts a node's agent together from its parts and starts it. The only place that knows them all. */
export async function runAgent(
  config: AgentConfig,
  log: Log,
  o: { readonly onOtherEpoch: () => void; readonly runtimeDir?: string },
): Promise<RunningAgent> {
  const { runtimeDir = '/run/flotilla' } = o;
  const { stateDir, ports, name: node } = config;
  const found = await readClusterCache(stateDir);
  if (found === null) throw new Error('this node has neither founded a cluster nor joined one');
  let cluster: ClusterCache = found;
  let tls = await readTls(stateDir);
  let own = certificateInfo(tls.cert);
  const boot = random.uuid();
  const timing = timingProfiles[config.timing];

  const ledger = new EtcdLedger({
    endpoints: cluster.ledgerEndpoints,
    tls,
    deadlineMs: timing.ledgerCallMs,
  });
  await ledger.gateway.prefer();
  const members = new LedgerMembers(ledger.gateway);
  const radio = new MqttRadio({
    cluster: cluster.clusterId,
    node,
    boot,
    mode: 'agent',
    port: ports.radio,
    brokerLog: brokerLogFile,
    tls: () => tls,
    clock,
    random,
    log,
  });
  const { witness } = found;
  const portFault = witness ? null : await openMigrationPort(log);
  const libvirt = witness ? null : new LibvirtHypervisor({ socketPath: '/run/libvirt/libvirt-sock' });
  const machine = new NodeMachine({
    runtimeDir,
    qemu: ['/usr/bin/qemu-system-x86_64'],
    factsCommand,
    clock,
    log,
  });
  const sockets = new ConsoleSockets({ runtimeDir, stateDir });
  const pairs =
    witness || !existsSync(lockstepQemu)
      ? null
      : new LockstepMachines({
          runtimeDir,
          stateDir,
          qemu: [lockstepQemu],
          qemuImg: 'qemu-img',
          firmware: path.join(path.dirname(lockstepQemu), 'share'),
          tlsDir: '/etc/pki/qemu',
          sockets,
          accel: () => machine.accel(),
          scopes: new SystemdScopes({ run: runTool, wallMs: () => clock.wallMs() }),
          clock,
          log,
          run: runTool,
        });
  await pairs?.open();
  const hypervisor =
    libvirt === null
      ? noHypervisor()
      : pairs === null
        ? libvirt
        : eitherHypervisor(libvirt, new LockstepHypervisor(pairs));
  const volumes = new Volumes({
    node,
    boot,
    stateDir,
    intakeProgram: path.join(import.meta.dirname, 'flotilla-intake.mjs'),
    fetchImage: peerImages({
      addressOf: (id) => cluster.peers.find((p) => p.node === id)?.address ?? null,
      port: ports.agent,
      tls: () => tls,
    }),
  });
  const exports = volumes.exports();

  const ownership = new FileJournal(journalFile(stateDir));
  await ownership
    .start()
    .catch((e: unknown) => log.error(`the ownership journal: ${errorRecord(e).message}`));

  const keeper = new KeeperLink({ path: keeperSocket(runtimeDir), node, timing, clock, log });

  // Filled when the ledger answers for the first time.
  let store: RecordStore | null = null;
  let meta: Snapshot['meta'] = null;
  let voters: VoterLoop | null = null;
  let addresses: readonly string[] = [];

  const lockstepPeers = new LockstepPeers({ port: ports.agent, tls: () => tls });
  const holds = new HoldFile(holdsFile(stateDir));
  const env: AgentEnv = {
    node,
    witness,
    boot,
    version,
    clock,
    random,
    log,
    ledger,
    live: keeper,
    keeper,
    journal: ownership,
    timing,
    radio,
    peers: {
      libvirt: (address) => tlsPeer(address, tls),
      lockstep: lockstepPeers.ask,
      knock: lockstepPeers.knock,
    },
    hypervisor,
    volumes,
    exports,
    ...(witness ? {} : { drives: new DriveList(new Lvm(), clock), replication: new Drbd({ node, clock }) }),
    ...(pairs === null ? {} : { lockstep: new QemuLockstep(pairs) }),
    slots: new BootSlots(),
    voters: members,
    seeds: new Seeds({ stateDir }),
    bridges: new Bridges({ node, peers: () => overlayPeers(loop.view().snapshot, node) }),
    machine: witness ? noGuests(machine) : machine,
    sockets,
    holds,
    fencer: new FencePrograms(),
  };

  const tokens = new TokenCache(path.join(stateDir, 'tokens.json'));
  await tokens.load();
  const breakGlass = new BreakGlass({
    file: path.join(stateDir, 'break-glass.json'),
    clusterId: cluster.clusterId,
    ca: () => tls.ca,
    caKeyFile: (ca) => caKeyFile(stateDir, ca),
    store: () => store,
    leads: () => voters?.state.leads === true,
    clock,
    log,
  });
  await breakGlass.load();

  const failovers = new FailoverCount(node);
  const onSnapshot = async (s: Snapshot): Promise<void> => {
    meta = s.meta;
    failovers.look([...s.ops.values()].map((k) => k.value));
    await tokens.update([...s.tokens.values()].map((k) => k.value));
    if (s.meta === null) return;
    if (store !== null && store.epoch !== null && s.meta.value.epoch !== store.epoch) o.onOtherEpoch();
    void revocation.look(s);
    rotation.look(s);
    http.cutStrangers();
    const nodes = [...s.nodes.values()].map((k) => k.value);
    const now = s.nodes.get(node)?.value.addresses ?? [];
    if (now.join() !== addresses.join()) {
      addresses = now;
      upkeep.soon();
    }
    const next = refreshedCache(cluster, s.meta.value, nodes, ports);
    if (next === cluster) return;
    cluster = next;
    await writeClusterCache(stateDir, next);
    ledger.setEndpoints(next.ledgerEndpoints);
    listen(nodes.filter((n) => n.voter).map((n) => n.id));
  };
  const listen = (voterIds: readonly string[]): void => {
    const ids = watchSet(
      node,
      cluster.peers.map((p) => p.node),
      { voters: voterIds, partners: [] },
    );
    radio.setPeers(cluster.peers.filter((p) => ids.includes(p.node)));
  };

  const membership = (): Health[] => {
    const s = loop.view().snapshot;
    const gone = s !== null && s.meta !== null && !s.nodes.has(node);
    const text = gone ? removedText(null) : others.text;
    return text === null ? [] : [{ part: 'membership', ok: false, text }];
  };
  /** An address that the ledger names and no card has: copies of disks would wait for it. */
  const addressless = (): Health[] => {
    if (addresses.length < 2) return [];
    const have = new Set(Object.values(networkInterfaces()).flatMap((l) => (l ?? []).map((a) => a.address)));
    return addresses
      .slice(1)
      .filter((a) => !have.has(a))
      .map((a) => ({
        part: 'storage network',
        ok: false,
        text: `no card of this node has its storage address ${a}`,
      }));
  };
  const alsoHealth = (): Health[] => {
    const fault = upkeep.fault() ?? revocation.fault();
    others.look(loop.view().ageMs);
    const seat = voters?.state;
    return [
      machine.health(),
      keeper.health(),
      { part: 'certificate', ok: fault === null, text: fault ?? '' },
      ...journalHealth(ownership.state()),
      ...ledgerSnapshots.health(),
      ...(portFault === null ? [] : [{ part: 'migration', ok: false, text: portFault.slice(0, 500) }]),
      ...membership(),
      ...addressless(),
      ...(seat === undefined || seat.ok ? [] : [{ part: 'voters', ok: false, text: seat.text }]),
    ];
  };
  const ledgerSnapshots = new SnapshotKeeper({ dir: snapshotsDir(stateDir), ledger, members, clock, log });
  const screen = new Screen(runtimeDir);
  const showScreen = (): void => {
    // That it was removed goes before all that follows from it.
    const bad = [...membership(), ...loop.health()].filter((h) => !h.ok);
    const [first] = bad;
    screen.show({
      state: 'member',
      config,
      fingerprint: own.fingerprint,
      cluster: cluster.name,
      ok: first === undefined,
      sentence: first === undefined ? 'all is well' : `${first.part}: ${first.text}`,
    });
  };
  const loop = new AgentLoop(env, onSnapshot, alsoHealth, () => keeper.beat());
  const { replication } = env;
  // The kernel asks here before it lets a lonely copy be written to, so it opens before any pair does.
  const door =
    replication === undefined
      ? null
      : new FenceDoor({
          path: path.join(runtimeDir, 'fence.sock'),
          judge: new FenceJudge({ ...env, replication }),
          onSplit: (minor) => loop.splitSeen(minor),
        });
  const join = joinApp({
    config,
    cluster: () => (store === null || meta === null ? null : { store, meta: meta.value }),
    members,
    clock,
    log,
  });
  const images = imagesApp({
    volumes,
    image: async (id) => {
      const s = loop.view().snapshot;
      const image = await keptOrNow(s?.images, ledger, kinds.image, id);
      const pool = image && (await keptOrNow(s?.pools, ledger, kinds.pool, image.value.pool));
      return image === null || pool === null ? null : { image: image.value, pool: pool.value };
    },
  });
  const exported = exportsApp(async (op) =>
    exports.open(
      op,
      [...(loop.view().snapshot?.pools.values() ?? [])]
        .map((k) => k.value)
        .filter((p) => poolHasNode(p, node)),
    ),
  );
  const meter = new AgentMeter();
  const notify = new NotifyDesk({
    node,
    leads: () => voters?.state.leads === true,
    view: () => {
      const { snapshot: s, error } = loop.view();
      if (s === null || s.meta === null || error !== null || s.recovering !== null) return null;
      const values = <T>(m: ReadonlyMap<string, { readonly value: T }>): T[] =>
        [...m.values()].map((k) => k.value);
      return {
        cluster: s.meta.value.name,
        epoch: s.meta.value.epoch,
        view: {
          nodes: values(s.nodes),
          live: new Set(s.lives.keys()),
          ops: values(s.ops),
          pools: new Map([...s.pools].map(([id, k]) => [id, k.value])),
          heard: radio.heard(),
        },
      };
    },
    ledger,
    clock,
    log,
  });
  const history = new HistoryKeeper({
    dir: historyDir(stateDir),
    own: () => radio.heard().find((h) => h.node === node),
    isVm: (id) => {
      const { snapshot, error } = loop.view();
      return snapshot === null || error !== null ? null : snapshot.specs.has(id);
    },
    clock,
    log,
  });
  const view = (): StatusView => {
    const { ageMs, error, snapshot } = loop.view();
    const seat = voters?.state;
    return {
      node,
      clusterName: cluster.name,
      version,
      wallMs: clock.wallMs(),
      nowMs: clock.nowMs(),
      health: loop.health(),
      ledger: {
        reachable: ageMs === Infinity ? (error === null ? null : false) : error === null,
        text: error ?? seat?.text ?? '',
      },
      heard: radio.heard(),
      facts: machine.facts(),
      refused: refused(),
      certificate: { fingerprint: own.fingerprint, expiresMs: own.notAfterMs },
      agent: meter.use(),
      keeper: keeper.state(),
      policy: snapshot?.policy ?? null,
      asleep: [...(snapshot?.nodes.values() ?? [])].flatMap((n) =>
        n.value.asleep === undefined || snapshot?.lives.has(n.value.id) === true ? [] : n.value.id,
      ),
      failovers: failovers.total,
      lockstep: pairs?.seen() ?? [],
    };
  };
  const refused = (): Record<string, number> => ({
    ...radio.refused(),
    ...prefixed('join', join.refused()),
    ...prefixed('http', http.refused()),
    ...(consolesRefused === 0 ? {} : { 'console certificate': consolesRefused }),
  });
  const isMember = (peer: PeerNode): boolean => {
    const s = loop.view().snapshot;
    // Before the ledger was ever read nobody can be told from a removed node; the certificate has to do.
    if (s === null) return true;
    const revoked = s.certs.get(peer.serial)?.value.revoked ?? null;
    return revoked === null && s.nodes.get(peer.node)?.value.fingerprint === peer.fingerprint;
  };
  let consolesRefused = 0;
  const consoles = new ConsoleDoor({
    paths: (vm) => env.sockets.paths(vm),
    isMember,
    onRefused: () => (consolesRefused += 1),
  });
  const cached = tokens.verifier(() => clock.wallMs());
  const http = createAgentHttp({
    host: '0.0.0.0',
    port: ports.agent,
    node,
    tls: () => tls,
    verifyToken: (token) => breakGlass.verify(token) ?? cached(token),
    users: {
      login: (ask) => breakGlass.login(ask),
      logout: async (id) => breakGlass.logout(id),
    },
    isMember,
    upgrade: (req, socket, head) => consoles.upgrade(req, socket, head),
    health: () => ({
      ok: loop.health().every((h) => h.ok),
      node,
      version,
      fingerprint: own.fingerprint,
    }),
    page: ({ still, who }) =>
      statusPage(view(), {
        still,
        ...(actsHere(who) && !witness
          ? { local: { holds: holds.all(), accountsUntilMs: breakGlass.list?.untilMs ?? null } }
          : {}),
      }),
    metrics: () => metricsText(view()),
    mounts: [
      {
        path: '/local',
        app: localApp({
          node,
          holds,
          isHere: (vm) => loop.has(vm),
          wake: () => loop.wake(),
          clock,
          log,
        }),
        allow: 'token',
        bodyBytesMax: 4_096,
      },
      { path: '/v1/journal', app: journalApp(node, ownership), allow: 'node', bodyBytesMax: 0 },
      { path: '/v1/history', app: historyApp(history), allow: 'node', bodyBytesMax: 0 },
      { path: '/v1/audit', app: auditApp(log), allow: 'node', bodyBytesMax: auditLetterBytesMax },
      { path: '/v1/images', app: images, allow: 'node', bodyBytesMax: null },
      {
        path: '/v1/lockstep',
        app: lockstepApp((from, ask) => loop.lockstepAsked(from, ask)),
        allow: 'node',
        bodyBytesMax: lockstepBodyMax,
      },
      { path: '/v1/exports', app: exported, allow: 'node', bodyBytesMax: 0 },
      { path: '/', app: join.app, allow: 'anyone', bodyBytesMax: null },
    ],
    clock,
    log,
  });

  const services = new SystemdServices();
  const connections = new SystemConnections(config.address);
  const useTls = (now: TlsMaterial): void => {
    tls = now;
    own = certificateInfo(tls.cert);
    ledger.setTls(tls);
    http.reloadTls();
  };
  const revocation = new Revocation({
    witness,
    config,
    services,
    connections,
    store: () => store,
    live: keeper,
    leads: () => voters?.state.leads === true,
    votersFault: async () => {
      const [fault] = await members.faults();
      return fault === undefined ? null : `${fault.node} ${fault.text}`;
    },
    keeperTrusts: () => keeper.state()?.trusts ?? null,
    renew: () => upkeep.soon(),
    onTls: useTls,
    clock,
    log,
  });
  const rotation = new CaRotation(env, stateDir, () => loop.wake());
  const others = new Membership({
    peers: () => cluster.peers.filter((p) => p.node !== node).map((p) => p.address),
    port: ports.agent,
    tls: () => tls,
    catchUp: async () => {
      const addresses = cluster.peers.filter((p) => p.node !== node).map((p) => p.address);
      if (!(await catchUp(config, addresses))) return;
      useTls(await readTls(stateDir));
      upkeep.soon();
      log.info('the CA of the cluster was replaced while this node was off: it has a new certificate');
    },
    clock,
    log,
  });
  const upkeep = new Upkeep({
    config,
    services,
    clock,
    log,
    voters: () => cluster.ledgerEndpoints.map((e) => new URL(e).hostname),
    addresses: () => addresses,
    onTls: (renewed) => {
      useTls(renewed);
      if (witness) return;
      connections
        .reloadMigrationPort()
        .catch((e: unknown) => log.warn(`the renewed certificate: ${errorRecord(e).message}`));
    },
  });

  meter.start();
  await http.start();
  await door?.start();
  if (libvirt !== null) hypervisor.open();
  machine.start();
  // The boot probe takes seconds where KVM only seems to be there: begun now, so that the first pass finds it done.
  if (!witness) void machine.accel();
  radio.start();
  listen([]);
  keeper.onChange(() => loop.wake());
  keeper.start();
  loop.start();
  upkeep.start();
  ledgerSnapshots.start();
  history.start();
  breakGlass.start();
  notify.start();
  const screenTimer = setInterval(showScreen, screenMs);
  log.info(`agent ${version} of node ${node} in cluster "${cluster.name}"`, { boot });

  const stopping = new AbortController();
  const opened = (async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      try {
        const o = await RecordStore.open(ledger);
        store = o.store;
        const seat = new VoterSeat({
          config,
          clusterId: cluster.clusterId,
          services,
          log,
          fetchCaKeys: (addresses) => fetchCaKeysFromAll(config, addresses),
        });
        const pairs = (): { owner: string; twin: string | null }[] =>
          [...(loop.view().snapshot?.owns.values() ?? [])].flatMap(({ value: { owner, lockstep } }) =>
            lockstep === undefined || lockstep === null ? [] : { owner, twin: lockstep.twin },
          );
        voters = new VoterLoop({ config, store, members, live: keeper, seat, pairs, clock, log });
        voters.start();
        return;
      } catch (e) {
        log.warn(`the ledger does not answer yet: ${errorRecord(e).message}`);
        await clock.sleep(openAgainMs, stopping.signal).catch(() => undefined);
      }
    }
  })();

  return {
    async stop() {
      stopping.abort();
      clearInterval(screenTimer);
      await opened;
      await upkeep.stop();
      breakGlass.stop();
      await revocation.stop();
      await ledgerSnapshots.stop();
      await history.stop();
      await notify.stop();
      await voters?.stop();
      await loop.stop();
      lockstepPeers.stop();
      await keeper.stop();
      await radio.stop();
      consoles.stop();
      await http.stop();
      door?.stop();
      machine.stop();
      if (libvirt !== null) await hypervisor.close();
      pairs?.close();
      await ledger.close();
    },
  };
}

const prefixed = (prefix: string, counts: Readonly<Record<string, number>>): Record<string, number> =>
  Object.fromEntries(Object.entries(counts).map(([k, v]) => [`${prefix} ${k}`, v]));
