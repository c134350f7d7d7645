import { parseArgs } from 'node:util';
import path from 'node:path';
import { idSchema, parse } from '../../core/domain/schema.js';
import { agentConfigFile, readAgentConfig } from '../cluster/config.js';
import { options, usage } from '../cluster/usage.js';
import { systemClock } from '../system.js';
import { HoldFile } from './holds.js';

export const holdsFile = (stateDir: string): string => path.join(stateDir, 'holds.json');

const holdUsage = `flotilla-agent hold VM      forces a VM off at this node and holds it off: by its id, see: virsh list --title
       flotilla-agent release VM   lets go of it; it starts if the ledger answers and wants it
       flotilla-agent held         what is held here`;

/** `hold`, `release`, `held`: root's way at the console, also in the dark. The agent sees to it within seconds. */
export async function holdCommand(
  verb: 'hold' | 'release' | 'held',
  argv: readonly string[],
): Promise<unknown> {
  const { values, positionals } = options(holdUsage, () =>
    parseArgs({ args: [...argv], allowPositionals: true, options: { config: { type: 'string' } } }),
  );
  const [vm, ...more] = positionals;
  if (more.length > 0 || (vm === undefined) !== (verb === 'held')) throw usage(holdUsage);
  const config = await readAgentConfig(values.config ?? agentConfigFile);
  const holds = new HoldFile(holdsFile(config.stateDir));
  await holds.look();
  if (vm !== undefined) {
    const id = parse(idSchema, vm, 'The VM');
    if (verb === 'hold') await holds.hold(id, { by: 'root at the console', atMs: systemClock.wallMs() });
    else await holds.release(id);
  }
  return [...holds.all()].map(([id, h]) => ({ vm: id, ...h }));
}
