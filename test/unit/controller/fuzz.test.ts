import t from 'tap';
import { errorStatus, type ErrorCode } from '../../../core/domain/error.js';
import { made } from './ha-rig.js';
import { callApp, rig } from './rig.js';

/**
 * The API asked at random, by its own document: half of what is sent is of the schemas, half is not. From seeds, so
 * that a failure is found again: FUZZ_SEED=n runs that one.
 */
const seeds = process.env['FUZZ_SEED'] === undefined ? [1, 2, 3] : [Number(process.env['FUZZ_SEED'])];
/** Requests of each route and seed. */
const each = 12;
/** A request that takes longer hangs, ms: they are answered out of memory. */
const hangMs = 60_000;
/** What is not a failure of ours: nodes and rooms that are not there. */
const honest: readonly ErrorCode[] = [
  'node-unreachable',
  'no-space',
  'ledger-full',
  'pool-unavailable',
  'stale-view',
];

type Schema = Record<string, unknown> & {
  readonly type?: string | string[];
  readonly enum?: unknown[];
  readonly properties?: Record<string, Schema>;
  readonly required?: string[];
  readonly items?: Schema;
  readonly anyOf?: Schema[];
  readonly oneOf?: Schema[];
  readonly allOf?: Schema[];
  readonly $ref?: string;
};
interface Operation {
  readonly operationId: string;
  readonly parameters?: { readonly name: string; readonly in: string; readonly schema: Schema }[];
  readonly requestBody?: { readonly content: Record<string, { readonly schema: Schema }> };
}

const r = await rig();
t.teardown(() => r.stop());
const vm = await made(r, { name: 'web', node: 'n1' });
const doc = (await r.call('GET', '/api/v1/openapi.json')).body as {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
};

/** mulberry32 */
function chance(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let x = Math.imul(a ^ (a >>> 15), 1 | a);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

const hostile: readonly unknown[] = [
  null,
  '',
  0,
  -1,
  1e308,
  0.5,
  true,
  [],
  {},
  '\u0000',
  '../../etc/passwd',
  '%2e%2e%2f',
  '__proto__',
  'constructor',
  '\ud800',
  'ﷺ'.repeat(100),
  'x'.repeat(70_000),
  '<script>',
  "'; --",
  [[[[[[]]]]]],
  { toString: 1 },
];

class Maker {
  private readonly next: () => number;
  constructor(seed: number) {
    this.next = chance(seed);
  }
  pick<T>(of: readonly T[]): T {
    return of[Math.floor(this.next() * of.length)] as T;
  }
  odds(share: number): boolean {
    return this.next() < share;
  }
  value(s: Schema, depth = 0): unknown {
    if (depth > 8 || this.odds(0.08)) return this.pick(hostile);
    if (s.$ref !== undefined)
      return this.value(doc.components.schemas[s.$ref.split('/').at(-1) ?? ''] ?? {}, depth + 1);
    const some = s.anyOf ?? s.oneOf;
    if (some !== undefined) return this.value(this.pick(some), depth + 1);
    if (s.allOf !== undefined)
      return Object.assign({}, ...s.allOf.map((x) => this.value(x, depth + 1))) as unknown;
    if (s.enum !== undefined) return this.pick(s.enum);
    if ('const' in s) return s['const'];
    switch (Array.isArray(s.type) ? this.pick(s.type) : s.type) {
      case 'object': {
        const out: Record<string, unknown> = {};
        for (const [k, v] of Object.entries(s.properties ?? {}))
          if (s.required?.includes(k) === true ? this.odds(0.95) : this.odds(0.4))
            out[k] = this.value(v, depth + 1);
        if (this.odds(0.05)) out['wat'] = 1;
        return out;
      }
      case 'array':
        return Array.from({ length: Math.floor(this.next() * 4) }, () =>
          this.value(s.items ?? {}, depth + 1),
        );
      case 'integer':
      case 'number': {
        const [min, max] = [Number(s['minimum'] ?? 0), Number(s['maximum'] ?? 1e9)];
        return this.pick([
          min,
          max,
          min - 1,
          max + 1,
          Math.floor(min + this.next() * (Math.min(max, min + 1e6) - min)),
        ]);
      }
      case 'boolean':
        return this.odds(0.5);
      case 'null':
        return null;
      default:
        return this.pick([
          'web',
          vm.id,
          'n1',
          'local',
          'x',
          'a-name',
          '10.0.0.0/24',
          '00:11:22:33:44:55',
          'https://x/y',
          'flt',
        ]);
    }
  }
}

/** Waits for changes are kept short: here nothing changes. */
const shorten = (name: string, v: unknown): unknown => (name === 'waitS' ? 0 : v);

for (const seed of seeds) {
  await t.test(`seed ${seed}: no failure of ours, and nothing hangs`, async (t) => {
    const make = new Maker(seed);
    let sent = 0;
    const bad: string[] = [];
    for (const [path, methods] of Object.entries(doc.paths)) {
      for (const [method, op] of Object.entries(methods)) {
        // The stream of events has no end, and its own tests.
        if (op.operationId === 'events') continue;
        for (let i = 0; i < each; i++) {
          const query = new URLSearchParams();
          let real = path;
          const headers: Record<string, string> = {};
          for (const p of op.parameters ?? []) {
            const v = shorten(p.name, make.value(p.schema));
            const text = typeof v === 'string' ? v : (JSON.stringify(v) ?? '');
            if (p.in === 'path')
              real = real.replace(
                `{${p.name}}`,
                encodeURIComponent(text.slice(0, 300).replaceAll(/[\ud800-\udfff]/g, '?')),
              );
            else if (p.in === 'query' && make.odds(0.5)) query.set(p.name, text.slice(0, 300));
            else if (p.in === 'header' && make.odds(0.5))
              headers[p.name] = text.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 300);
          }
          const schema = op.requestBody?.content['application/json']?.schema;
          const body =
            schema === undefined
              ? undefined
              : JSON.stringify(make.odds(0.05) ? make.pick(hostile) : make.value(schema));
          const at = `${real}${query.size === 0 ? '' : `?${query.toString()}`}`;
          const call = callApp(r.app, r.token, method.toUpperCase(), at, body, {
            ...(body === undefined ? {} : { 'content-type': 'application/json' }),
            ...headers,
          });
          const timer = setTimeout(() => bad.push(`${method} ${at}: no answer`), hangMs);
          const a = await call;
          clearTimeout(timer);
          sent += 1;
          const { code } = ((a.status === 204 ? null : a.body) ?? {}) as { code?: ErrorCode };
          const refused = a.status >= 400;
          if (refused && (code === undefined || errorStatus[code] !== a.status))
            bad.push(`${method} ${at}: ${a.status} without its code`);
          if (a.status >= 500 && !honest.includes(code ?? 'internal'))
            bad.push(`${method} ${at} ${body?.slice(0, 300) ?? ''}: ${a.status} ${code ?? ''}`);
        }
      }
    }
    t.same(bad, []);
    t.ok(sent > 500, `${sent} requests`);
    t.equal((await r.call('GET', '/api/v1/cluster')).status, 200);
  });
}
