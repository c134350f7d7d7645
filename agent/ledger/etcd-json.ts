import { prefixEnd, type Compare, type Write } from './ledger.js';

// No npm packages here: the keeper speaks with etcd by this, and has none.

/** As etcd's gateway takes keys and values. */
export const b64 = (s: string): string => Buffer.from(s, 'utf8').toString('base64');

function compareJson(c: Compare): Record<string, string> {
  const base = { key: b64(c.key), result: 'EQUAL' };
  if ('modRevision' in c) return { ...base, target: 'MOD', mod_revision: c.modRevision.toString() };
  if ('createRevision' in c)
    return { ...base, target: 'CREATE', create_revision: c.createRevision.toString() };
  return { ...base, target: 'VALUE', value: b64(c.value) };
}

function writeJson(w: Write): Record<string, unknown> {
  if ('put' in w) {
    const lease = w.lease === undefined ? {} : { lease: w.lease };
    return { request_put: { key: b64(w.put), value: b64(w.value), ...lease } };
  }
  if ('del' in w) return { request_delete_range: { key: b64(w.del) } };
  return { request_delete_range: { key: b64(w.delPrefix), range_end: b64(prefixEnd(w.delPrefix)) } };
}

/** The body of `/v3/kv/txn`: all of `writes`, if every compare holds. */
export const txnJson = (
  compare: readonly Compare[],
  writes: readonly Write[],
): { readonly compare: unknown[]; readonly success: unknown[] } => ({
  compare: compare.map(compareJson),
  success: writes.map(writeJson),
});
