import { cutWords } from './config.mjs';
import { foreground } from './run.mjs';

/**
 * The verbs that a rack of containers and one of machines have alike.
 *
 * @param rack - `running()`: names of nodes that are on; `power(node)`: cuts its power, when that was or null; `inside(node,
 *   words)`: what runs a command in it; `ready(node)`: waits until it is up, and says how long that took
 */
export const commonVerbs = ({ rack, config, fabric, forwards, args }) => ({
  kill: async () => {
    for (const node of args) {
      const atMs = await rack.power(node);
      if (atMs !== null) console.log(`${node} lost its power at ${atMs}`);
    }
  },
  exec: () => foreground(rack.inside(args[0] ?? '', args.slice(1))),
  cut: () => {
    const { names, options } = cutWords(config, args);
    return fabric.cut(names[0] ?? '', names[1], options);
  },
  heal: () => {
    const { names, options } = cutWords(config, args);
    return fabric.heal(rack.running(), names[0], names[1], options);
  },
  wait: async () => {
    for (const node of args) console.log(`${node} ${await rack.ready(node)}`);
  },
  forward: () => forwards.start(args[0] ?? '', args[1] ?? ''),
  nodes: () => {
    for (const node of rack.running()) console.log(node);
  },
  fab: () => {
    fabric.require();
    return foreground(fabric.inside(...args));
  },
  nft: async () => process.stdout.write((await fabric.nft(args)).stdout),
});
