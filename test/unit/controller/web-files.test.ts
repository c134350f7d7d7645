import { readFile } from 'node:fs/promises';
import t from 'tap';
import { pagePaths } from '../../../controller/web-files.js';

void t.test('each address of the page is the page also where somebody begins with it', async (t) => {
  const app = await readFile('controller/web/src/app.tsx', 'utf8');
  const routes = [...app.matchAll(/<Route path="(\/[a-z-]*)/g)].map((m) => m[1] ?? '');
  t.ok(routes.length > 10, 'they are found');
  for (const r of new Set(routes)) t.ok(pagePaths.includes(r === '/' ? r : `${r}/*`), r);
});
