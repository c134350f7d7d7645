/** A sector, which all places are told in. */
export const sector = 512;
export const entriesPerTable = 512;
/** A grain's marker: where it belongs, and how long it is. */
const markerBytes = 12;

/** What the markers between the grains introduce. */
const kinds = { end: 0, table: 1, directory: 2, footer: 3 } as const;

/** A piece of the disk as it is stored: zlib's format, `grainBytes` when unpacked, but at the disk's end. */
export interface Grain {
  readonly index: number;
  readonly data: Buffer;
}

export interface StreamedVmdk {
  readonly virtualSizeBytes: number;
  readonly grainBytes: number;
  /** Where the first marker stands. */
  readonly startBytes: number;
  /** Tables that stand before the grains, as QEMU writes them; null: behind them. */
  readonly tables: { readonly from: number } | null;
}

/** zlib's worst case is far below. */
const packedBytesMax = (grainBytes: number): number => grainBytes + grainBytes / 8 + sector;

/** What is wrong with the data, in words. */
export class VmdkFault extends Error {}

/**
 * Takes the grains out of a stream-optimised vmdk as its bytes come. What its tables say of places in the file is not
 * used; that they name as many grains as came is checked.
 */
export class VmdkReader {
  readonly #facts: StreamedVmdk;
  readonly #grains: number;
  #rest: Buffer = Buffer.alloc(0);
  /** Of the first byte of `rest`. */
  #at = 0;
  /** Bytes to be passed over. */
  #skip: number;
  /** Where grain tables stand: their entries are counted as they pass. */
  #tables: { readonly from: number; readonly to: number };
  /** They stand there only if this says so: where the first of the tables before the grains begins, in sectors. */
  #first: number | null = null;
  #seen = 0;
  #named = 0;
  #ended = false;

  constructor(facts: StreamedVmdk) {
    this.#facts = facts;
    this.#grains = Math.ceil(facts.virtualSizeBytes / facts.grainBytes);
    this.#skip = facts.startBytes;
    this.#tables = { from: 0, to: 0 };
    if (facts.tables !== null) {
      const tables = Math.ceil(this.#grains / entriesPerTable);
      const from = facts.tables.from + Math.ceil((tables * 4) / sector) * sector;
      this.#tables = { from, to: from + tables * entriesPerTable * 4 };
    }
  }

  /** Longest that {@link rest} gets: a grain of which the end is missing. */
  static restBytesMax({ grainBytes }: StreamedVmdk): number {
    return packedBytesMax(grainBytes) + 2 * sector;
  }

  /** What of the bytes so far was not used yet: the next ones begin with it. */
  get rest(): Buffer {
    return this.#rest;
  }

  /** @param bytes - `rest` and what follows it; looked at until the next call @throws VmdkFault */
  *read(bytes: Buffer): Generator<Grain> {
    this.#rest = bytes;
    for (;;) {
      if (this.#skip > 0) {
        // Entries are never cut.
        const length = Math.min(this.#skip, this.#rest.length - (this.#rest.length % 4));
        this.#count(length);
        this.#skip -= length;
        this.#eat(length);
        if (this.#skip > 0) return;
      }
      if (this.#rest.length < sector) return;
      const size = this.#rest.readUInt32LE(8);
      if (this.#ended) {
        // Behind the end there may be padding; it says nothing.
        this.#skip = sector;
      } else if (size === 0) this.#marker();
      else {
        const grain = this.#grain(size);
        if (grain === null) return;
        yield grain;
      }
    }
  }

  /** @throws VmdkFault: it was cut off */
  end(): void {
    const whole = this.#skip === 0 && this.#rest.length === 0;
    if (!whole || (this.#facts.tables === null && !this.#ended))
      throw new VmdkFault('it ends in the middle of its data');
    const known = this.#facts.tables === null || this.#first === this.#tables.from / sector;
    if (known && this.#named !== this.#seen)
      throw new VmdkFault(`its tables name ${this.#named} grains, and ${this.#seen} are there`);
  }

  #eat(length: number): void {
    this.#rest = this.#rest.subarray(length);
    this.#at += length;
  }

  #marker(): void {
    const sectors = this.#rest.readBigUInt64LE(0);
    const kind = this.#rest.readUInt32LE(12);
    if (sectors > 0xffff_ffffn) throw new VmdkFault(`the marker at byte ${this.#at} is impossible`);
    if (kind === kinds.end) this.#ended = true;
    else if (kind !== kinds.table && kind !== kinds.directory && kind !== kinds.footer)
      throw new VmdkFault(`there is a marker of unknown kind ${kind} at byte ${this.#at}`);
    this.#eat(sector);
    this.#skip = kind === kinds.end ? 0 : Number(sectors) * sector;
    if (kind === kinds.table && this.#facts.tables === null)
      this.#tables = { from: this.#at, to: this.#at + this.#skip };
  }

  /** @returns null: it is not all here yet */
  #grain(size: number): Grain | null {
    const { grainBytes } = this.#facts;
    const lba = Number(this.#rest.readBigUInt64LE(0));
    const index = (lba * sector) / grainBytes;
    if (!Number.isInteger(index) || index >= this.#grains)
      throw new VmdkFault(`the grain at byte ${this.#at} belongs to no place of the disk`);
    if (size > packedBytesMax(grainBytes))
      throw new VmdkFault(`the grain at byte ${this.#at} is longer than what it holds`);
    const length = Math.ceil((markerBytes + size) / sector) * sector;
    if (this.#rest.length < length) return null;
    const data = this.#rest.subarray(markerBytes, markerBytes + size);
    this.#eat(length);
    this.#seen += 1;
    return { index, data };
  }

  /** Entries of grain tables among the next bytes; 0 and 1 mean that there is no grain. */
  #count(length: number): void {
    const directory = this.#facts.tables === null ? -1 : this.#facts.tables.from - this.#at;
    if (directory >= 0 && directory < length) this.#first = this.#rest.readUInt32LE(directory);
    const from = Math.max(0, this.#tables.from - this.#at);
    const to = Math.min(length, this.#tables.to - this.#at);
    for (let p = from; p < to; p += 4) if (this.#rest.readUInt32LE(p) > 1) this.#named += 1;
  }
}
