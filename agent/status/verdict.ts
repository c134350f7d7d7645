import { presence } from '../../core/domain/node.js';
import { vmName } from './ha-section.js';
import { ownLines, type StatusView } from './view.js';
import { count, duration, list } from './words.js';

/** Days before its end when a certificate needs a hand. */
const certificateWarnDays = 14;
/** A pool above this share is as good as full. */
const poolFullShare = 0.9;
const dayMs = 86_400_000;

export type Level = 'ok' | 'warn' | 'bad';

/** Is all well? In one sentence, and what needs a hand, worst first. */
export interface Verdict {
  readonly level: Level;
  readonly sentence: string;
  readonly needs: readonly { readonly level: 'warn' | 'bad'; readonly text: string }[];
}

type Need = Verdict['needs'][number];
const bad = (text: string): Need => ({ level: 'bad', text });
const warn = (text: string): Need => ({ level: 'warn', text });

export function verdict(v: StatusView): Verdict {
  const needs = [
    ...ledgerNeeds(v),
    ...ownRadioNeeds(v),
    ...partNeeds(v),
    ...vmNeeds(v),
    ...haNeeds(v),
    ...peerNeeds(v),
    ...poolNeeds(v),
    ...certificateNeeds(v),
  ];
  needs.sort((a, b) => Number(b.level === 'bad') - Number(a.level === 'bad'));
  const level: Level = needs.some((n) => n.level === 'bad') ? 'bad' : needs.length > 0 ? 'warn' : 'ok';
  return { level, needs, sentence: sentence(v, level, needs.length) };
}

function sentence(v: StatusView, level: Level, needs: number): string {
  const running = [...(ownLines(v)?.vms.values() ?? [])].filter((l) => l.state.phase === 'running').length;
  const runs = `${v.node} runs ${count(running, 'VM')}`;
  if (level === 'ok') {
    const others = v.heard.length - 1;
    const hears =
      others > 0
        ? `hears ${others === 1 ? 'the other node' : others === 2 ? 'both other nodes' : `all ${others} other nodes`}`
        : 'is alone';
    return `All is well: ${runs}, ${hears} and reaches the ledger.`;
  }
  return `${count(needs, 'thing needs', 'things need')} a hand; meanwhile ${runs}.`;
}

function ledgerNeeds(v: StatusView): Need[] {
  if (v.ledger.reachable === true) return [];
  if (v.ledger.reachable === null)
    return [warn('The ledger has not answered yet: this agent has just started.')];
  const why = v.ledger.text === '' ? '' : ` (${v.ledger.text})`;
  const vms =
    v.keeper?.mode === 'ice' && v.keeper.armed.length > 0
      ? 'VMs with HA are frozen, the others go on'
      : 'Running VMs go on';
  return [bad(`The ledger cannot be reached${why}. ${vms}; nothing is started, moved or changed.`)];
}

function partNeeds(v: StatusView): Need[] {
  // Both are told of by their own lines.
  const told = new Set(['ledger', ...(ownLines(v)?.state?.pools ?? []).map((p) => `pool ${p.pool}`)]);
  return v.health
    .filter((h) => !h.ok && !told.has(h.part))
    .map((h) => bad(`${h.part}: ${h.text || 'is not well'}`));
}

function vmNeeds(v: StatusView): Need[] {
  return [...(ownLines(v)?.vms.values() ?? [])]
    .filter(({ state: s }) => s.phase === 'crashed' || s.phase === 'failed')
    .map(({ state: s }) =>
      bad(`VM ${s.name} ${s.phase === 'crashed' ? 'crashed' : 'failed'}: ${s.error?.message ?? s.reason}`),
    );
}

function haNeeds(v: StatusView): Need[] {
  const held = (v.keeper?.held ?? []).map((h) => bad(`The keeper holds VM ${vmName(v, h.vm)}: ${h.why}`));
  const bare = new Map<string, string[]>();
  for (const { state: s } of ownLines(v)?.vms.values() ?? []) {
    if (s.ha.state === 'unprotected') bare.set(s.ha.text, [...(bare.get(s.ha.text) ?? []), s.name]);
  }
  const open = [...bare].map(([text, names]) => {
    const why = text.replace(/^not protected: /, '');
    return warn(
      `${names.length === 1 ? `VM ${names[0]} is` : `VMs ${list(names)} are`} not protected${why === '' ? '' : `: ${why}`}.`,
    );
  });
  const ha = v.policy?.ha;
  return [
    ...held,
    ...open,
    ...(ha?.unsafeWithoutWatchdog === true ? [bad('Nodes without a watchdog may arm.')] : []),
    ...(ha?.paused === true ? [warn('HA is paused in the whole cluster.')] : []),
    ...(ha?.hold === true ? [warn('Failovers are held.')] : []),
  ];
}

function ownRadioNeeds(v: StatusView): Need[] {
  const own = ownLines(v);
  if (own === undefined || own.connected) return [];
  return [bad("This node's own broker does not answer: nobody hears this node until it does.")];
}

function peerNeeds(v: StatusView): Need[] {
  const by = new Map<string, string[]>();
  const add = (text: string, node: string) => by.set(text, [...(by.get(text) ?? []), node]);
  for (const h of v.heard) {
    if (h.node === v.node || v.asleep.includes(h.node)) continue;
    const p = presence(h.beatAgeMs);
    if (h.agentGone)
      add('the agent there ended without goodbye; its VMs are watched by nobody until it is back', h.node);
    else if (p === 'never-heard') add('not heard since this agent started', h.node);
    else if (p !== 'here') add(`silent for ${duration(h.beatAgeMs ?? 0)}`, h.node);
  }
  const silent = [...by].map(([text, nodes]) => warn(`${list(nodes)}: ${text}.`));
  const peers = v.heard.filter((h) => h.node !== v.node && !v.asleep.includes(h.node));
  const none = peers.length > 1 && peers.every((h) => presence(h.beatAgeMs) !== 'here');
  return none ? [bad('No other node is heard: it may be this node that is cut off.'), ...silent] : silent;
}

function poolNeeds(v: StatusView): Need[] {
  return (ownLines(v)?.state?.pools ?? []).flatMap((p) => {
    if (!p.ok) return [bad(`Pool ${p.pool}: ${p.text || 'is not well'}`)];
    const share = p.totalBytes > 0 ? 1 - p.freeBytes / p.totalBytes : 0;
    return share >= poolFullShare ? [warn(`Pool ${p.pool} is ${Math.round(share * 100)} % full.`)] : [];
  });
}

function certificateNeeds(v: StatusView): Need[] {
  if (v.certificate === null) return [];
  const leftMs = v.certificate.expiresMs - v.wallMs;
  if (leftMs <= 0) return [bad('The certificate of this node has expired: its peers refuse it.')];
  return leftMs < certificateWarnDays * dayMs
    ? [warn(`The certificate of this node expires in ${duration(leftMs)}.`)]
    : [];
}
