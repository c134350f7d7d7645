import t from 'tap';
import { newcomerNotes } from '../../../../core/decide/newcomer.js';

const nodes = [{ cpuModel: 'EPYC 7302P' }, { cpuModel: 'EPYC 7302P' }, { cpuModel: 'EPYC 9354' }];
const networks = [
  { name: 'lan', uplink: 'eth1', bridge: 'fl0' },
  { name: 'inner', uplink: null, bridge: 'fl1' },
];

void t.test('what fits is nothing to speak of', async (t) => {
  t.same(newcomerNotes({ cpu: 'EPYC 9354', cards: ['eth0', 'eth1'] }, nodes, networks), []);
  t.same(newcomerNotes({ cpu: 'any', cards: [] }, [], []), [], 'nor is anything, of a first node');
});

void t.test('another processor and a card that is missing are said', async (t) => {
  const notes = newcomerNotes({ cpu: 'Xeon 5412U', cards: ['eth0'] }, nodes, networks);
  t.equal(notes.length, 2);
  t.match(notes[0], /Xeon 5412U, is none that a node has \(EPYC 7302P; EPYC 9354\)/);
  t.match(notes[1], /no card eth1, which the network "lan" has/);
});
