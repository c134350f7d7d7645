import { createHash } from 'node:crypto';
import { FileJournal } from '../../../../agent/journal/journal.js';
import type { JournalEntry } from '../../../../core/domain/ha.js';

/** A VM's id from a number. */
export const vmId = (n: number): string => {
  const h = createHash('sha256').update(String(n)).digest('hex');
  return `${h.slice(0, 8)}-${h.slice(8, 12)}-4${h.slice(13, 16)}-8${h.slice(17, 20)}-${h.slice(20, 32)}`;
};

export const entry = (n: number, gen: number, o: Partial<JournalEntry> = {}): JournalEntry => ({
  vm: vmId(n),
  gen,
  role: 'owner',
  owner: 'n1',
  epoch: 1,
  ...o,
});

// As a program: writes for ever, and says each generation only after it is durable. Somebody kills it.
const [, program, file, vms, first] = process.argv;
if (program?.endsWith('journal/writer.js') && file !== undefined) {
  const journal = new FileJournal(file);
  await journal.start();
  for (let gen = Number(first); ; gen++) {
    const all = Array.from({ length: Number(vms) }, (_, n) => journal.record(entry(n, gen)));
    await Promise.all(all);
    process.stdout.write(`${gen}\n`);
  }
}
