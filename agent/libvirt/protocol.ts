import {
  array,
  chars,
  f64,
  fixed,
  i32,
  i64,
  map,
  nothing,
  opaque,
  optional,
  string,
  struct,
  u32,
  u64,
  XdrError,
  type Codec,
  type Of,
} from './xdr.js';

/**
 * The part of libvirt's wire protocol that a VM manager needs: one row per procedure with its number, what goes
 * in, what comes back. Numbers and field orders are facts of the protocol and never change once released; they
 * are checked one by one against the real daemon by test/lab/libvirt/contract.test.ts.
 */
export const PROGRAM = { remote: 0x20008086, qemu: 0x20008087, keepalive: 0x6b656570 } as const;
export type ProgramName = 'remote' | 'qemu';

/** All three programs are at version 1 since they exist. */
export const PROGRAM_VERSION = 1;

/** What a message is. @see https://libvirt.org/kbase/internals/rpc.html */
export const MESSAGE = { call: 0, reply: 1, event: 2, stream: 3, streamHole: 6 } as const;
export const STATUS = { ok: 0, error: 1, continue: 2 } as const;
export const KEEPALIVE = { ping: 1, pong: 2 } as const;

/** Nothing but the length word and the header is shorter than this. */
export const FRAME_BYTES_MIN = 28;

/** Largest frame of a libvirt daemon: 32 MiB and the length word. */
export const FRAME_BYTES_MAX = 32 * 1024 * 1024 + 4;

const text = optional(string);

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** Sixteen bytes, seen as the usual text in lower case. */
export const uuid: Codec<string> = map(
  fixed(16),
  (bytes) => {
    const hex = Buffer.from(bytes).toString('hex');
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  },
  (value) => {
    if (!UUID.test(value)) throw new XdrError(`"${value.slice(0, 80)}" is no uuid`);
    return Buffer.from(value.replaceAll('-', ''), 'hex');
  },
);

/** How the wire names a domain. The daemon looks at the uuid only; the name is for its messages. */
export const domain = struct({ name: string, uuid, id: i32 });
export type WireDomain = Of<typeof domain>;

const network = struct({ name: string, uuid });

/** How the wire names a snapshot. */
export const snapshot = struct({ name: string, domain });

/** The error body. */
export const wireError = struct({
  code: i32,
  domain: i32,
  message: text,
  level: i32,
  dom: optional(domain),
  str1: text,
  str2: text,
  str3: text,
  int1: i32,
  int2: i32,
  net: optional(network),
});
export type WireError = Of<typeof wireError>;

/** A value of libvirt's typed parameters, tagged because a reader cannot tell an int from a hyper. */
export type TypedValue =
  | { readonly type: 'int' | 'uint' | 'double'; readonly value: number }
  | { readonly type: 'llong' | 'ullong'; readonly value: bigint }
  | { readonly type: 'boolean'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string };

export type TypedParam = TypedValue & { readonly field: string };

/** Name and tagged value; the union's discriminant is an int between the two. */
export const typedParam: Codec<TypedParam> = {
  read: (r) => {
    const field = string.read(r);
    const type = r.i32();
    switch (type) {
      case 1:
        return { field, type: 'int', value: r.i32() };
      case 2:
        return { field, type: 'uint', value: r.u32() };
      case 3:
        return { field, type: 'llong', value: r.i64() };
      case 4:
        return { field, type: 'ullong', value: r.u64() };
      case 5:
        return { field, type: 'double', value: r.f64() };
      case 6:
        return { field, type: 'boolean', value: r.i32() !== 0 };
      case 7:
        return { field, type: 'string', value: string.read(r) };
      default:
        throw new XdrError(`typed parameter "${field.slice(0, 80)}" has the unknown type ${type}`);
    }
  },
  write: (w, v) => {
    string.write(w, v.field);
    switch (v.type) {
      case 'int':
        i32.write(w, 1);
        return i32.write(w, v.value);
      case 'uint':
        i32.write(w, 2);
        return u32.write(w, v.value);
      case 'llong':
        i32.write(w, 3);
        return i64.write(w, v.value);
      case 'ullong':
        i32.write(w, 4);
        return u64.write(w, v.value);
      case 'double':
        i32.write(w, 5);
        return f64.write(w, v.value);
      case 'boolean':
        i32.write(w, 6);
        return i32.write(w, v.value ? 1 : 0);
      case 'string':
        i32.write(w, 7);
        return string.write(w, v.value);
    }
  },
};

