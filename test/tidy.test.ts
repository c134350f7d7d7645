import { execFileSync } from 'node:child_process';
import { lstatSync, readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';

/** House rules that a program can check, so that review is for ideas. */

const tracked = execFileSync('git', ['ls-files', '-z'], { encoding: 'utf8' })
  .split('\0')
  .filter((f) => f !== '' && lstatSync(f, { throwIfNoEntry: false })?.isFile() === true);
const sources = tracked.filter((f) => f.endsWith('.ts'));
const read = (f: string): string => readFileSync(f, 'utf8');

/** What a source file imports: packages by name, own files by path from the root. */
function imports(file: string): string[] {
  const found = read(file).matchAll(
    /^(?:import|export)\b[^;'"]*?\bfrom\s*['"]([^'"\n]+)['"]|^import\s*['"]([^'"\n]+)['"]|\bimport\(\s*['"]([^'"\n]+)['"]/gm,
  );
  return [...found].map(([, a, b, c]) => {
    const spec = a ?? b ?? c ?? '';
    return spec.startsWith('.') ? path.normalize(path.join(path.dirname(file), spec)) : spec;
  });
}

await t.test('core imports itself and zod, nothing with effects', async (t) => {
  const core = sources.filter((f) => f.startsWith('core/'));
  t.ok(core.length > 10);
  for (const f of core) {
    for (const i of imports(f)) t.ok(i === 'zod' || i.startsWith('core/'), `${f} imports ${i}`);
    const code = read(f).replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '');
    t.notMatch(
      code,
      /\b(?:Date\.now|new Date\(\)|Math\.random|process\.|setTimeout|console\.)/,
      `${f} has an effect`,
    );
  }
});

await t.test(
  'agent never imports controller; controller imports of agent only the shared adapters',
  async (t) => {
    const shared = /^agent\/(ledger|radio|pki|http|ovf|snapshot\.js|env\.js)/;
    for (const f of sources) {
      for (const i of imports(f)) {
        if (f.startsWith('agent/')) t.notOk(i.startsWith('controller/'), `${f} imports ${i}`);
        if (f.startsWith('controller/') && i.startsWith('agent/')) t.match(i, shared, `${f} imports ${i}`);
      }
    }
  },
);

await t.test('one word per thing', async (t) => {
  // The word that is not used, what is said instead, and where it is the word of the thing adapted (ip's bridges).
  const words: [RegExp, string, RegExp][] = [
    [/\bhypervisor host\b/i, 'node', /^$/],
    [/\bleader election\b/i, 'lead/<role>', /^$/],
    [/\b(?:virtual machine|virtual machines)\b/i, 'VM', /^(LICENSE|README)/],
    [/\bmaster\b/i, 'owner, leader', /^agent\/net\//],
    [/\bslave\b/i, 'standby, replica', /^$/],
  ];
  const files = tracked.filter((f) => /^(core|agent|controller|docs|README|ARCHITECTURE|HACKING)/.test(f));
  for (const f of files.filter((x) => /\.(ts|md)$/.test(x))) {
    for (const [bad, good, except] of words) {
      if (!except.test(f)) t.notMatch(read(f), bad, `${f}: say "${good}"`);
    }
  }
});

await t.test('no path of one machine, no registry host, no skipped test', async (t) => {
  const text = tracked.filter((f) => !/\.(png|qcow2|bin|raw|gz|lock)$/.test(f));
  for (const f of text) {
    const s = read(f);
    if (f !== 'test/tidy.test.ts') {
      t.notMatch(s, /(?:^|[^\w.])\/(?:work|farm)\/[a-z]/, `${f} names a path of one machine`);
      t.notMatch(
        s,
        /registry\.npmjs|registry\.yarnpkg|(?:deb|security)\.debian\.org|deb\.nodesource/,
        `${f} names a registry host`,
      );
    }
    if (f.startsWith('test/') && f.endsWith('.ts') && f !== 'test/tidy.test.ts') {
      t.notMatch(s, /\bt\.(?:skip|todo)\(|\bskip: *true/, `${f} skips a test`);
    }
  }
});

await t.test('the lock file names no addresses, package.json pins exact versions', async (t) => {
  t.notMatch(read('package-lock.json'), /"resolved"/);
  const p = JSON.parse(read('package.json')) as Record<string, Record<string, string>>;
  for (const [name, version] of Object.entries({ ...p['dependencies'], ...p['devDependencies'] })) {
    t.match(version, /^\d+\.\d+\.\d+$/, name);
  }
});

await t.test('every source file is of a size that can be read', async (t) => {
  // STYLE: most under 150 lines. A file above the bound is two things.
  for (const f of sources.filter((x) => /^(core|agent|controller)\//.test(x))) {
    t.ok(read(f).split('\n').length <= 900, `${f} is too long`);
  }
});
