import { radioPayloadBytesMax } from '../../core/wire/radio.js';

/** Retained lines of one node that wait for one listener: a node's VMs, and room. They share one copy in memory. */
const queuedMax = 5_000;
/** Topic and header beside the payload. */
const packetOverheadBytes = 1_024;

/**
 * `mosquitto.conf` of a node's own broker. Mutual TLS is the only way in, the certificate's CN is the user, and
 * nothing is kept over a restart: whoever said it says it again.
 *
 * @param o.dir - directory with `ca.crt`, `node.crt`, `node.key` and `acl`
 * @param o.address - where to listen; null: everywhere
 * @param o.logFile - where the broker writes its errors for {@link BrokerLog}, besides the journal; the broker's user
 *   must be able to write there
 * @see mosquitto.conf(5), mosquitto 2.0
 */
export function brokerConfig(o: {
  dir: string;
  port: number;
  address: string | null;
  logFile: string | null;
  /** Whether `ca.crl` is there too: without the file the broker does not start. */
  crl: boolean;
}): string {
  return `# Written by flotilla-agent at each start; changes are lost.
per_listener_settings false
listener ${o.port}${o.address === null ? '' : ` ${o.address}`}
cafile ${o.dir}/ca.crt
certfile ${o.dir}/node.crt
keyfile ${o.dir}/node.key
${o.crl ? `crlfile ${o.dir}/ca.crl\n` : ''}tls_version tlsv1.3
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file ${o.dir}/acl
persistence false
max_queued_messages ${queuedMax}
max_packet_size ${radioPayloadBytesMax + packetOverheadBytes}
set_tcp_nodelay true
sys_interval 0
log_type error
log_type warning
log_dest stderr
${o.logFile === null ? '' : `log_dest file ${o.logFile}\n`}`;
}

/** Who may say what: every node below its own id only.  */
export const brokerAcl = `pattern write v1/+/n/%u/#
pattern read v1/#
`;
