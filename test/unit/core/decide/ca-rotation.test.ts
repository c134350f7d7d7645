import t from 'tap';
import { decideRotation, rotationSettleMs, type RotationNode } from '../../../../core/decide/ca-rotation.js';
import type { RotationArgs } from '../../../../core/domain/ca-rotation.js';
import type { TrustRecord } from '../../../../core/domain/certificate.js';

const [a, b] = ['a'.repeat(64), 'b'.repeat(64)];
const says = (o: Partial<TrustRecord> = {}): TrustRecord => ({ trusts: [a], issuer: a, keys: [], ...o });
const node = (id: string, o: Partial<RotationNode> = {}): RotationNode => ({
  id,
  voter: false,
  live: true,
  says: says(),
  ...o,
});
const voter = (id: string, o: Partial<TrustRecord> = {}): RotationNode =>
  node(id, { voter: true, says: says({ keys: [a], ...o }) });
const view = (
  o: Partial<Omit<Parameters<typeof decideRotation>[0], 'args'>> & { args?: Partial<RotationArgs> },
): Parameters<typeof decideRotation>[0] => ({
  cancelAsked: false,
  ca: a,
  otherCa: null,
  nodes: [voter('n1'), node('n2')],
  settledMs: rotationSettleMs,
  ...o,
  args: { from: a, to: null, without: [], ...o.args },
});

void t.test('each phase waits for what the next one needs, and says for whom', async (t) => {
  t.match(decideRotation(view({})), { act: 'make', waits: [], end: null });
  t.match(decideRotation(view({ nodes: [voter('n1'), node('n2', { says: null })] })), {
    act: null,
    waits: [{ node: 'n2', why: /older version/ }],
  });
  t.match(decideRotation(view({ nodes: [voter('n1', { keys: [] })] })), {
    act: null,
    waits: [{ node: 'n1' }],
  });

  const trust = { ca: a, otherCa: b, args: { to: b } };
  t.match(decideRotation(view(trust)).step, /learn of the new CA; waits: n1 does not trust .*, n2 does not/);
  const both = [
    voter('n1', { trusts: [a, b], keys: [a, b] }),
    node('n2', { says: says({ trusts: [a, b] }) }),
  ];
  t.match(decideRotation(view({ ...trust, nodes: both })), { act: 'sign', phase: 'trust' });
  t.match(
    decideRotation(view({ ...trust, nodes: both, settledMs: 0 })),
    { act: null, end: null },
    'a moment',
  );
  const keyless = [voter('n1', { trusts: [a, b] }), ...both.slice(1)];
  t.match(
    decideRotation(view({ ...trust, nodes: keyless })),
    { act: null, waits: [{ node: 'n1', why: /key/ }] },
    'a new CA whose key one node alone has could be lost with it',
  );

  const sign = { ca: b, otherCa: a, args: { to: b } };
  t.match(decideRotation(view({ ...sign, nodes: both })).waits, [{ node: 'n1' }, { node: 'n2' }]);
  const signed = both.map((n) => ({ ...n, says: { ...(n.says ?? says()), issuer: b } }));
  t.match(decideRotation(view({ ...sign, nodes: signed })), { act: 'drop' });

  const drop = { ca: b, otherCa: null, args: { to: b } };
  t.match(decideRotation(view({ ...drop, nodes: signed })), { act: null, end: null });
  const only = signed.map((n) => ({ ...n, says: { ...n.says, trusts: [b] } }));
  t.match(decideRotation(view({ ...drop, nodes: only })), { act: null, end: { state: 'done' }, progress: 1 });
});

void t.test(
  'a node that is not there is waited for unless somebody said otherwise; a voter always',
  async (t) => {
    const away = node('n2', { live: false });
    const trust = { ca: a, otherCa: b };
    const n1 = voter('n1', { trusts: [a, b], keys: [a, b] });
    const ask = (nodes: RotationNode[], without: string[]) =>
      decideRotation(view({ ...trust, nodes, args: { to: b, without } }));
    t.match(ask([n1, away], []), { act: null, waits: [{ node: 'n2', why: /is not there/ }] });
    t.match(ask([n1, away], ['n2']), { act: 'sign' });
    t.match(
      ask([n1, { ...away, live: true }], ['n2']),
      { act: null },
      'it came back: it can, so it is waited for',
    );
    t.match(
      ask([n1, { ...away, voter: true }], ['n2']),
      { act: null },
      'voters know one another, or there is no ledger',
    );
  },
);

