import { Argument, type Command } from 'commander';
import type { ApiClient } from './client.js';
import type { Io } from './io.js';
import { contextsOf } from './session.js';

const scripts: Readonly<Record<string, string>> = {
  bash: `_flotilla() {
  local IFS=$'\\n'
  COMPREPLY=($(flotilla __complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _flotilla flotilla
`,
  zsh: `#compdef flotilla
_flotilla() {
  local -a found
  found=("\${(@f)$(flotilla __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  [[ -n "$found" ]] && compadd -a found || _files
}
compdef _flotilla flotilla
`,
  fish: `complete -c flotilla -a '(flotilla __complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
`,
};

/** Names of the objects a command takes, asked of the cluster; a completion that fails stays silent. */
const names: Readonly<Record<string, (c: ApiClient) => Promise<readonly string[]>>> = {
  vm: async (c) => (await c.call('vmList', { query: { fields: 'name' } })).items.map((v) => v.name),
  node: async (c) => (await c.call('nodeList', { query: {} })).items.map((n) => n.id),
  image: async (c) => (await c.call('imageList', { query: {} })).items.map((i) => i.name),
  pool: async (c) => (await c.call('poolList', { query: {} })).items.map((p) => p.name),
  network: async (c) => (await c.call('networkList', { query: {} })).items.map((n) => n.name),
  class: async (c) => (await c.call('classList', {})).items.map((k) => k.name),
  vapp: async (c) => (await c.call('vappList', { query: {} })).items.map((v) => v.name),
  template: async (c) => (await c.call('templateList', {})).items.map((k) => k.name),
  rule: async (c) => (await c.call('ruleList', {})).items.map((r) => r.name),
  op: async (c) => (await c.call('opList', { query: {} })).items.map((o) => o.id),
  user: async (c) => (await c.call('userList', { query: {} })).items.map((u) => u.name),
  serial: async (c) => (await c.call('certificateList', { query: {} })).items.map((k) => k.id),
  token: async (c) => (await c.call('tokenList', { query: {} })).items.map((k) => k.name),
};

/** Words that are not the kind of what they take. */
const kindsOf: Readonly<Record<string, string>> = {
  iso: 'image',
  console: 'vm',
  export: 'vm',
  snapshot: 'vm',
  operates: 'vm',
  'operates-vapp': 'vapp',
};

export function completionCommands(program: Command, io: Io): void {
  program
    .command('completion')
    .description('print what makes the shell complete: eval "$(flotilla completion bash)"')
    .addArgument(new Argument('<shell>').choices(Object.keys(scripts)))
    .action((shell: string) => {
      io.terminal.out((scripts[shell] ?? '').trimEnd());
    });
  program
    .command('__complete', { hidden: true })
    .argument('[words...]')
    .action(async (words: string[]) => {
      const found = await candidates(program, io, words);
      if (found.length > 0) io.terminal.out(found.join('\n'));
    });
}

async function candidates(program: Command, io: Io, words: readonly string[]): Promise<string[]> {
  const last = words.at(-1) ?? '';
  let at = program;
  const path: string[] = [];
  for (const w of words.slice(0, -1)) {
    const next = at.commands.find((c) => c.name() === w || c.aliases().includes(w));
    if (next === undefined) continue;
    at = next;
    path.push(next.name());
  }
  const option = at.options.find((o) => o.long === words.at(-2) || o.short === words.at(-2));
  const choices = option?.argChoices;
  const about = path[0] === 'wait' ? path[1] : path[0];
  const kind = option?.required === true ? option.long?.replace(/^--/, '') : about;
  let all: readonly string[];
  if (choices !== undefined) all = choices;
  else if (last.startsWith('-')) all = [...at.options, ...program.options].flatMap((o) => o.long ?? []);
  else if (at.commands.length > 0) all = at.commands.map((c) => c.name()).filter((n) => !n.startsWith('_'));
  else if (kind === 'context') all = (await contextsOf(io.terminal.env)).map((c) => c.name);
  else all = await namesOf(io, kindsOf[kind ?? ''] ?? kind ?? '');
  return all.filter((n) => n.startsWith(last)).sort();
}

async function namesOf(io: Io, kind: string): Promise<readonly string[]> {
  try {
    return (await names[kind]?.(await io.client())) ?? [];
  } catch {
    return [];
  }
}
