import t from 'tap';
import { opLeftMs } from '../../../../core/domain/op.js';

void t.test('how long an operation takes still is told only where it can be', (t) => {
  const op = { state: 'running', progress: 0.25, createdMs: 1_000, updatedMs: 11_000 } as const;
  t.equal(opLeftMs(op), 30_000);
  t.equal(opLeftMs({ ...op, progress: 1 }), 0);
  t.equal(opLeftMs({ ...op, progress: null }), null);
  t.equal(opLeftMs({ ...op, progress: 0.001 }), null, 'too little to say');
  t.equal(opLeftMs({ ...op, updatedMs: 500 }), null, 'clocks of two nodes');
  for (const state of ['queued', 'done', 'failed', 'cancelled'] as const)
    t.equal(opLeftMs({ ...op, state }), null, state);
  t.end();
});
