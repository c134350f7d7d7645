import type { FencingDevice, IpmiDevice } from '../../core/domain/fencing.js';

export type FenceAction = 'off' | 'on' | 'status';

/** fence_ipmilan runs this in place of ipmitool. @see images/rootfs/usr/lib/flotilla/ipmitool */
const ipmitoolPath = '/usr/lib/flotilla/ipmitool';

/**
 * Share of the deadline after which the program gives up by itself: its words are better than a kill's. It counts
 * looks, each a second and the time the BMC takes to answer, so there must be room.
 */
const patience = 0.6;
/** A login over IPMI takes slow BMCs this long, s. */
const patienceSMin = 2;

/**
 * What a fence agent reads from standard input. Only options that it knows: of others it logs the whole line.
 *
 * @param systemUri - for Redfish, the system to switch
 * @see fencing.py of fence-agents 4.16.0, `_parse_input_stdin`: a line is stripped, `#` starts a comment, one pair of
 *   quotes around a value is taken off, so within quotes every character stands for itself
 */
export function programInput(
  device: FencingDevice,
  action: FenceAction,
  o: { deadlineMs: number; systemUri: string | null },
): string {
  const common: [string, string | number][] = [
    ['action', action],
    ['ipaddr', device.address],
    ['ipport', device.port],
    ['login', device.user],
    ['power_timeout', Math.max(patienceSMin, Math.floor((o.deadlineMs / 1000) * patience))],
    // Else nothing says why it failed. At 2 ipmitool tells a wrong password from no answer; from 4 on it prints keys.
    ['verbose_level', 2],
  ];
  if (device.kind === 'ipmi') {
    return lines(`#${device.password}`, [
      ...common,
      ['lanplus', 1],
      ['cipher', device.cipher],
      ['privlvl', device.privilege],
      ['ipmitool_path', ipmitoolPath],
    ]);
  }
  return lines('# Redfish', [
    ...common,
    ['passwd', device.password],
    ['systems-uri', o.systemUri ?? ''],
    // Its presence decides, not its value.
    ...(device.verifyTls ? [] : [['ssl_insecure', 1] as [string, number]]),
  ]);
}

/** What asks an IPMI device for its system's GUID: no fence agent does. */
export const guidCommand = (d: IpmiDevice): readonly string[] => [
  ipmitoolPath,
  ...['-I', 'lanplus', '-H', d.address, '-p', String(d.port), '-U', d.user],
  ...['-C', String(d.cipher), '-L', d.privilege.toUpperCase(), '-v', '-v', 'mc', 'guid', 'rfc4122'],
];

/** Its standard input, with the password. */
export const guidInput = (d: IpmiDevice): string => lines(`#${d.password}`, []);

function lines(first: string, options: readonly [string, string | number][]): string {
  const all = [first, ...options.map(([name, value]) => `${name}="${value}"`)];
  // The schema has seen to it already. Should it ever fail to, an order must not be changed by a name or a password.
  if (all.some((line) => /[^\x20-\x7e]/.test(line)))
    throw new Error('a fencing device has a control character in it');
  return all.join('\n') + '\n';
}
