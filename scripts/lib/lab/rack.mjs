// The nodes of a rack, whatever they are: those of a lab in containers, those of a metal rig emulated machines and containers.
import { existsSync } from 'node:fs';
import path from 'node:path';
import { machinesOf } from '../metal/machine.mjs';
import { metalFrom } from '../metal/config.mjs';
import { cgroupOf } from './cgroup.mjs';
import { configFrom } from './config.mjs';
import { fabricOf } from './fabric.mjs';
import { nodesOf } from './node.mjs';

/** @typedef {ReturnType<typeof machinesOf> | ReturnType<typeof nodesOf>} Kind */

/**
 * @param {NodeJS.ProcessEnv} env
 * @param {'lab' | 'metal'} kind
 * @returns its parts, and `rack`, which has what can be done to any node
 */
export function rackOf(env, kind) {
  const config = configFrom(env, kind);
  const fabric = fabricOf(config);
  const cgroup = cgroupOf(config);
  const metal = kind === 'metal' ? metalFrom(config, env) : null;
  const machines = metal && machinesOf(config, fabric, metal);
  const containers = nodesOf(config, cgroup, fabric);
  /** Only containers have a uuid of their own beside them. @param {string} node @returns {Kind} */
  const kindOf = (node) =>
    machines === null || existsSync(path.join(config.nodeDir(node), 'uuid')) ? containers : machines;
  const rack = {
    /** Names of nodes that are on. */
    running: () => [...(machines?.running() ?? []), ...cgroup.running()],
    /** Cuts its power. @param {string} node @returns when that was, ms of the wall clock; null: it was off */
    power: (node) => kindOf(node).power(node),
    /** What runs a command in it. @param {string} node @param {string[]} command */
    inside: (node, command) => kindOf(node).inside(node, command),
    /** Waits until it is up, and says how long that took. @param {string} node */
    ready: (node) => kindOf(node).ready(node),
  };
  return { config, metal, fabric, cgroup, machines, containers, kindOf, rack };
}
