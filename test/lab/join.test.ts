import t from 'tap';
import { Lab, waitFor } from './harness.js';

/**
 * Founding and joining on whole nodes: real systemd units, etcd, mosquitto, openssl of the appliance.
 * What single requests may do is tested in test/unit/agent/cluster.
 */
const lab = new Lab({ id: 'jointest', net: '10.76.0', guestNet: '10.76.100' });
t.teardown(() => lab.down());

const agent = 'node /usr/lib/flotilla/flotilla-agent.mjs';
const pki = '/var/lib/flotilla/pki';
const own = { cert: `${pki}/node.crt`, key: `${pki}/node.key` };

/** Asks a voter's etcd with a certificate. */
const etcd = (node: string, o: { cert: string; key: string }, ...args: string[]) =>
  lab.exec(
    node,
    ...['etcdctl', '--cacert', `${pki}/ca.crt`, '--cert', o.cert, '--key', o.key, '--command-timeout=5s'],
    ...['--endpoints', `https://${lab.address(node)}:2379`, ...args],
  );

/** Listens at a node's broker with a certificate, for a second. Exit code 27: it was let in and the time was over. */
const listen = (node: string, o: { cert: string; key: string } | null) =>
  lab.exec(
    node,
    ...['mosquitto_sub', '-V', '5', '-h', lab.address(node), '-p', '8883', '--cafile', `${pki}/ca.crt`],
    ...(o === null ? [] : ['--cert', o.cert, '--key', o.key]),
    ...['-t', 'v1/#', '-W', '1', '-E'],
  );

async function voters(node: string): Promise<string[]> {
  const { stdout } = await etcd(node, own, 'member', 'list');
  const rows = stdout.split('\n').map((line) => line.split(', '));
  return rows.filter((r) => r[1] === 'started' && r[5] === 'false').map((r) => r[2] ?? '');
}

async function join(node: string, token: string) {
  const script = `umask 077; cat >/root/token <<'END'\n${token}\nEND\nexec ${agent} join --token-file /root/token`;
  return lab.exec(node, 'sh', '-c', script);
}

const newToken = (node: string, ...args: string[]) =>
  lab.sh(node, `${agent} token create ${args.join(' ')} 2>/dev/null`);

void t.test('found', { timeout: 600_000 }, async (t) => {
  await lab.down();
  await lab.up(3);
  await lab.must('push');
  const founded = JSON.parse(await lab.sh('n1', `${agent} found --cluster lab`)) as Record<string, string>;
  t.match(founded, { clusterId: /^[0-9a-f-]{36}$/, apiToken: /^flt-api\./ });
  t.equal(await lab.sh('n1', 'cat /var/lib/flotilla/admin-token'), founded['apiToken']);
  t.equal(
    await lab.sh('n1', 'stat -c %a /var/lib/flotilla/admin-token /var/lib/flotilla/pki/ca.key | sort -u'),
    '600',
  );
  const again = await lab.exec('n1', 'sh', '-c', `${agent} found --cluster lab`);
  t.equal(again.code, 1);
  t.match(again.stderr, /already-founded/);
  await waitFor('the agent', () =>
    lab.sh('n1', 'systemctl is-active flotilla-agent flotilla-etcd flotilla-mosquitto'),
  );
});

