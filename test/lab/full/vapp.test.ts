import { readFileSync } from 'node:fs';
import path from 'node:path';
import { threeTiers } from '../three-tiers.js';

/**
 * The tiers are Debian guests, each with a service that systemd runs: a database (SQLite, each row flushed before it is
 * acknowledged), an application, a web server. Each request is a row: the rows there were are counted on after a failover, in a
 * clone, and after the whole was packed, deleted and imported.
 */

const program = {
  db: `
          import json, os, sqlite3
          from http.server import BaseHTTPRequestHandler, HTTPServer
          os.makedirs('/var/lib/shop', exist_ok=True)
          rows = sqlite3.connect('/var/lib/shop/rows.db')
          rows.execute('PRAGMA synchronous=FULL')
          rows.execute('CREATE TABLE IF NOT EXISTS visits (id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP)')
          class Handler(BaseHTTPRequestHandler):
              def do_POST(self):
                  if self.headers.get('Authorization') != 'Bearer @{password}':
                      self.send_error(401)
                      return
                  with rows:
                      rows.execute('INSERT INTO visits DEFAULT VALUES')
                  n = rows.execute('SELECT count(*) FROM visits').fetchone()[0]
                  self.send_response(200)
                  self.end_headers()
                  self.wfile.write(json.dumps({'visits': n}).encode())
          HTTPServer(('', 5432), Handler).serve_forever()`,
  app: `
          import json, urllib.request
          from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
          class Handler(BaseHTTPRequestHandler):
              def do_GET(self):
                  ask = urllib.request.Request('http://@{db.address}:5432/', data=b'', headers={'Authorization': 'Bearer @{password}'})
                  visits = json.load(urllib.request.urlopen(ask, timeout=10))['visits'] if self.path == '/visit' else None
                  self.send_response(200)
                  self.end_headers()
                  self.wfile.write(json.dumps({'greeting': '@{greeting}', 'of': '@{vapp.name}', 'visits': visits}).encode())
          ThreadingHTTPServer(('', 8080), Handler).serve_forever()`,
  web: `
          import json, urllib.request
          from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
          class Handler(BaseHTTPRequestHandler):
              def do_GET(self):
                  said = json.load(urllib.request.urlopen('http://@{app.address}:8080/visit', timeout=15))
                  self.send_response(200)
                  self.send_header('Content-Type', 'text/html')
                  self.end_headers()
                  self.wfile.write('<p>{greeting} from {of}, visit {visits}</p>'.format(**said).encode())
          ThreadingHTTPServer(('', 80), Handler).serve_forever()`,
} as const;

const vm = (tier: keyof typeof program, nics: string): string => `
      memory: 512M
      disks: [{ name: root, pool: shared, image: debian, mode: linked }]
      nics: [${nics}]
      ha: { enabled: true, restartsPerHourMax: 100 }
      cloudInit:
        userData: |
          #cloud-config
          write_files:
            - path: /usr/local/lib/shop.py
              content: |
${program[tier].replaceAll('\n          ', '\n                ').slice(1)}
            - path: /etc/systemd/system/shop.service
              content: |
                [Unit]
                After=network.target
                [Service]
                ExecStart=/usr/bin/python3 /usr/local/lib/shop.py
                Restart=always
                RestartSec=1
                [Install]
                WantedBy=multi-user.target
          runcmd:
            - [systemctl, daemon-reload]
            - [systemctl, enable, --now, --no-block, shop.service]`;

const members = `  db:
    start: { order: 1, wait: tcp, port: 5432, timeoutS: 3600 }
    vm:${vm('db', '{ network: back }')}
  app:
    start: { order: 2, wait: http, port: 8080, path: /, timeoutS: 3600 }
    vm:${vm('app', '{ network: back }')}
  web:
    start: { order: 3, wait: guest, timeoutS: 3600 }
    vm:${vm('web', '{ network: front }, { network: back }')}`;

let visits = 0;
await threeTiers({
  id: 'fldebi',
  net: '10.68.0',
  guestNet: '10.68.100',
  members,
  path: '/',
  whole: (answer, vapp) => {
    const said = /^<p>hello from (\w+), visit (\d+)<\/p>$/.exec(answer);
    if (said?.[1] !== vapp) return false;
    const n = Number(said[2]);
    if (n <= visits) throw new Error(`visit ${n}, and there were ${visits}: rows are gone`);
    // A clone counts on by itself.
    if (vapp === 'shop') visits = n;
    return true;
  },
  limitMs: 60 * 60_000,
  copies: true,
  prepare: (d) =>
    d.c.image('debian', 'shared', readFileSync(path.resolve('build/images/debian-13-guest.qcow2'))),
});
