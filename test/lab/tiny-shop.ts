import { threeTiers } from './three-tiers.js';

const vm = (nics: string): string => `
      memory: 96M
      disks: [{ name: root, pool: shared, image: tiny, mode: linked }]
      nics: [${nics}]
      ha: { enabled: true, restartsPerHourMax: 100 }`;
/** Answers what it says, and what the next tier does. */
const asks = (tier: string, next: string): string => `
      cloudInit:
        userData: |
          #!/bin/sh
          mkdir -p /www/cgi-bin
          cat >/www/cgi-bin/ask <<'END'
          #!/bin/sh
          printf 'Content-Type: text/plain\\r\\n\\r\\n'
          echo "${tier} heard: $(wget -q -T 5 -O - http://${next})"
          END
          chmod +x /www/cgi-bin/ask
          httpd -p 80 -h /www`;
const members = `  db:
    start: { order: 1, wait: tcp, port: 80 }
    vm:${vm('{ network: back }')}
      cloudInit:
        userData: |
          #!/bin/sh
          mkdir -p /www
          echo "@{greeting} with @{password}" >/www/data
          httpd -p 80 -h /www
  app:
    start: { order: 2, wait: http, port: 80, path: /cgi-bin/ask }
    vm:${vm('{ network: back }')}${asks('app', '@{db.address}/data')}
  web:
    start: { order: 3 }
    vm:${vm('{ network: front }, { network: back }')}${asks('web', '@{app.address}/cgi-bin/ask')}`;
const whole = 'web heard: app heard: hello with tall-trees';

/**
 * The tiers are guests of a kernel and busybox: what takes hours with whole systems takes minutes.
 *
 * @param copies - it is cloned, and packed, deleted and imported, too
 */
export const tinyShop = (copies: boolean): Promise<void> =>
  threeTiers({
    copies,
    id: 'flvapp',
    net: '10.66.0',
    guestNet: '10.66.100',
    members,
    path: '/cgi-bin/ask',
    whole: (answer) => answer === whole,
    limitMs: 180_000,
  });
