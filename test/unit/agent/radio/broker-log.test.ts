import { appendFile, stat, writeFile } from 'node:fs/promises';
import t from 'tap';
import { BrokerLog } from '../../../../agent/radio/broker-log.js';
import { until } from './broker.js';

const bad = '1795395941: OpenSSL Error[0]: error:0A000086:SSL routines::certificate verify failed\n';
const other = '1795395942: OpenSSL Error[0]: error:0A000126:SSL routines::unexpected eof while reading\n';

await t.test('counts refused certificates that come after the start, and keeps the log small', async (t) => {
  const path = `${t.testdir({})}/errors.log`;
  let count = 0;
  const log = new BrokerLog(path, (n) => (count += n));
  await log.start();
  t.teardown(() => log.stop());
  await writeFile(path, bad + other + bad.slice(0, 40));
  await until('the first', () => count === 1);
  await appendFile(path, bad.slice(40));
  await until('the one that was half written', () => count === 2);
  await appendFile(path, other.repeat(5_000));
  await until('emptied', async () => (await stat(path)).size === 0);
  await appendFile(path, bad);
  await until('goes on behind it', () => count === 3);
});

await t.test('what stood there before is not counted', async (t) => {
  const path = `${t.testdir({})}/errors.log`;
  await writeFile(path, bad);
  let count = 0;
  const log = new BrokerLog(path, (n) => (count += n));
  await log.start();
  t.teardown(() => log.stop());
  await appendFile(path, other + bad);
  await until('the new one', () => count > 0);
  t.equal(count, 1);
});