void t.test('it is taken back while nobody uses the new CA, and not later', async (t) => {
  t.match(decideRotation(view({ cancelAsked: true })), { act: null, end: { state: 'cancelled' } });
  const trust = view({ cancelAsked: true, ca: a, otherCa: b, args: { to: b } });
  t.match(decideRotation(trust), { act: 'undo', end: { state: 'cancelled' } });
  const sign = decideRotation(view({ cancelAsked: true, ca: b, otherCa: a, args: { to: b } }));
  t.match(sign, { act: null, end: null, step: /cannot be cancelled any more/ });
  const other = decideRotation(view({ ca: 'c'.repeat(64), args: { to: b } }));
  t.match(other, { act: null, end: { state: 'failed', error: { code: 'wrong-state' } } });
});

/** Nodes do what the cluster's record says when they like, and from a record that may be old. */
void t.test(
  'property: at no moment do two nodes not know one another, whoever is slow or away',
  async (t) => {
    let seed = 1;
    const below = (n: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return (seed >>> 8) % n;
    };
    let ends = 0;
    for (let run = 0; run < 200; run++) {
      let meta: { ca: string; other: string | null } = { ca: a, other: null };
      const args: RotationArgs = { from: a, to: null, without: run % 3 === 0 ? ['n4'] : [] };
      let now: RotationArgs = args;
      const nodes = ['n1', 'n2', 'n3', 'n4'].map((id) => ({
        id,
        voter: id === 'n1' || id === 'n2',
        live: true,
        is: says({ keys: id === 'n1' || id === 'n2' ? [a] : [] }),
        says: says({ keys: id === 'n1' || id === 'n2' ? [a] : [] }),
      }));
      let cancelAsked = false;
      const record = (): string[] => [meta.ca, ...(meta.other === null ? [] : [meta.other])];
      for (let i = 0; i < 1_500; i++) {
        const n = nodes[below(nodes.length)];
        if (n === undefined) throw new Error('no node');
        switch (below(7)) {
          case 0:
            if (n.live && below(4) > 0) break;
            n.live = !n.live;
            // Who was gone on without catches up before anybody knows it.
            if (n.live && now.without.includes(n.id)) n.is = { ...n.is, trusts: record(), issuer: meta.ca };
            break;
          case 1:
            if (n.live && record().includes(n.is.issuer)) n.is = { ...n.is, trusts: record() };
            break;
          case 2:
            if (n.live && n.is.trusts.includes(meta.ca)) n.is = { ...n.is, issuer: meta.ca };
            break;
          case 3:
            if (n.live && n.voter) n.is = { ...n.is, keys: n.is.trusts };
            break;
          case 4:
            if (n.live) n.says = n.is;
            break;
          case 5:
            if (run % 5 === 0 && below(40) === 0) cancelAsked = true;
            break;
          default: {
            const settledMs = rotationSettleMs;
            const d = decideRotation({
              args: now,
              cancelAsked,
              ca: meta.ca,
              otherCa: meta.other,
              nodes,
              settledMs,
            });
            if (d.act === 'make')
              [meta, now] = [
                { ca: a, other: b },
                { ...now, to: b },
              ];
            if (d.act === 'sign') meta = { ca: b, other: a };
            if (d.act === 'drop') meta = { ca: b, other: null };
            if (d.act === 'undo') meta = { ca: a, other: null };
            if (d.end !== null) {
              ends++;
              i = 1_500;
            }
          }
        }
        const here = nodes.filter((x) => x.live);
        for (const x of here)
          for (const y of here)
            if (!x.is.trusts.includes(y.is.issuer)) {
              t.fail(`run ${run}: ${x.id} does not know ${y.id}`);
              return;
            }
      }
    }
    t.ok(ends > 100, `${ends} of 200 came to their end`);
  },
);
