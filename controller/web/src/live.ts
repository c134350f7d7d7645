import { useSyncExternalStore } from 'react';
import type {
  ClusterView,
  ImageView,
  NetworkView,
  NodeView,
  OpView,
  PoolView,
  VappView,
  VmRow,
} from '../../../core/wire/rest';
import { EventReader, pathOf, type SentEvent } from '../../../core/wire/rest-call';
import { restStreams } from '../../../core/wire/rest';

export interface Kinds {
  readonly node: NodeView;
  readonly vm: VmRow;
  readonly image: ImageView;
  readonly pool: PoolView;
  readonly network: NetworkView;
  readonly op: OpView;
  readonly vapp: VappView;
}
export type Kind = keyof Kinds;
export const kinds: readonly Kind[] = ['node', 'vm', 'image', 'pool', 'network', 'op', 'vapp'];

/** `lost`: nothing came for longer than the server's heartbeat; what is shown may be old. */
export type LinkState = 'connecting' | 'live' | 'lost';

/** The server's heartbeat is 15 s; a second one missed, and the connection is taken for dead. */
const silenceMs = 20_000;
const againMs = 1_000;
/** Changes are drawn together, ms: many VMs changing at once are one picture. */
const drawMs = 100;

/** Whoever draws hears of changes from here. */
class Bell {
  private readonly ears = new Set<() => void>();
  readonly on = (ear: () => void): (() => void) => {
    this.ears.add(ear);
    return () => this.ears.delete(ear);
  };
  ring(): void {
    for (const ear of this.ears) ear();
  }
}

/** The objects of one kind, as the server last told them. */
class Table<T extends { readonly id: string; readonly name?: string }> {
  readonly bell = new Bell();
  private readonly byId = new Map<string, T>();
  private sorted: readonly T[] | null = [];

  /** By name. The same array as long as nothing changed. */
  readonly all = (): readonly T[] => {
    this.sorted ??= [...this.byId.values()].sort((a, b) => collator.compare(nameOf(a), nameOf(b)));
    return this.sorted;
  };
  get(id: string): T | undefined {
    return this.byId.get(id);
  }
  put(item: T): void {
    this.byId.set(item.id, item);
    this.sorted = null;
  }
  gone(id: string): void {
    this.byId.delete(id);
    this.sorted = null;
  }
  replace(items: readonly T[]): void {
    this.byId.clear();
    for (const i of items) this.byId.set(i.id, i);
    this.sorted = null;
  }
}

const collator = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });
const nameOf = (v: { readonly id: string; readonly name?: string }): string => v.name ?? v.id;

type Tables = { readonly [K in Kind]: Table<Kinds[K]> };

/** The cluster as the event stream tells it: one connection feeds the whole page. */
class Live {
  readonly tables: Tables = {
    node: new Table<NodeView>(),
    vm: new Table<VmRow>(),
    image: new Table<ImageView>(),
    pool: new Table<PoolView>(),
    network: new Table<NetworkView>(),
    op: new Table<OpView>(),
    vapp: new Table<VappView>(),
  };
  readonly clusterBell = new Bell();
  readonly linkBell = new Bell();
  cluster: ClusterView | null = null;
  link: LinkState = 'connecting';
  private lastId = '';
  private readonly changed = new Set<Bell>();
  private drawing = false;

  /** Follows the stream for as long as the page is open. */
  async follow(): Promise<never> {
    for (;;) {
      try {
        await this.once();
      } catch {
        // A connection that broke and one that was refused look alike from here; the next try tells.
      }
      this.setLink('lost');
      await new Promise((go) => setTimeout(go, againMs));
    }
  }

  private async once(): Promise<void> {
    const stop = new AbortController();
    let timer = setTimeout(() => stop.abort(), silenceMs);
    const res = await fetch(pathOf(restStreams.events, {}, {}), {
      headers: {
        accept: 'text/event-stream',
        ...(this.lastId === '' ? {} : { 'last-event-id': this.lastId }),
      },
      signal: stop.signal,
    });
    if (res.status === 401) {
      location.assign('/login');
      return;
    }
    if (!res.ok || res.body === null) throw new Error(`status ${res.status}`);
    const reader = new EventReader();
    const text = res.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await text.read();
      clearTimeout(timer);
      if (done) return;
      timer = setTimeout(() => stop.abort(), silenceMs);
      for (const e of reader.push(value)) this.take(e);
      this.setLink('live');
    }
  }

  private take(e: SentEvent): void {
    this.lastId = e.id;
    if (e.kind === 'snapshot') {
      const all = JSON.parse(e.data) as { cluster: ClusterView } & { [K in Kind as `${K}s`]: Kinds[K][] };
      this.cluster = all.cluster;
      for (const kind of kinds) {
        (this.tables[kind] as Table<Kinds[Kind]>).replace(all[`${kind}s`]);
        this.draw(this.tables[kind].bell);
      }
      this.draw(this.clusterBell);
      return;
    }
    if (e.kind === 'cluster') {
      this.cluster = JSON.parse(e.data) as ClusterView;
      this.draw(this.clusterBell);
      return;
    }
    const gone = e.kind.endsWith('-gone');
    const kind = (gone ? e.kind.slice(0, -5) : e.kind) as Kind;
    // A newer server may tell of kinds this page does not know.
    if (!kinds.includes(kind)) return;
    const table = this.tables[kind] as Table<Kinds[Kind]>;
    if (gone) table.gone((JSON.parse(e.data) as { id: string }).id);
    else table.put(JSON.parse(e.data) as Kinds[Kind]);
    this.draw(table.bell);
  }

  private draw(bell: Bell): void {
    this.changed.add(bell);
    if (this.drawing) return;
    this.drawing = true;
    setTimeout(() => {
      this.drawing = false;
      const bells = [...this.changed];
      this.changed.clear();
      for (const b of bells) b.ring();
    }, drawMs);
  }

  private setLink(link: LinkState): void {
    if (this.link === link) return;
    this.link = link;
    this.linkBell.ring();
  }
}

export const live = new Live();

/** All objects of a kind, by name, drawn again when one changes. */
export function useAll<K extends Kind>(kind: K): readonly Kinds[K][] {
  const table = live.tables[kind];
  return useSyncExternalStore(table.bell.on, table.all);
}

export function useOne<K extends Kind>(kind: K, id: string): Kinds[K] | undefined {
  const table = live.tables[kind];
  return useSyncExternalStore(table.bell.on, () => table.get(id));
}

/** Null until the first snapshot has come. */
export const useCluster = (): ClusterView | null =>
  useSyncExternalStore(live.clusterBell.on, () => live.cluster);

export const useLink = (): LinkState => useSyncExternalStore(live.linkBell.on, () => live.link);
