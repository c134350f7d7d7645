// What emulated machines have that nodes in containers have not. By environment, as the rest.
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import path from 'node:path';
import { LabError } from '../lab/config.mjs';

/** @param {import('../lab/config.mjs').LabConfig} config @param {NodeJS.ProcessEnv} env */
export function metalFrom(config, env) {
  return {
    memoryMiB: number('METAL_MEMORY', env.METAL_MEMORY ?? '1536', 512, 65536),
    cpus: number('METAL_CPUS', env.METAL_CPUS ?? '2', 1, 64),
    /**
     * Emulated CPU, where there is no KVM. One that knows AES and newer instructions: programs in it are twice as quick as
     * with qemu64, TLS eight times. Not SVM, else the node tries KVM in vain; nor tables of five levels, which cost.
     */
    cpu: env.METAL_CPU ?? 'max,svm=off,la57=off',
    /** Blank data drives of each machine, and their size; they take only what is written. */
    drives: number('METAL_DRIVES', env.METAL_DRIVES ?? '2', 0, 8),
    driveSize: env.METAL_DRIVE_SIZE ?? '4G',
    /** Kernel, initial RAM disk and packed root. Kept from the first `up` on, as the root. */
    boot() {
      const kept = path.join(config.dir, 'boot');
      if (existsSync(kept)) return readFileSync(kept, 'utf8').trim();
      const boot = path.join(config.build, 'boot');
      if (!existsSync(boot))
        throw new LabError('there is nothing to boot machines from', 'run: images/build boot');
      return realpathSync(boot);
    },
  };
}

/** @typedef {ReturnType<typeof metalFrom>} MetalConfig */

/** @param {string} name @param {string} value @param {number} min @param {number} max */
function number(name, value, min, max) {
  const n = Number(value);
  if (!Number.isInteger(n) || n < min || n > max)
    throw new LabError(`${name}='${value}' is not usable`, `a whole number from ${min} to ${max}`);
  return n;
}
