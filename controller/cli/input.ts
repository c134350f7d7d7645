import { parse as parseYaml } from 'yaml';
import { FlotillaError } from '../../core/domain/error.js';
import { parseSize } from '../../core/domain/units.js';
import { readText } from './session.js';
import type { Io } from './io.js';
import { classSettingSchema, type ClassSetting } from '../../core/domain/service-class.js';

const MiB = 1024 * 1024;

/** Largest spec file, characters; the API takes no more either. */
const specCharsMax = 1024 * 1024;

const usage = (message: string, hint: string): FlotillaError =>
  new FlotillaError('bad-input', message, { hint });

/** Memory as people write it, in MiB; a plain number is MiB. @throws FlotillaError `bad-input` */
export function memoryMiB(text: string): number {
  if (/^\d+$/.test(text)) return Number(text);
  const bytes = parseSize(text, 'The memory');
  if (bytes % MiB !== 0) throw usage(`The memory "${text}" is not a whole number of MiB`, 'e.g. 512M or 2G.');
  return bytes / MiB;
}

export function wholeNumber(text: string): number {
  if (!/^-?\d{1,15}$/.test(text)) throw usage(`"${text.slice(0, 40)}" is not a whole number`, 'e.g. 2');
  return Number(text);
}

/** Collects an option given several times. */
export const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];

/**
 * Takes `key=value,key=value` apart. A first part without `=` belongs to `first`.
 *
 * @throws FlotillaError `bad-input`
 */
export function pairs(text: string, first: string, known: readonly string[]): Record<string, string> {
  const out: Record<string, string> = {};
  text.split(',').forEach((part, i) => {
    const eq = part.indexOf('=');
    const key = eq === -1 && i === 0 ? first : part.slice(0, eq === -1 ? undefined : eq).trim();
    const value = eq === -1 && i === 0 ? part : part.slice(eq + 1);
    if ((eq === -1 && i > 0) || !known.includes(key) || key in out)
      throw usage(
        `"${part.slice(0, 60)}" is not understood in "${text.slice(0, 80)}"`,
        `Known: ${known.join(', ')}.`,
      );
    out[key] = value;
  });
  return out;
}

/** `--disk 10G,pool=fast,name=root,image=debian,mode=linked`. */
export function diskOf(text: string): Record<string, unknown> {
  const p = pairs(text, 'size', ['size', 'pool', 'name', 'bus', 'format', 'image', 'mode', 'replicas']);
  const { size, replicas, ...others } = p;
  const rest = { ...others, ...(replicas === undefined ? {} : { replicas: wholeNumber(replicas) }) };
  return size === undefined ? rest : { ...rest, sizeBytes: parseSize(size, 'The disk’s size') };
}

/** `--nic lan,address=10.0.0.7,mac=…,model=virtio`; address `none`: none from the cluster. */
export function nicOf(text: string): Record<string, unknown> {
  const { address, ...rest } = pairs(text, 'network', ['network', 'address', 'mac', 'model']);
  return address === undefined ? rest : { ...rest, address: address === 'none' ? null : address };
}

/** `--grow-disk root=20G`. */
export function growOf(text: string): { disk: string; sizeBytes: number } {
  const eq = text.lastIndexOf('=');
  if (eq < 1) throw usage(`"${text.slice(0, 60)}" is not DISK=SIZE`, 'e.g. --grow-disk root=20G');
  return { disk: text.slice(0, eq), sizeBytes: parseSize(text.slice(eq + 1), 'The disk’s size') };
}

/**
 * Reads a spec of YAML or JSON; `-` is the standard input. Sizes may have units there: `size: 10G` stands for
 * `sizeBytes`, `memory: 2G` for `memoryMiB`.
 *
 * @throws FlotillaError `bad-input`
 */
export async function specOf(io: Io, file: string): Promise<Record<string, unknown>> {
  const text = file === '-' ? await io.stdin() : await readText(file, 'The spec');
  if (text.length > specCharsMax) throw usage('The spec is too large', `At most ${specCharsMax} characters.`);
  let value: unknown;
  try {
    value = parseYaml(text, { maxAliasCount: 20 });
  } catch (cause) {
    throw new FlotillaError('bad-input', `The spec ${file} is neither YAML nor JSON`, {
      hint: 'See the examples in docs/cli.md.',
      cause,
    });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw usage(`The spec ${file} is not an object`, 'e.g. "name: web" on its first line.');
  return withUnits(value) as Record<string, unknown>;
}

function withUnits(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withUnits);
  if (typeof value !== 'object' || value === null) return value;
  const out: Record<string, unknown> = {};
  for (const [k, v] of Object.entries(value)) {
    if (k === 'size') out['sizeBytes'] = typeof v === 'string' ? parseSize(v) : v;
    else if (k === 'memory') out['memoryMiB'] = typeof v === 'string' ? memoryMiB(v) : v;
    else if (k === 'sizeBytes' && typeof v === 'string') out[k] = parseSize(v);
    else if (k === 'memoryMiB' && typeof v === 'string') out[k] = memoryMiB(v);
    else out[k] = withUnits(v);
  }
  return out;
}

/** A setting by its name as the API has it. */
export function settingOf(name: string): ClassSetting {
  const r = classSettingSchema.safeParse(name);
  if (r.success) return r.data;
  throw new FlotillaError('bad-input', `"${name.slice(0, 60)}" is no setting of classes`, {
    hint: `There are: ${classSettingSchema.options.join(', ')}.`,
  });
}
