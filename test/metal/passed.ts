import { appendFileSync, existsSync, readFileSync } from 'node:fs';

/**
 * Scenes that have passed, for `--full`, which takes hours and may be ended at any time: a line each, with the programs.
 * Each leaves all as it was, so the next run need not do them again.
 */
export class Passed {
  readonly #file = 'build/test/full-scenes.log';
  /** Null: every scene is done. */
  readonly #programs = process.env['FULL_PROGRAMS'] ?? null;
  readonly #lines: ReadonlyMap<string, string>;
  readonly #seen = new Map<string, number>();

  constructor() {
    const text = existsSync(this.#file) ? readFileSync(this.#file, 'utf8') : '';
    const lines = text.split('\n').map((l): [string, string] => {
      const [when = '', programs = '', s = '', ...scene] = l.split(' ');
      return [`${programs} ${scene.join(' ')}`, `${when}, in ${s} s`];
    });
    this.#lines = new Map(lines);
  }

  /** Of scenes of one name the first comes first. @returns what it is called there */
  next(id: string, name: string): string {
    const n = (this.#seen.get(name) ?? 0) + 1;
    this.#seen.set(name, n);
    return `${id}, ${n}: ${name}`;
  }

  /** When that was, and how long it took; null: not yet, or with other programs. */
  when(scene: string): string | null {
    return this.#programs === null ? null : (this.#lines.get(`${this.#programs} ${scene}`) ?? null);
  }

  note(scene: string, s: number): void {
    if (this.#programs === null) return;
    appendFileSync(this.#file, `${new Date().toISOString()} ${this.#programs} ${s} ${scene}\n`);
  }
}
