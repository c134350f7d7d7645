import type { ThinPools } from '../lvm/thin.js';
import type { Files } from './files.js';
import type { PoolGuard } from './guard.js';
import type { Worker } from './layout.js';
import type { QemuImg } from './qemu-img.js';
import type { Tool } from './tool.js';
import type { Turns } from './turn.js';

/** What the work on pools is made of; one set per agent, wired in volumes.ts. */
export interface Parts {
  readonly worker: Worker;
  readonly files: Files;
  readonly run: Tool;
  readonly guard: PoolGuard;
  readonly qemuImg: QemuImg;
  readonly thin: ThinPools;
  /** Keys: `disk <id>`, `image <id>`. A disk's turn may take an image's, never the other way round. */
  readonly turns: Turns;
}