/** One row: what to send and what comes back. */
export interface Procedure<A, R> {
  readonly program: ProgramName;
  readonly number: number;
  readonly args: Codec<A>;
  readonly reply: Codec<R>;
  /** the reply is followed by stream packets with the same serial */
  readonly stream: boolean;
}

function row<A, R>(number: number, args: Codec<A>, reply: Codec<R>): Procedure<A, R> {
  return { program: 'remote', number, args, reply, stream: false };
}
function streamRow<A, R>(number: number, args: Codec<A>, reply: Codec<R>): Procedure<A, R> {
  return { program: 'remote', number, args, reply, stream: true };
}
function qemuRow<A, R>(number: number, args: Codec<A>, reply: Codec<R>): Procedure<A, R> {
  return { program: 'qemu', number, args, reply, stream: false };
}

const xml = struct({ xml: string });
const onDomain = struct({ domain });
const onDomainFlags = struct({ domain, flags: u32 });
const onDisk = struct({ domain, disk: string, flags: u32 });
const device = struct({ domain, xml: string, flags: u32 });
const givesDomain = struct({ domain });
const listOptions = { needResults: i32, flags: u32 };
const xmlFlags = struct({ xml: string, flags: u32 });
const mountpoints = struct({ domain, mountpoints: array(string, 256), flags: u32 });
const frozen = struct({ filesystems: i32 });

