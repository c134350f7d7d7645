import { z } from 'zod';
import { FlotillaError } from '../../core/domain/error.js';
import { parse } from '../../core/domain/schema.js';

/** A network link of the node, as the kernel has it. */
export interface Link {
  readonly name: string;
  /** `bridge`, `veth`, `vlan`... ; empty for hardware. */
  readonly kind: string;
  readonly alias: string;
  readonly up: boolean;
  readonly loopback: boolean;
  /** The bridge or bond it is in. */
  readonly master: string | null;
  /** The link it is made on, e.g. of a VLAN. */
  readonly parent: string | null;
  readonly addrGen: string;
  readonly stp: number | null;
  readonly forwardDelay: number | null;
  /** Its own addresses, without link-local IPv6: that one comes by itself and carries nobody. */
  readonly addresses: readonly string[];
}

/** `ip -j -d link show` and `ip -j address show`. @see ip-link(8), iproute2 6.1 to 6.15 */
const linkSchema = z.array(
  z.object({
    ifname: z.string(),
    ifalias: z.string().default(''),
    flags: z.array(z.string()),
    master: z.string().optional(),
    link: z.string().nullish(),
    inet6_addr_gen_mode: z.string().default(''),
    linkinfo: z
      .object({
        info_kind: z.string().optional(),
        info_data: z
          .object({ stp_state: z.number().optional(), forward_delay: z.number().optional() })
          .optional(),
      })
      .optional(),
  }),
);

const addressSchema = z.array(
  z.object({
    ifname: z.string(),
    addr_info: z.array(
      z.object({ family: z.string(), local: z.string().optional(), scope: z.string().optional() }),
    ),
  }),
);

/** @throws FlotillaError `tool-failed`: `ip` said what we cannot read */
export function parseLinks(linkJson: string, addressJson: string): ReadonlyMap<string, Link> {
  const links = parse(linkSchema, json(linkJson), 'the links that "ip" tells');
  const addresses = new Map(
    parse(addressSchema, json(addressJson), 'the addresses that "ip" tells').map((a) => [
      a.ifname,
      a.addr_info,
    ]),
  );
  return new Map(
    links.map((l) => {
      const own = (addresses.get(l.ifname) ?? []).filter(
        (a) => !(a.family === 'inet6' && a.scope === 'link'),
      );
      return [
        l.ifname,
        {
          name: l.ifname,
          kind: l.linkinfo?.info_kind ?? '',
          alias: l.ifalias,
          up: l.flags.includes('UP'),
          loopback: l.flags.includes('LOOPBACK'),
          master: l.master ?? null,
          // Of a veth it is the other end, not what it stands on.
          parent: l.linkinfo?.info_kind === 'veth' ? null : (l.link ?? null),
          addrGen: l.inet6_addr_gen_mode,
          stp: l.linkinfo?.info_data?.stp_state ?? null,
          forwardDelay: l.linkinfo?.info_data?.forward_delay ?? null,
          addresses: own.flatMap((a) => a.local ?? []),
        },
      ];
    }),
  );
}

function json(text: string): unknown {
  try {
    // Of no links at all ip says nothing.
    return text.trim() === '' ? [] : JSON.parse(text);
  } catch (cause) {
    throw new FlotillaError('tool-failed', '"ip" said what cannot be read', {
      hint: 'See the version of iproute2 on the node.',
      cause,
    });
  }
}
