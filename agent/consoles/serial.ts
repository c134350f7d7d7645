import { open } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';

/** A viewer that is so far behind is dropped, bytes: the guest is not made to wait for anybody's window. */
const behindBytesMax = 1 << 20;
/** Viewers of one console. */
const viewersMax = 16;

/** Where QEMU's serial port is, and the file that has what it said. */
export interface SerialPaths {
  readonly serial: string;
  readonly serialLog: string;
}

/**
 * The serial consoles of this node's machines. QEMU's socket takes one client at a time, so one connection per machine
 * is shared: all viewers see the same and may type. It is open only while somebody looks.
 */
export class SerialConsoles {
  private readonly lines = new Map<string, Promise<Line>>();

  /**
   * Joins a viewer to a machine's console, with the last `history` bytes first.
   *
   * @returns a function that joins `viewer`, which ends when the machine's end does
   * @throws the socket's error where no machine is there (`ENOENT`, `ECONNREFUSED`); RangeError: too many viewers
   */
  async open(paths: SerialPaths, history: number): Promise<(viewer: Duplex) => void> {
    const key = paths.serial;
    let opening = this.lines.get(key);
    if (opening === undefined) {
      opening = Line.open(paths, () => this.lines.delete(key));
      this.lines.set(key, opening);
      opening.catch(() => this.lines.delete(key));
    }
    const line = await opening;
    return line.seat(await tail(paths.serialLog, history));
  }

  /** Machines that somebody looks at. */
  get size(): number {
    return this.lines.size;
  }
}

/** One machine's serial port with those who look at it. */
class Line {
  private readonly socket: Socket;
  private readonly viewers = new Set<Duplex>();
  /** What came while nobody was seated, for the first viewer. */
  private early: Buffer | null = Buffer.alloc(0);
  private seats = 0;

  private constructor(socket: Socket, gone: () => void) {
    this.socket = socket;
    socket.on('data', (bytes: Buffer) => this.said(bytes));
    socket.on('drain', () => this.viewers.forEach((v) => v.resume()));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      gone();
      for (const v of this.viewers) v.end();
    });
  }

  static open(paths: SerialPaths, gone: () => void): Promise<Line> {
    return new Promise((resolve, reject) => {
      const socket = connect(paths.serial);
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new Line(socket, gone));
      });
    });
  }

  /** @param before - what the log has; it may end with what came over the socket meanwhile, which is sent once */
  seat(before: Buffer): (viewer: Duplex) => void {
    if (this.seats >= viewersMax) throw new RangeError('too many viewers');
    this.seats += 1;
    return (viewer) => {
      const early = this.early ?? Buffer.alloc(0);
      this.early = null;
      const first = Buffer.concat([before, early.subarray(overlap(before, early))]);
      if (first.length > 0) viewer.write(first);
      this.viewers.add(viewer);
      viewer.on('data', (bytes: Buffer) => {
        if (!this.socket.write(bytes)) viewer.pause();
      });
      viewer.on('end', () => viewer.end());
      viewer.on('error', () => viewer.destroy());
      viewer.on('close', () => {
        this.viewers.delete(viewer);
        this.seats -= 1;
        if (this.seats === 0) this.socket.destroy();
      });
      if (viewer.destroyed) viewer.emit('close');
      if (this.socket.destroyed) viewer.end();
    };
  }

  private said(bytes: Buffer): void {
    if (this.early !== null) this.early = Buffer.concat([this.early, bytes]).subarray(-behindBytesMax);
    for (const v of this.viewers) {
      v.write(bytes);
      if (v.writableLength > behindBytesMax) v.destroy();
    }
  }
}

/** How many of the first bytes of `b` are the last of `a`. */
export function overlap(a: Buffer, b: Buffer): number {
  for (let n = Math.min(a.length, b.length); n > 0; n--)
    if (a.subarray(a.length - n).equals(b.subarray(0, n))) return n;
  return 0;
}

/** The last bytes of a file; none where it cannot be read. */
async function tail(file: string, bytes: number): Promise<Buffer> {
  if (bytes === 0) return Buffer.alloc(0);
  try {
    await using handle = await open(file, 'r');
    const { size } = await handle.stat();
    const at = Math.max(0, size - bytes);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(Math.min(size, bytes)), 0, null, at);
    return buffer.subarray(0, bytesRead);
  } catch {
    return Buffer.alloc(0);
  }
}
