import { refersToSecret, told } from '../../core/decide/vapp-text.js';
import type { VmSpec } from '../../core/domain/vm.js';
import { ledger as kinds, readRecord } from '../../core/wire/ledger-keys.js';
import type { Ledger } from '../ledger/ledger.js';
import type { Snapshot } from '../snapshot.js';

/**
 * A VM as its seed is made: with what its vApp tells it. Secrets are read for the moment.
 *
 * @throws FlotillaError `not-found`: it asks for what there is not; `ledger-unavailable`
 */
export async function seedSpec(
  ledger: Pick<Ledger, 'get'>,
  s: Pick<Snapshot, 'vapps' | 'specs'>,
  spec: VmSpec,
): Promise<VmSpec> {
  const vapp = spec.vapp === undefined ? undefined : s.vapps.get(spec.vapp.id)?.value;
  if (vapp === undefined || spec.cloudInit === null) return spec;
  const key = kinds.vappSecret.key(vapp.id);
  const e = refersToSecret(spec.cloudInit, vapp) ? await ledger.get(key) : null;
  const secrets = e === null ? {} : readRecord(kinds.vappSecret, key, e.value).values;
  const cloudInit = told(spec.cloudInit, `VM "${spec.name}"`, {
    vapp,
    secrets,
    spec: (vm) => s.specs.get(vm)?.value,
  });
  return { ...spec, cloudInit };
}
