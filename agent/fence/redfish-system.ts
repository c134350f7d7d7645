import { request } from 'node:https';
import { z } from 'zod';
import type { RedfishDevice } from '../../core/domain/fencing.js';

/** An answer longer than this is not that of a BMC, bytes. */
const answerBytesMax = 1024 * 1024;

const rootSchema = z.object({ Systems: z.object({ '@odata.id': z.string().regex(/^\/[\x21-\x7e]*$/) }) });
const systemsSchema = z.object({
  Members: z.array(z.object({ '@odata.id': z.string().regex(/^\/[A-Za-z0-9._~:/-]+$/) })),
});

const systemSchema = z.object({ UUID: z.string().max(64).nullish() });

/** Why the system is not known, in words for a hint. */
export class NoSystem extends Error {
  readonly hint: string;

  constructor(message: string, hint: string) {
    super(message);
    this.hint = hint;
  }
}

/**
 * The system behind a BMC where there is exactly one. fence_redfish (4.16.0) takes the last of a list, so for an
 * enclosure it could power off somebody else and then truly say that it is off.
 *
 * @throws NoSystem, or what the network said
 */
export async function theOnlySystem(device: RedfishDevice, signal: AbortSignal): Promise<string> {
  const root = rootSchema.safeParse(await get(device, '/redfish/v1/', signal));
  if (!root.success) throw notRedfish();
  const list = systemsSchema.safeParse(await get(device, root.data.Systems['@odata.id'], signal));
  if (!list.success) throw notRedfish();
  const uris = list.data.Members.map((m) => m['@odata.id']);
  const [only] = uris;
  if (only !== undefined && uris.length === 1) return only;
  const shown = uris.slice(0, 16).join(', ');
  throw new NoSystem(
    uris.length === 0 ? 'it has no system' : `it has ${uris.length} systems: ${shown}`,
    'Give the one that is this node as systemUri.',
  );
}

/** The UUID of a system, as its BMC gives it; null: it gives none. @throws NoSystem, or what the network said */
export async function systemUuid(
  device: RedfishDevice,
  uri: string,
  signal: AbortSignal,
): Promise<string | null> {
  const system = systemSchema.safeParse(await get(device, uri, signal));
  if (!system.success) throw notRedfish();
  return system.data.UUID ?? null;
}

const notRedfish = (): NoSystem =>
  new NoSystem('it does not answer as Redfish does', 'See whether address and port are those of the BMC.');

function get(device: RedfishDevice, path: string, signal: AbortSignal): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const r = request(
      {
        host: device.address,
        port: device.port,
        path,
        agent: false,
        auth: `${device.user}:${device.password}`,
        headers: { accept: 'application/json', 'OData-Version': '4.0' },
        rejectUnauthorized: device.verifyTls,
        ...(device.ca === null ? {} : { ca: device.ca }),
        signal,
      },
      (res) => {
        const { statusCode } = res;
        let text = '';
        res.setEncoding('utf8');
        res.on('data', (data: string) => {
          text += data;
          if (text.length > answerBytesMax) r.destroy(notRedfish());
        });
        res.on('error', reject);
        res.on('end', () => {
          if (statusCode === 401 || statusCode === 403)
            return reject(new NoSystem('it refuses the login', 'Correct user and password.'));
          if (statusCode !== 200) return reject(new Error(`GET ${path} answered ${statusCode}`));
          try {
            resolve(JSON.parse(text));
          } catch {
            reject(notRedfish());
          }
        });
      },
    );
    r.on('error', reject);
    r.end();
  });
}
