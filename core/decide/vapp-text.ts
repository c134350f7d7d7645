import { FlotillaError } from '../domain/error.js';
import type { Vapp } from '../domain/vapp.js';
import type { CloudInit, VmSpec } from '../domain/vm.js';

/** `@{name}` in the user data of a member; `@@{` stands for `@{`. */
const reference = /@(@?)\{([^{}\s]{1,160})\}/g;

/** What a member's user data can refer to. */
export interface VappTold {
  readonly vapp: Vapp;
  /** Values of secret properties. */
  readonly secrets: Readonly<Record<string, string | number | boolean>>;
  spec(vm: string): VmSpec | undefined;
}

/** Names that a text refers to. */
export const referencesIn = (text: string): string[] =>
  [...text.matchAll(reference)].flatMap((m) => (m[1] === '' ? [m[2] ?? ''] : []));

/** Whether a name is a property, `vapp.name`, or `address` or `name` of a member. */
export function refersTo(
  v: {
    readonly properties: readonly Pick<Vapp['properties'][number], 'name'>[];
    readonly members: readonly Pick<Vapp['members'][number], 'name' | 'leaving'>[];
  },
  name: string,
): boolean {
  if (name === 'vapp.name' || v.properties.some((p) => p.name === name)) return true;
  const [member, what, ...more] = name.split('.');
  return (
    more.length === 0 &&
    (what === 'address' || what === 'name') &&
    v.members.some((m) => m.name === member && !m.leaving)
  );
}

function valueOf(t: VappTold, name: string): string | undefined {
  if (name === 'vapp.name') return t.vapp.name;
  const p = t.vapp.properties.find((x) => x.name === name);
  if (p !== undefined) {
    const value = p.secret ? t.secrets[name] : (p.value ?? p.default);
    return value === undefined || value === null ? '' : String(value);
  }
  const [member, what] = name.split('.');
  const vm = t.vapp.members.find((m) => m.name === member)?.vm;
  const spec = vm === undefined ? undefined : t.spec(vm);
  if (spec === undefined) return undefined;
  if (what === 'name') return spec.name;
  return what === 'address' ? (spec.nics.find((n) => n.address !== null)?.address ?? '') : undefined;
}

/**
 * The user data that a member's guest is told: its vApp's properties and the other members' addresses in place of what
 * refers to them. Its record keeps the text as it was written: secrets are in none.
 *
 * @throws FlotillaError `not-found`: it refers to what there is not
 */
export function told(ci: CloudInit, who: string, t: VappTold): CloudInit {
  if (ci.userData === null) return ci;
  const userData = ci.userData.replace(reference, (all, escaped: string, name: string) => {
    if (escaped !== '') return all.slice(1);
    const value = valueOf(t, name);
    if (value !== undefined) return value;
    throw new FlotillaError(
      'not-found',
      `${who} asks for @{${name}}, and its vApp "${t.vapp.name}" has none`,
      {
        hint: 'Name a property, MEMBER.address, MEMBER.name or vapp.name; @@{ stands for @{ itself.',
      },
    );
  });
  return { ...ci, userData };
}

/** Whether a guest's text needs a look at the secrets. */
export const refersToSecret = (ci: CloudInit, v: Vapp): boolean =>
  referencesIn(ci.userData ?? '').some((n) => v.properties.some((p) => p.secret && p.name === n));