/** Every procedure of this client. */
export const PROCEDURES = {
  authList: row(66, nothing, struct({ types: array(i32, 20) })),
  connectOpen: row(1, struct({ name: text, flags: u32 }), nothing),
  connectClose: row(2, nothing, nothing),
  connectSupportsFeature: row(60, struct({ feature: i32 }), struct({ supported: i32 })),
  connectGetVersion: row(4, nothing, struct({ version: u64 })),
  connectGetLibVersion: row(157, nothing, struct({ version: u64 })),
  connectGetHostname: row(59, nothing, struct({ hostname: string })),
  connectGetCapabilities: row(7, nothing, xml),
  connectGetDomainCapabilities: row(
    342,
    struct({ emulator: text, arch: text, machine: text, virtType: text, flags: u32 }),
    xml,
  ),
  connectBaselineHypervisorCpu: row(
    394,
    struct({
      emulator: text,
      arch: text,
      machine: text,
      virtType: text,
      cpus: array(string, 256),
      flags: u32,
    }),
    struct({ cpu: string }),
  ),
  nodeGetInfo: row(
    6,
    nothing,
    struct({
      model: chars(32),
      memoryKiB: u64,
      cpus: i32,
      mhz: i32,
      nodes: i32,
      sockets: i32,
      cores: i32,
      threads: i32,
    }),
  ),

  connectListAllDomains: row(273, struct(listOptions), struct({ domains: array(domain, 16384), count: u32 })),
  connectGetAllDomainStats: row(
    344,
    struct({ domains: array(domain, 16384), stats: u32, flags: u32 }),
    struct({ records: array(struct({ domain, params: array(typedParam, 262144) }), 16384) }),
  ),
  connectDomainEventCallbackRegisterAny: row(
    316,
    struct({ eventId: i32, domain: optional(domain) }),
    struct({ callbackId: i32 }),
  ),
  connectDomainEventCallbackDeregisterAny: row(317, struct({ callbackId: i32 }), nothing),

  domainLookupByName: row(23, struct({ name: string }), givesDomain),
  domainLookupByUuid: row(24, struct({ uuid }), givesDomain),
  domainGetXmlDesc: row(14, onDomainFlags, xml),
  domainGetState: row(212, onDomainFlags, struct({ state: i32, reason: i32 })),
  domainMemoryStats: row(
    159,
    struct({ domain, max: u32, flags: u32 }),
    struct({ stats: array(struct({ tag: i32, value: u64 }), 1024) }),
  ),
  domainSetMemoryStatsPeriod: row(308, struct({ domain, seconds: i32, flags: u32 }), nothing),

  domainDefineXmlFlags: row(350, xmlFlags, givesDomain),
  domainUndefineFlags: row(231, onDomainFlags, nothing),
  domainRename: row(358, struct({ domain, name: text, flags: u32 }), struct({ result: i32 })),
  domainCreateWithFlags: row(196, onDomainFlags, givesDomain),
  domainCreateXml: row(10, xmlFlags, givesDomain),
  domainDestroyFlags: row(234, onDomainFlags, nothing),
  domainShutdownFlags: row(258, onDomainFlags, nothing),
  domainReboot: row(27, onDomainFlags, nothing),
  domainReset: row(245, onDomainFlags, nothing),
  domainSuspend: row(34, onDomain, nothing),
  domainResume: row(28, onDomain, nothing),

  domainAttachDeviceFlags: row(160, device, nothing),
  domainDetachDeviceFlags: row(161, device, nothing),
  domainUpdateDeviceFlags: row(174, device, nothing),
  domainSetVcpusFlags: row(199, struct({ domain, count: u32, flags: u32 }), nothing),
  domainSetSchedulerParametersFlags: row(
    219,
    struct({ domain, params: array(typedParam, 16), flags: u32 }),
    nothing,
  ),
  domainSetMemoryFlags: row(204, struct({ domain, kib: u64, flags: u32 }), nothing),
  domainBlockResize: row(251, struct({ domain, disk: string, size: u64, flags: u32 }), nothing),
  domainGetBlockInfo: row(194, onDisk, struct({ allocation: u64, capacity: u64, physical: u64 })),
  domainSetMetadata: row(
    264,
    struct({ domain, type: i32, metadata: text, key: text, uri: text, flags: u32 }),
    nothing,
  ),
  domainGetMetadata: row(
    265,
    struct({ domain, type: i32, uri: text, flags: u32 }),
    struct({ metadata: string }),
  ),

  domainInterfaceAddresses: row(
    353,
    struct({ domain, source: u32, flags: u32 }),
    struct({
      interfaces: array(
        struct({
          name: string,
          mac: text,
          addresses: array(struct({ type: i32, address: string, prefix: u32 }), 2048),
        }),
        2048,
      ),
    }),
  ),
  domainGetFsInfo: row(
    349,
    onDomainFlags,
    struct({
      filesystems: array(
        struct({ mountpoint: string, name: string, type: string, devices: array(string, 256) }),
        256,
      ),
      count: u32,
    }),
  ),
  domainFsFreeze: row(335, mountpoints, frozen),
  domainFsThaw: row(336, mountpoints, frozen),
  domainOpenConsole: streamRow(201, struct({ domain, device: text, flags: u32 }), nothing),
  domainScreenshot: streamRow(211, struct({ domain, screen: u32, flags: u32 }), struct({ mime: text })),

  domainMigrateBegin3Params: row(
    302,
    struct({ domain, params: array(typedParam, 64), flags: u32 }),
    struct({ cookie: opaque, xml: string }),
  ),
  domainMigratePrepare3Params: row(
    303,
    struct({ params: array(typedParam, 64), cookie: opaque, flags: u32 }),
    struct({ cookie: opaque, uri: text }),
  ),
  domainMigrateFinish3Params: row(
    306,
    struct({ params: array(typedParam, 64), cookie: opaque, flags: u32, cancelled: i32 }),
    struct({ domain, cookie: opaque }),
  ),
  domainMigrateConfirm3Params: row(
    307,
    struct({ domain, params: array(typedParam, 64), cookie: opaque, flags: u32, cancelled: i32 }),
    nothing,
  ),
  domainMigratePerform3Params: row(
    305,
    struct({ domain, uri: text, params: array(typedParam, 64), cookie: opaque, flags: u32 }),
    struct({ cookie: opaque }),
  ),
  domainMigrateSetMaxDowntime: row(166, struct({ domain, ms: u64, flags: u32 }), nothing),
  domainMigrateStartPostCopy: row(364, onDomainFlags, nothing),
  domainGetJobStats: row(298, onDomainFlags, struct({ type: i32, params: array(typedParam, 64) })),
  domainAbortJob: row(164, onDomain, nothing),
  domainBlockCopy: row(
    345,
    struct({ domain, disk: string, xml: string, params: array(typedParam, 16), flags: u32 }),
    nothing,
  ),
  domainBlockCommit: row(
    290,
    struct({ domain, disk: string, base: text, top: text, bandwidth: u64, flags: u32 }),
    nothing,
  ),
  domainBlockJobAbort: row(237, onDisk, nothing),
  domainGetBlockJobInfo: row(
    238,
    onDisk,
    struct({ found: i32, type: i32, bandwidth: u64, current: u64, end: u64 }),
  ),
  domainBlockJobSetSpeed: row(239, struct({ domain, disk: string, bandwidth: u64, flags: u32 }), nothing),

  domainSnapshotCreateXml: row(185, device, struct({ snapshot })),
  domainSnapshotGetXmlDesc: row(186, struct({ snapshot, flags: u32 }), xml),
  domainListAllSnapshots: row(
    274,
    struct({ domain, ...listOptions }),
    struct({ snapshots: array(snapshot, 16384), count: i32 }),
  ),
  domainSnapshotDelete: row(193, struct({ snapshot, flags: u32 }), nothing),

  qemuMonitorCommand: qemuRow(1, struct({ domain, command: string, flags: u32 }), struct({ result: string })),
  qemuAgentCommand: qemuRow(
    3,
    struct({ domain, command: string, timeoutS: i32, flags: u32 }),
    struct({ result: text }),
  ),
} as const;

