import t from 'tap';
import { item, packageOf, read } from './read.js';

void t.test('a TPM, as each of its writers says it', (t) => {
  const tpm = (fields: Record<string, string | number>): boolean | undefined =>
    read(packageOf({ items: item(fields) })).systems[0]?.tpm;
  t.equal(tpm({ ResourceType: 34, ResourceSubType: 'vmware.vtpm' }), true, 'VMware');
  t.equal(tpm({ ResourceType: 1, ResourceSubType: 'vmware.vtpm' }), true, 'VMware, as something else');
  t.equal(tpm({ ResourceType: 34, ResourceSubType: 'other' }), false);
  t.equal(tpm({ ResourceType: 1, ResourceSubType: 'vmware.vmci' }), false);
  t.end();
});
