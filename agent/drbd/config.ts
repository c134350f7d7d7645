import { FlotillaError } from '../../core/domain/error.js';
import { replicaSchema, volumesOf, type Replica } from '../../core/domain/replica.js';
import { idSchema, parse } from '../../core/domain/schema.js';

/** A VM's resource. One that does not begin so is somebody else's and is never touched. */
const mark = 'flotilla-';

export const resourceName = (vm: string): string => `${mark}${idSchema.parse(vm)}`;

/** @returns the VM of a resource; null: not of ours */
export function vmOfResource(name: string): string | null {
  const id = idSchema.safeParse(name.startsWith(mark) ? name.slice(mark.length) : '');
  return id.success ? id.data : null;
}

/**
 * How a pair behaves. Protocol C: a write is done when both have it. A lost peer freezes the writes until the ledger knows
 * (`resource-and-stonith`); a split brain waits for whoever can prove which side is right, never for DRBD's own policies. A
 * failed drive is let go and the other copy serves. Peers are missed within 5 s. The rates: unset, DRBD 8.4 copies 512 KB/s.
 *
 * `al-extents` bounds what is copied again after a crash to about 5 GB of touched places; smaller costs more writes of
 * metadata.
 *
 * @see drbd.conf(5), drbd-utils 9.22: section 8.4; safety 2, 8
 */
const net = [
  'protocol C',
  'cram-hmac-alg sha256',
  'ping-int 2',
  'ping-timeout 20',
  'timeout 30',
  'connect-int 3',
  'max-buffers 8000',
  'verify-alg crc32c',
  'after-sb-0pri disconnect',
  'after-sb-1pri disconnect',
  'after-sb-2pri disconnect',
];
const disk = [
  'fencing resource-and-stonith',
  'on-io-error detach',
  'al-extents 1237',
  'c-plan-ahead 20',
  'c-max-rate 200M',
  'c-min-rate 10M',
  'c-fill-target 1M',
  'rs-discard-granularity 65536',
];

/**
 * The configuration of one pair, for `drbdadm -c`. It holds the pair's secret: a file of root's alone.
 *
 * @throws FlotillaError `bad-input`: what would not be a configuration; `not-owner`: this node has none of the copies
 */
export function resourceConfig(replica: Replica, me: string): string {
  const r = parse(replicaSchema, replica, `the replica record of VM ${replica.vm}`);
  if (!r.nodes.some((n) => n.node === me)) {
    throw new FlotillaError('not-owner', `${me} has no copy of the disks of VM ${r.vm}`, {
      hint: 'Its copies are on the nodes its record names; nothing was changed.',
    });
  }
  const line = (word: string): string => `    ${word};`;
  const side = (n: Replica['nodes'][number]): string[] => [
    `  on ${n.node} {`,
    `    address ipv4 ${n.address}:${r.port};`,
    ...volumesOf(r).map(
      (v) => `    volume ${v.volume} { device minor ${v.minor}; disk ${v.below}; meta-disk internal; }`,
    ),
    '  }',
  ];
  return [
    'global { usage-count no; }',
    `resource ${resourceName(r.vm)} {`,
    '  net {',
    ...net.map(line),
    line(`shared-secret "${r.secret}"`),
    '  }',
    '  disk {',
    ...disk.map(line),
    '  }',
    ...r.nodes.flatMap(side),
    '}',
    '',
  ].join('\n');
}
