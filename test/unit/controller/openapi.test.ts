import { mkdirSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { rig } from './rig.js';

/**
 * The document by the rules of `redocly lint` (recommended) and Spectral (`spectral:oas`) that it can break: both are
 * clean on it, but they are 80 MB of packages, so these rules stand here. To ask them: HACKING.md.
 */
interface Operation {
  readonly operationId?: string;
  readonly summary?: string;
  readonly description?: string;
  readonly tags?: string[];
  readonly parameters?: { readonly name: string; readonly in: string; readonly required?: boolean }[];
  readonly responses: Record<string, { readonly description?: string }>;
}
interface Doc {
  readonly info: Record<string, unknown>;
  readonly servers: readonly { readonly url: string }[];
  readonly security: readonly Record<string, unknown>[];
  readonly tags: readonly { readonly name: string; readonly description?: string }[];
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: Record<string, Record<string, unknown>>;
}
const r = await rig();
const doc = (await r.call('GET', '/api/v1/openapi.json')).body as Doc;
r.stop();
mkdirSync('build', { recursive: true });
writeFileSync('build/openapi.json', JSON.stringify(doc, null, 2));
const operations = Object.entries(doc.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, o]) => ({ path, at: `${method} ${path}`, ...o })),
);

/** Every object in the document, with the way to it. */
function* objects(of: unknown, way: string): Generator<[string, Record<string, unknown>]> {
  if (typeof of !== 'object' || of === null) return;
  if (!Array.isArray(of)) yield [way, of as Record<string, unknown>];
  for (const [key, value] of Object.entries(of)) yield* objects(value, `${way}/${key}`);
}
const everything = [...objects(doc, '#')];

await t.test('it says of itself what it is, under which licence, and what each tag means', async (t) => {
  for (const key of ['title', 'version', 'description', 'contact', 'license']) t.ok(doc.info[key], key);
  t.ok(doc.servers.every((s) => s.url === '/' || !s.url.endsWith('/')));
  const names = doc.tags.map((g) => g.name);
  t.equal(new Set(names).size, names.length);
  t.same(
    doc.tags.filter((g) => (g.description ?? '') === '').map((g) => g.name),
    [],
  );
});

await t.test('every operation has an id of its own, a tag that is told, words, and success', async (t) => {
  const tags = new Set(doc.tags.map((g) => g.name));
  const ids = operations.map((o) => o.operationId ?? '');
  t.equal(new Set(ids).size, ids.length);
  t.ok(ids.every((id) => /^[A-Za-z0-9._~-]+$/.test(id)));
  for (const o of operations) {
    const good =
      (o.summary ?? '') !== '' &&
      (o.description ?? '') !== '' &&
      o.tags?.length === 1 &&
      o.tags.every((g) => tags.has(g)) &&
      Object.keys(o.responses).some((s) => /^2/.test(s)) &&
      Object.keys(o.responses).some((s) => /^4/.test(s)) &&
      Object.values(o.responses).every((a) => (a.description ?? '') !== '');
    t.ok(good, o.at);
  }
});

await t.test('parameters of paths are those in braces, and no two paths are the same', async (t) => {
  const bare = Object.keys(doc.paths).map((p) => p.replace(/\{.+?\}/g, '{}'));
  t.equal(new Set(bare).size, bare.length);
  for (const o of operations) {
    t.notMatch(o.path, /\/$|\?/);
    const said = [...o.path.matchAll(/\{(.+?)\}/g)].map((m) => m[1]);
    const params = (o.parameters ?? []).filter((p) => p.in === 'path');
    t.same(params.map((p) => p.name).sort(), said.sort(), o.at);
    t.ok(
      params.every((p) => p.required === true),
      o.at,
    );
    const all = (o.parameters ?? []).map((p) => `${p.in} ${p.name}`);
    t.equal(new Set(all).size, all.length, o.at);
  }
});

await t.test(
  'schemas: nothing points nowhere, lists say of what, defaults are of their own kind',
  async (t) => {
    const bad: string[] = [];
    for (const [way, s] of everything) {
      const ref = s['$ref'];
      if (typeof ref === 'string' && !everything.some(([w]) => w === ref)) bad.push(`${way}: ${ref}`);
      const list = s['type'] === 'array' || (Array.isArray(s['type']) && s['type'].includes('array'));
      if (list && typeof s['items'] !== 'object') bad.push(`${way}: a list of what?`);
      if (Array.isArray(s['enum'])) {
        if (new Set(s['enum']).size !== s['enum'].length) bad.push(`${way}: said twice`);
        if ('default' in s && !s['enum'].includes(s['default'])) bad.push(`${way}: default not allowed`);
      }
      if ('minItems' in s && 'prefixItems' in s && s['maxItems'] !== (s['prefixItems'] as unknown[]).length)
        bad.push(`${way}: an open tuple`);
      if (Array.isArray(s['required']) && typeof s['properties'] === 'object')
        for (const name of s['required'] as string[])
          if (!(name in (s['properties'] as object))) bad.push(`${way}: requires ${name}`);
    }
    t.same(bad, []);
  },
);

await t.test('who may is said by schemes that there are, and only what is open needs none', async (t) => {
  const schemes = Object.keys(doc.components['securitySchemes'] ?? {});
  t.same(doc.security.flatMap((s) => Object.keys(s)).sort(), schemes.sort());
  t.same(
    operations
      .filter((o) => 'security' in o && (o as { security: unknown[] }).security.length === 0)
      .map((o) => o.at),
    ['post /api/v1/login'],
  );
});
