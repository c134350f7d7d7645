import { parse as parseYaml, stringify } from 'yaml';
import { FlotillaError } from '../../core/domain/error.js';
import { parseCidr } from '../../core/domain/ipv4.js';
import type { Network } from '../../core/domain/network.js';
import type { CloudInit, VmSpec } from '../../core/domain/vm.js';

/** The files of a NoCloud seed, and for guests that ask for it the OVF environment. @see cloud-init docs, datasource NoCloud; DSP0243 section 11 */
export interface SeedFiles {
  readonly 'meta-data': string;
  readonly 'user-data': string;
  readonly 'network-config': string;
  readonly 'ovf-env.xml'?: string;
}

/** Largest user-data, bytes: a seed is read at every boot and made again at every edit. */
const userDataBytesMax = 65_536;

type Wanted = Pick<VmSpec, 'id' | 'name' | 'nics' | 'cloudInit'>;

/**
 * What cloud-init in the guest is told. The instance id is the VM's: the guest sets itself up once, also when the VM
 * moves or its seed is written anew.
 *
 * @throws FlotillaError `bad-input`: the user's own text is no YAML mapping where it must be one, or an address has no
 *   subnet; `too-large`; `not-found`: a NIC's network is unknown
 */
export function seedFiles(spec: Wanted, networks: ReadonlyMap<string, Network>): SeedFiles {
  const what = `VM "${spec.name}"`;
  const ci = spec.cloudInit;
  const hostname = ci?.hostname ?? hostnameOf(spec);
  const userData = ci?.userData ?? generatedUserData(hostname, ci);
  if (ci?.userData !== null && ci?.userData !== undefined) checkUserData(ci.userData, what);
  if (Buffer.byteLength(userData) > userDataBytesMax) {
    throw new FlotillaError('too-large', `${what}: its user data has more than ${userDataBytesMax} bytes`, {
      hint: 'Let it fetch the rest with #include, or shorten it.',
    });
  }
  if (ci?.networkConfig !== null && ci?.networkConfig !== undefined)
    checkMapping(ci.networkConfig, `${what}: network-config`);
  return {
    'meta-data': yaml({ 'instance-id': spec.id, 'local-hostname': hostname }),
    'user-data': userData,
    'network-config': ci?.networkConfig ?? yaml(networkConfig(spec, networks)),
    ...(typeof ci?.ovfEnvironment === 'string' && { 'ovf-env.xml': ci.ovfEnvironment }),
  };
}

/** Every text in double quotes: a name like `no` or `1e3`, or one with a colon, stays the text it is. */
function yaml(value: unknown): string {
  return stringify(value, { defaultStringType: 'QUOTE_DOUBLE', defaultKeyType: 'PLAIN', lineWidth: 0 });
}

/** A host name out of a VM's name: what a name server can carry, else a piece of its id. */
export function hostnameOf(vm: Pick<VmSpec, 'id' | 'name'>): string {
  const plain = vm.name
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 63)
    .replace(/-+$/, '');
  return plain === '' ? `vm-${vm.id.slice(0, 8)}` : plain;
}

function generatedUserData(hostname: string, ci: CloudInit | null): string {
  const keys = ci?.sshKeys ?? [];
  const login =
    ci === null || ci.user === null
      ? { ...(keys.length > 0 && { ssh_authorized_keys: keys }) }
      : ci.user === 'root'
        ? { disable_root: false, users: [{ name: 'root', ssh_authorized_keys: keys }] }
        : {
            users: [
              {
                name: ci.user,
                sudo: 'ALL=(ALL) NOPASSWD:ALL',
                shell: '/bin/bash',
                lock_passwd: true,
                ssh_authorized_keys: keys,
              },
            ],
          };
  return `#cloud-config\n${yaml({ hostname, preserve_hostname: false, ...login })}`;
}

/** Starts that cloud-init knows. It drops anything else with a line in a log that nobody reads. */
const knownStarts = [
  '#cloud-config',
  '#!',
  '#include',
  '#cloud-boothook',
  '#part-handler',
  '#cloud-config-archive',
  '## template: jinja',
  'content-type: multipart',
  'mime-version:',
];

function checkUserData(text: string, what: string): void {
  const start = text.trimStart().slice(0, 40).toLowerCase();
  if (!knownStarts.some((known) => start.startsWith(known))) {
    throw new FlotillaError('bad-input', `${what}: cloud-init does not know this kind of user data`, {
      hint: 'Begin it with #cloud-config, or #! for a script.',
    });
  }
  if (/^#cloud-config\s*$/m.test(text.split('\n', 1)[0] ?? '')) checkMapping(text, `${what}: user data`);
}

function checkMapping(text: string, what: string): void {
  let value: unknown;
  try {
    value = parseYaml(text, { maxAliasCount: 100 });
  } catch (cause) {
    throw new FlotillaError('bad-input', `${what} is no YAML`, {
      hint: 'See the line in the cause; "cloud-init schema" checks it too.',
      cause,
    });
  }
  if (value === null || (typeof value === 'object' && !Array.isArray(value))) return;
  throw new FlotillaError('bad-input', `${what} is no YAML mapping`, {
    hint: 'It has lines like "key: value".',
  });
}

/**
 * Network configuration of version 2. NICs are known by their MAC and named `eth0`, `eth1`... in the spec's order,
 * whatever slots they are in. Only the first gateway becomes the default route: two would take turns.
 */
function networkConfig(spec: Wanted, networks: ReadonlyMap<string, Network>): object {
  let routed = false;
  const ethernets = spec.nics.map((nic, i): [string, object] => {
    const name = `eth${i}`;
    const network = networks.get(nic.network);
    if (!network) {
      throw new FlotillaError('not-found', `VM "${spec.name}": the network of NIC ${nic.mac} is unknown`, {
        hint: 'It was deleted meanwhile: put the NIC into another network.',
      });
    }
    const port = { match: { macaddress: nic.mac }, 'set-name': name };
    if (nic.address === null) return [name, { ...port, dhcp4: true, ...(i > 0 && { optional: true }) }];
    if (network.subnet === null) {
      throw new FlotillaError(
        'bad-input',
        `VM "${spec.name}": network "${network.name}" has no subnet for ${nic.address}`,
        {
          hint: 'Give the network a subnet, or the NIC no address.',
        },
      );
    }
    const gateway = routed ? null : network.gateway;
    routed ||= gateway !== null;
    return [
      name,
      {
        ...port,
        dhcp4: false,
        addresses: [`${nic.address}/${parseCidr(network.subnet).bits}`],
        ...(gateway !== null && { routes: [{ to: '0.0.0.0/0', via: gateway }] }),
        ...(network.dns.length > 0 && { nameservers: { addresses: network.dns } }),
      },
    ];
  });
  return { version: 2, ethernets: Object.fromEntries(ethernets) };
}
