import t from 'tap';
import { fencingDeviceSchema, fencingDeviceView } from '../../../../core/domain/fencing.js';

const ipmi = { kind: 'ipmi', address: '10.0.0.7', user: 'flotilla', password: 'se"cr et=#' };
const redfish = { kind: 'redfish', address: 'bmc-1.example.net', user: 'LAB\\op', password: 'x'.repeat(128) };
const takes = (v: unknown) => fencingDeviceSchema.safeParse(v).success;

void t.test('what is left out has defaults', (t) => {
  t.match(fencingDeviceSchema.parse(ipmi), { port: 623, cipher: 17, privilege: 'operator' });
  t.match(fencingDeviceSchema.parse(redfish), { port: 443, systemUri: null, verifyTls: false, ca: null });
  t.end();
});

void t.test('no text can become a second line, a second word or an option', (t) => {
  const evil = ['\n', '\r', '\0', '\t', '\x1b', '\x7f', '\x85', '\u2028', 'é'];
  for (const device of [ipmi, redfish]) {
    for (const field of ['address', 'user', 'password']) {
      const good = (device as Record<string, string>)[field] ?? '';
      for (const e of evil) {
        for (const bad of [`${e}a`, `a${e}`, `a${e}action=on`, `${good}${e}`])
          t.notOk(takes({ ...device, [field]: bad }), `${device.kind} ${field} ${encodeURIComponent(bad)}`);
      }
    }
    for (const bad of ['-oon', ' a', 'a b', "a'b", 'a;b', 'a$b', 'a:b', ''])
      t.notOk(takes({ ...device, user: bad }), `user ${bad}`);
    for (const bad of ['-H', '10.0.0.7 -f x', '10.0.0', '999.1.1.1', '::1', 'a:443', 'a..b', 'a/b', ''])
      t.notOk(takes({ ...device, address: bad }), `address ${bad}`);
    for (const bad of [0, 65_536, 1.5, '623']) t.notOk(takes({ ...device, port: bad }), `port ${bad}`);
    t.notOk(takes({ ...device, password: '' }));
    t.notOk(takes({ ...device, ipmitoolPath: '/bin/sh' }));
  }
  t.notOk(takes({ ...ipmi, password: 'x'.repeat(21) }), 'longer than IPMI knows');
  t.notOk(takes({ ...ipmi, cipher: 0 }), 'no login at all');
  t.notOk(takes({ ...ipmi, kind: 'ssh' }));
  for (const bad of [
    '/redfish/v1/../x',
    '/redfish/v1',
    '//evil/redfish/v1/a',
    '/redfish/v1/a b',
    '/redfish/v1/a?b',
  ])
    t.notOk(takes({ ...redfish, systemUri: bad }), bad);
  t.ok(takes({ ...redfish, systemUri: '/redfish/v1/Systems/System.Embedded.1' }));
  for (const bad of ['x', '-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n'])
    t.notOk(takes({ ...redfish, ca: bad }), bad);
  t.end();
});

void t.test('what is shown has no secret', (t) => {
  for (const device of [ipmi, redfish]) {
    const view = fencingDeviceView(fencingDeviceSchema.parse(device));
    t.notOk('password' in view);
    t.notMatch(JSON.stringify(view), JSON.stringify(device.password).slice(1, -1));
    t.match(view, { kind: device.kind, address: device.address, user: device.user });
  }
  t.end();
});