export type ProcedureName = keyof typeof PROCEDURES;
export type ArgsOf<P extends ProcedureName> = Of<(typeof PROCEDURES)[P]['args']>;
export type ReplyOf<P extends ProcedureName> = Of<(typeof PROCEDURES)[P]['reply']>;

/** One kind of event: what to register for, which message it comes as, and its body behind the callback number. */
export interface EventRow<B> {
  /** number to register with */
  readonly eventId: number;
  /** procedure number of the message */
  readonly number: number;
  readonly body: Codec<B>;
}

function event<B>(eventId: number, number: number, body: Codec<B>): EventRow<B> {
  return { eventId, number, body };
}

const ofDevice = struct({ callbackId: i32, domain, alias: string });

/** Every event of this client. */
export const EVENTS = {
  lifecycle: event(0, 318, struct({ callbackId: i32, domain, event: i32, detail: i32 })),
  reboot: event(1, 319, struct({ callbackId: i32, domain })),
  watchdog: event(3, 321, struct({ callbackId: i32, domain, action: i32 })),
  ioError: event(
    6,
    324,
    struct({ callbackId: i32, domain, path: string, alias: string, action: i32, reason: string }),
  ),
  trayChange: event(10, 328, struct({ callbackId: i32, domain, alias: string, reason: i32 })),
  balloonChange: event(13, 331, struct({ callbackId: i32, domain, actualKiB: u64 })),
  deviceRemoved: event(15, 333, ofDevice),
  blockJob: event(16, 339, struct({ callbackId: i32, domain, disk: string, type: i32, status: i32 })),
  agentLifecycle: event(18, 348, struct({ callbackId: i32, domain, state: i32, reason: i32 })),
  deviceAdded: event(19, 354, ofDevice),
  migrationIteration: event(20, 359, struct({ callbackId: i32, domain, iteration: i32 })),
  jobCompleted: event(21, 363, struct({ callbackId: i32, domain, params: array(typedParam, 64) })),
  deviceRemovalFailed: event(22, 367, ofDevice),
  metadataChange: event(23, 379, struct({ callbackId: i32, domain, type: i32, uri: text })),
} as const;

export type EventName = keyof typeof EVENTS;
export type EventBody<E extends EventName> = Of<(typeof EVENTS)[E]['body']>;

/** An event as it came, still in the wire's words. */
export type WireEvent = {
  readonly [E in EventName]: { readonly kind: E; readonly body: EventBody<E> };
}[EventName];
