// What a new cluster is shown with: a network, two pools, an image, and a VM from it. Whatever is there stays as it is.
//   demo.mjs nodes COUNT      whether so many nodes say how they are (exit code)
//   demo.mjs make IMAGE KEY   makes what is missing; KEY: file of the SSH key that the VM lets in
//   demo.mjs address          waits until the VM has one, and prints it
// FLOTILLA_SERVER, FLOTILLA_TOKEN_FILE say where; NODE_EXTRA_CA_CERTS whom to believe.
import { createReadStream, readFileSync, statSync } from 'node:fs';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

const token = readFileSync(process.env.FLOTILLA_TOKEN_FILE, 'utf8').trim();
const started = Date.now();
const say = (text) =>
  console.error(`demo   ${String(Math.round((Date.now() - started) / 1000)).padStart(3)}s  ${text}`);

class Refused extends Error {}

async function call(method, path, body, headers = {}) {
  const stream = body instanceof Readable;
  const response = await globalThis.fetch(`${process.env.FLOTILLA_SERVER}/api/v1${path}`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body !== undefined && !stream && { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body !== undefined && { body: stream ? body : JSON.stringify(body) }),
    ...(stream && { duplex: 'half' }),
  });
  const text = await response.text();
  const answer = text === '' ? null : JSON.parse(text);
  if (!response.ok) {
    const why = answer?.message ?? text;
    throw new Refused(`${method} ${path}: ${why}${answer?.hint ? `\n       ${answer.hint}` : ''}`);
  }
  return answer;
}

const find = async (list, name) => (await call('GET', `/${list}`)).items.find((each) => each.name === name);

async function ensure(list, spec) {
  const there = await find(list, spec.name);
  if (there) return there;
  say(`${list.slice(0, -1)} "${spec.name}"`);
  return call('POST', `/${list}`, spec);
}

async function until(what, limitS, look) {
  for (const end = Date.now() + limitS * 1000; Date.now() < end; await sleep(500)) {
    const found = await look();
    if (found) return found;
  }
  throw new Refused(`${what}: not within ${limitS} s`);
}

async function ensureImage(name, file) {
  let image = await find('images', name);
  if (image?.state === 'failed') {
    await call('DELETE', `/images/${image.id}`);
    await until(`removal of the image that failed`, 60, async () => !(await find('images', name)));
    image = undefined;
  }
  const sizeBytes = statSync(file).size;
  image ??= (await call('POST', '/images', { name, pool: 'shared', sizeBytes, format: 'qcow2' })).image;
  if (image.state === 'uploading') {
    say(`image "${name}": ${Math.round(sizeBytes / 1e6)} MB`);
    const { offset } = await call('GET', `/images/${image.id}/upload`);
    if (offset < sizeBytes) {
      const headers = { 'upload-offset': String(offset), 'content-length': String(sizeBytes - offset) };
      await call('PUT', `/images/${image.id}/content`, createReadStream(file, { start: offset }), headers);
    }
    await call('POST', `/images/${image.id}/complete`);
  }
  return until(`image "${name}"`, 180, async () => {
    const now = await call('GET', `/images/${image.id}`);
    if (now.state === 'failed') throw new Refused(`image "${name}": ${now.error?.message ?? 'failed'}`);
    return now.state === 'ready' && now;
  });
}

async function make(file, keyFile) {
  const net = process.env.LAB_GUEST_NET;
  await ensure('networks', {
    name: 'default',
    bridge: 'flbr0',
    uplink: 'eth1',
    subnet: `${net}.0/24`,
    gateway: `${net}.254`,
    range: [`${net}.10`, `${net}.199`],
  });
  await ensure('pools', { name: 'local', kind: 'local', path: '/srv/local' });
  await ensure('pools', { name: 'shared', kind: 'shared', path: '/srv/shared' });
  await until(
    'a node that has the pool "shared"',
    60,
    async () => (await find('pools', 'shared')).use.length > 0,
  );
  await ensureImage('debian-13', file);
  if (await find('vms', 'demo')) return;
  say('VM "demo"');
  await call('POST', '/vms', {
    name: 'demo',
    note: 'Made by scripts/up',
    memoryMiB: Number(process.env.FLOTILLA_DEMO_MEMORY ?? 256),
    disks: [{ image: 'debian-13', pool: 'shared', mode: 'linked' }],
    nics: [{ network: 'default' }],
    cloudInit: { hostname: 'demo', sshKeys: [readFileSync(keyFile, 'utf8').trim()] },
    power: 'running',
  });
}

/** What the ledger gave it: the guest's own word comes later. */
async function address() {
  return until('an address of VM "demo"', 180, async () => {
    const vm = await call('GET', '/vms/demo');
    if (vm.error) throw new Refused(`VM "demo": ${vm.error.message}`);
    return vm.spec.nics.map((nic) => nic.address).find((each) => typeof each === 'string') ?? vm.addresses[0];
  });
}

const [verb, ...args] = process.argv.slice(2);
try {
  if (verb === 'nodes') {
    const { items } = await call('GET', '/nodes');
    const here = items.filter((node) => node.presence === 'here' && node.state !== null);
    process.exitCode = here.length >= Number(args[0]) ? 0 : 1;
  } else if (verb === 'make') await make(args[0], args[1]);
  else if (verb === 'address') console.log(await address());
} catch (error) {
  console.error(`demo   ${error.message}${error.cause ? `: ${error.cause.message}` : ''}`);
  process.exitCode = 1;
}