void t.test('a wrong token changes nothing on either side', { timeout: 120_000 }, async (t) => {
  const token = await waitFor('a token', () => newToken('n1'));
  const [head = '', ...rest] = token.split('.').reverse();
  const wrong = [head, `${'A'.repeat(43)}`, ...rest.slice(1)].reverse().join('.');
  // Leases and leaders come and go by themselves.
  const keys = async () =>
    (await etcd('n1', own, 'get', '--prefix', '--keys-only', '/flotilla/')).stdout
      .split('\n')
      .filter((key) => !/^\/flotilla\/(live|lead)\//.test(key));
  const before = await keys();
  const refused = await join('n2', wrong);
  t.equal(refused.code, 1);
  t.match(refused.stderr, /token-unknown/);
  t.equal((await lab.exec('n2', 'test', '-e', '/var/lib/flotilla/cluster.json')).code, 1);
  t.same(await keys(), before);
  t.notMatch(refused.stderr + refused.stdout, /AAAAAAAA/, 'and is not repeated in any message');
});

void t.test('two nodes join with one token: three voters, by themselves', { timeout: 300_000 }, async (t) => {
  const token = await newToken('n1', '--uses', '2');
  for (const node of ['n2', 'n3']) {
    const r = await join(node, token);
    t.equal(r.code, 0, r.stderr);
    t.match(JSON.parse(r.stdout), { node, cluster: 'lab' });
  }
  const used = await join('n1', token);
  t.match(used.stderr, /already-founded/);
  await waitFor('three voters', async () => (await voters('n1')).length === 3, { limitMs: 240_000 });
  t.same((await voters('n1')).sort(), ['n1', 'n2', 'n3']);
});

void t.test(
  'who shows no certificate of ours is refused, by ledger and radio',
  { timeout: 120_000 },
  async (t) => {
    await lab.sh(
      'n1',
      `mkdir -p /root/x; cd /root/x
     key() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; openssl req -new -key $1.key -subj /CN=n1 -out $1.csr; }
     openssl ecparam -name prime256v1 -genkey -noout -out ca.key
     openssl req -x509 -new -key ca.key -subj "/$(openssl x509 -in ${pki}/ca.crt -noout -subject -nameopt RFC2253 | sed 's/^subject=//')" -days 9 -out ca.crt
     printf 'extendedKeyUsage=clientAuth\\n' >ext
     key forged; openssl x509 -req -in forged.csr -CA ca.crt -CAkey ca.key -days 9 -extfile ext -out forged.crt
     key old; openssl x509 -req -in old.csr -CA ${pki}/ca.crt -CAkey ${pki}/ca.key -extfile ext -out old.crt \\
       -not_before 20200101000000Z -not_after 20200201000000Z`,
    );
    const at = (name: string) => ({ cert: `/root/x/${name}.crt`, key: `/root/x/${name}.key` });
    t.equal((await etcd('n1', own, 'endpoint', 'health')).code, 0, "the node's own is let in");
    t.equal((await listen('n1', own)).code, 0);
    for (const name of ['forged', 'old']) {
      t.not((await etcd('n1', at(name), 'get', '/flotilla/meta')).code, 0, `etcd, ${name}`);
      t.not((await listen('n1', at(name))).code, 0, `mosquitto, ${name}`);
    }
    t.not((await listen('n1', null)).code, 0, 'mosquitto, none');
  },
);

void t.test(
  'the founder loses power: the others decide and admit; it comes back as a voter',
  { timeout: 300_000 },
  async (t) => {
    await lab.kill('n1');
    await waitFor(
      'the ledger of the other two',
      async () => (await etcd('n2', own, 'put', '/test', '1')).code === 0,
    );
    t.match(
      await waitFor('a token', () => newToken('n2')),
      /^flt1\.10\.76\.0\.2\./,
      'one that names a living voter',
    );
    await lab.boot('n1');
    await waitFor(
      'the founder to vote again',
      async () => (await etcd('n1', own, 'endpoint', 'health')).code === 0,
      {
        limitMs: 120_000,
      },
    );
    t.equal((await etcd('n1', own, 'get', '--print-value-only', '/test')).stdout.trim(), '1');
  },
);

void t.test(
  'a removed node: its key and certificate open nothing any more, and what they had open is cut',
  { timeout: 900_000 },
  async (t) => {
    await waitFor('three voters', async () => (await voters('n1')).length === 3, { limitMs: 240_000 });
    await lab.sh('n1', 'systemctl start flotilla-controller');
    const cli = (...args: string[]) =>
      lab.exec(
        'n1',
        'env',
        'FLOTILLA_SERVER=https://127.0.0.1:8443',
        'FLOTILLA_TOKEN_FILE=/var/lib/flotilla/admin-token',
        `FLOTILLA_CA=${pki}/ca.crt`,
        'flotilla',
        ...args,
      );
    await waitFor('the controller', async () => (await cli('node', 'list')).code === 0, { limitMs: 120_000 });
    await waitFor('all certificates to be written down', async () => {
      const { stdout } = await cli('certificate', 'list');
      return ['n1', 'n2', 'n3'].every((n) => new RegExp(`^${n} .*good$`, 'm').test(stdout));
    });
    for (const node of ['n1', 'n2'])
      await waitFor('the port for migrations', () => lab.sh(node, 'systemctl is-active libvirtd-tls.socket'));

    // A thief on n2: he has the key, and connections that are open before the removal.
    const thief = { cert: '/root/thief.crt', key: '/root/thief.key' };
    for (const [from, to] of [
      ['node.crt', thief.cert],
      ['node.key', thief.key],
    ] as const) {
      const text = await lab.sh('n3', `cat ${pki}/${from}`);
      await lab.sh('n2', `umask 077; cat >${to} <<'END'\n${text}\nEND`);
    }
    const n1 = lab.address('n1');
    const shake = (port: number) =>
      `openssl s_client -connect ${n1}:${port} -CAfile ${pki}/ca.crt -cert ${thief.cert} -key ${thief.key}`;
    const open: Record<string, string> = {
      etcd: `etcdctl --cacert ${pki}/ca.crt --cert ${thief.cert} --key ${thief.key} --endpoints https://${n1}:2379 watch /none`,
      mosquitto: `mosquitto_sub -V 5 -h ${n1} -p 8883 --cafile ${pki}/ca.crt --cert ${thief.cert} --key ${thief.key} -t v1/#`,
      agent: `sh -c 'sleep infinity | ${shake(7443)}'`,
      controller: `sh -c 'sleep infinity | ${shake(8443)}'`,
      libvirt: `sh -c 'sleep infinity | ${shake(16514)}'`,
    };
    const ports: Record<string, number> = {
      etcd: 2379,
      mosquitto: 8883,
      agent: 7443,
      controller: 8443,
      libvirt: 16514,
    };
    // Of the process that the thief's unit runs: n2 itself has connections there too.
    const isOpen = async (what: string): Promise<boolean> => {
      const pids = await lab.sh(
        'n2',
        `systemctl show -p ControlGroup --value thief-${what} | xargs -I{} cat /sys/fs/cgroup{}/cgroup.procs 2>/dev/null || true`,
      );
      const { stdout } = await lab.exec(
        'n2',
        'ss',
        '-Htnp',
        'state',
        'established',
        `dport = :${ports[what]}`,
      );
      return pids.split('\n').some((pid) => pid !== '' && stdout.includes(`pid=${pid},`));
    };
    for (const [what, command] of Object.entries(open)) {
      await lab.sh('n2', `systemd-run -q --unit=thief-${what} ${command}`);
      await waitFor(`${what} to let the thief in`, () => isOpen(what));
    }
    const script = `const [url, cert, key] = process.argv.slice(2); const fs = require('node:fs');
      require('node:https').get(url, { ca: fs.readFileSync('${pki}/ca.crt'), cert: fs.readFileSync(cert), key: fs.readFileSync(key), agent: false },
        (res) => { process.stdout.write(res.statusCode + ' '); res.pipe(process.stdout); }).on('error', () => console.log('no answer'));`;
    for (const node of ['n2', 'n3']) await lab.sh(node, `cat >/root/ask.cjs <<'END'\n${script}\nEND`);
    /** Status and body of what the thief is answered. */
    const asked = (url: string) => lab.sh('n2', `node /root/ask.cjs ${url} ${thief.cert} ${thief.key}`);
    // A member's etcd lets others in only from an address that their certificate is for.
    const asMember = (at: string) =>
      lab.sh('n3', `node /root/ask.cjs https://${at}:2380/version ${own.cert} ${own.key}`);
    t.equal((await etcd('n2', thief, 'get', '/flotilla/meta')).code, 0, 'until then it opens the ledger');
    t.match(await asMember(n1), /^200 /);

    const removed = await cli('node', 'remove', 'n3');
    t.equal(removed.code, 0, removed.stderr);
    t.match(removed.stdout, /certificate is revoked/);
    const began = Date.now();
    const said: string[] = [];
    const within = async (what: string, look: () => Promise<boolean>) => {
      await waitFor(what, look, { limitMs: 240_000 });
      said.push(`${what}: ${((Date.now() - began) / 1000).toFixed(1)} s`);
    };
    for (const what of Object.keys(open)) await within(`${what} cuts`, async () => !(await isOpen(what)));
    for (const node of ['n1', 'n2']) {
      const at = lab.address(node);
      const ask = (...args: string[]) =>
        lab.exec(
          'n2',
          ...['etcdctl', '--cacert', `${pki}/ca.crt`, '--cert', thief.cert, '--key', thief.key],
          ...['--command-timeout=5s', '--endpoints', `https://${at}:2379`],
          ...args,
        );
      await within(`etcd of ${node} refuses`, async () => (await ask('get', '/flotilla/meta')).code !== 0);
      await within(`etcd of ${node} refuses as a member`, async () => /no answer/.test(await asMember(at)));
      await within(`mosquitto of ${node} refuses`, async () => {
        const { code } = await lab.exec(
          'n2',
          ...['mosquitto_sub', '-V', '5', '-h', at, '-p', '8883', '--cafile', `${pki}/ca.crt`],
          ...['--cert', thief.cert, '--key', thief.key, '-t', 'v1/#', '-W', '1', '-E'],
        );
        return code !== 0;
      });
      await within(`the agent of ${node} refuses`, async () =>
        /wrong-certificate/.test(await asked(`https://${at}:7443/v1/journal`)),
      );
      await within(`libvirt of ${node} refuses`, async () => {
        // It greets with one byte whom it knows.
        const greeting = await lab.sh(
          'n2',
          `(sleep 2) | timeout 10 openssl s_client -quiet -connect ${at}:16514 -CAfile ${pki}/ca.crt -cert ${thief.cert} -key ${thief.key} 2>/dev/null | od -An -tx1 | head -n 1 || true`,
        );
        return greeting.trim() === '';
      });
    }
    await within('the controller refuses', async () =>
      /wrong-certificate/.test(await asked(`https://${n1}:8443/api/v1/nodes`)),
    );
    t.comment(said.join('; '));
    // Those who may are let in as before. Of two nodes one votes.
    await waitFor('the ledger', async () => {
      const all = await Promise.all(['n1', 'n2'].map((node) => etcd(node, own, 'get', '/flotilla/meta')));
      return all.some((r) => r.code === 0);
    });
    for (const node of ['n1', 'n2']) t.equal((await listen(node, own)).code, 0);
    await waitFor('n3 to be told', () =>
      lab.sh('n3', "journalctl -u flotilla-agent --no-pager | grep -m1 'was removed from the cluster'"),
    );
    await lab.sh('n3', 'systemctl stop flotilla-agent; rm /var/lib/flotilla/cluster.json');
    const back = await join('n3', await newToken('n1'));
    t.not(back.code, 0);
    t.match(back.stderr, /that of node .*n3.*revoked on/);
  },
);
