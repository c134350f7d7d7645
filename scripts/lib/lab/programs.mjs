// Programs of build/dist for nodes that run already.
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { LabError } from './config.mjs';
import { run } from './run.mjs';

/** The command in a node that starts its programs anew. */
export const restartPrograms = [
  'systemctl',
  'try-restart',
  'flotilla-keeper',
  'flotilla-agent',
  'flotilla-controller',
];

/** @param {import('./config.mjs').LabConfig} config @returns an archive of them, for /usr/lib/flotilla */
export async function packPrograms(config) {
  const dist = path.join(config.top, 'build/dist');
  const files = existsSync(dist) ? readdirSync(dist).filter((name) => /\.mjs$/.test(name)) : [];
  if (files.length === 0) throw new LabError('there are no programs to push', 'run: npm run build');
  const archive = path.join(config.dir, 'push.tar');
  await run('tar', ['-C', dist, '--owner=0', '--group=0', '--mode=644', '-cf', archive, ...files]);
  return archive;
}
