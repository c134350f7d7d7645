import { readFileSync } from 'node:fs';
import https from 'node:https';
import path from 'node:path';
import t from 'tap';
import { freePort, Lab, noTraces, run } from './harness.js';

const lab = new Lab({ id: 'uptest', net: '10.76.0', guestNet: '10.76.100' });
const access = path.join(lab.dir, 'access');

/** `scripts/up`, beside whatever cluster the person at this machine has. */
async function up(ports: { readonly page: number; readonly ssh: number }) {
  const env = {
    LAB_ID: lab.id,
    LAB_NET: lab.net,
    LAB_GUEST_NET: lab.guestNet,
    FLOTILLA_PORT: String(ports.page),
    FLOTILLA_SSH_PORT: String(ports.ssh),
  };
  return run('scripts/up', [], { env });
}

async function status(url: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const ca = readFileSync(path.join(access, 'ca.crt'));
    https.get(url, { ca, agent: false }, (r) => resolve(r.resume().statusCode)).on('error', reject);
  });
}

t.teardown(() => lab.down());

void t.test(
  'one command makes a cluster with a VM, twice is harmless, and down leaves nothing',
  async (t) => {
    await lab.down(); // what an interrupted run may have left
    const ports = { page: await freePort(), ssh: await freePort() };
    const ssh = async (command: string) => {
      const o = ['-i', path.join(access, 'demo-key'), '-p', String(ports.ssh), '-o', 'BatchMode=yes'];
      const trust = ['-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null'];
      return (await run('ssh', [...o, ...trust, 'debian@127.0.0.1', command])).stdout.trim();
    };

    const first = await up(ports);
    t.equal(first.code, 0, first.stderr);
    t.match(first.stdout, `https://127.0.0.1:${ports.page}/`, 'it says where the page is');
    t.equal(
      await status(`https://127.0.0.1:${ports.page}/healthz`),
      200,
      'and there it is, with a good certificate',
    );
    t.equal(await ssh('hostname'), 'demo', 'the demo VM lets the key in');
    const boot = await ssh('cat /proc/sys/kernel/random/boot_id');
    t.match(boot, /^[0-9a-f-]{36}$/);
    for (const node of await lab.nodes()) {
      t.equal(
        await lab.sh(node, 'systemctl is-active flotilla-agent flotilla-etcd flotilla-mosquitto | sort -u'),
        'active',
      );
      t.equal(await lab.sh(node, 'systemctl --failed --no-legend'), '', `nothing failed on ${node}`);
    }

    const second = await up(ports);
    t.equal(second.code, 0, second.stderr);
    t.equal(second.stdout, first.stdout, 'the same cluster at the same place');
    t.equal(await ssh('cat /proc/sys/kernel/random/boot_id'), boot, 'the VM ran on');

    t.equal((await run('scripts/down', [], { env: { LAB_ID: lab.id } })).code, 0);
    t.same(await lab.traces(), noTraces);
  },
);
