// A port of this machine that leads into the lab. The half that connects sits in the fabric's network namespace; the
// halves meet at a unix socket, because files are common to both and networks are not. No route, no cable.
//   forward.mjs outer DIR PORT NETNS HOST PORT     (starts the inner half itself)
import { spawn } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { fileURLToPath } from 'node:url';

const [, , role, dir, port, ...rest] = process.argv;
process.chdir(dir); // short relative names: a socket's path has at most 107 bytes
const socket = `${port}.sock`;

/** @param {net.Socket} a @param {net.Socket} b */
function join(a, b) {
  a.pipe(b);
  b.pipe(a);
  for (const side of [a, b])
    side.on('error', () => {
      a.destroy();
      b.destroy();
    });
}

if (role === 'inner') {
  const [host, target] = rest;
  rmSync(socket, { force: true });
  net
    .createServer({ allowHalfOpen: true }, (client) =>
      join(client, net.connect({ port: Number(target), host, allowHalfOpen: true })),
    )
    .listen(socket, () => console.log('ready'));
  process.stdin.resume().on('end', () => process.exit(0)); // ends with the outer half, however that ended
} else {
  const [netns, host, target] = rest;
  const args = [
    `--net=${netns}`,
    process.execPath,
    fileURLToPath(import.meta.url),
    'inner',
    dir,
    port,
    host,
    target,
  ];
  const inner = spawn('nsenter', args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const stop = (/** @type {number} */ code) => {
    inner.kill();
    for (const end of ['sock', 'pid']) rmSync(`${port}.${end}`, { force: true });
    process.exit(code);
  };
  inner.on('exit', () => stop(1));
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => stop(0));
  inner.stdout.once('data', () =>
    net
      .createServer({ allowHalfOpen: true }, (client) =>
        join(client, net.connect({ path: socket, allowHalfOpen: true })),
      )
      .on('error', (error) => {
        console.error(error.message);
        stop(1);
      })
      .listen(Number(port), '127.0.0.1', () => writeFileSync(`${port}.pid`, `${process.pid}\n`)),
  );
}
