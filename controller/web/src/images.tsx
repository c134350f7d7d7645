import { TextInput } from '@mantine/core';
import { useState, type ReactNode } from 'react';
import { formatSize } from '../../../core/domain/units';
import { call, newKey, saw } from './api';
import { fieldFits, FilterBar, textFits, useFilter } from './filter';
import { useAll } from './live';
import { Confirm, FormDialog, Page, Rows, State } from './parts';
import { May } from './may';

export function ImagesPage(): ReactNode {
  const all = useAll('image');
  const filter = useFilter('/images');
  const { q } = filter;
  const images = all.filter(
    (i) =>
      fieldFits(q, 'state', i.state) && fieldFits(q, 'kind', i.format) && textFits(q, i.name, i.poolName),
  );
  return (
    <Page
      kind="What disks are made from"
      name="Images"
      actions={
        <May role="operator">
          <FetchImage />
        </May>
      }
    >
      {all.length > 0 && (
        <FilterBar
          filter={filter}
          text="Name or pool"
          fields={[
            { name: 'state', label: 'State', options: [...new Set(all.map((i) => i.state))].sort() },
            { name: 'kind', label: 'Kind', options: [...new Set(all.map((i) => i.format))].sort() },
          ]}
        />
      )}
      <Rows
        label="Images"
        head={['Image', 'State', 'Kind', 'Stored', 'Disk size', 'Pool', '']}
        none={
          all.length > 0
            ? 'No image is like that.'
            : 'There is no image yet: fetch one, or upload it by flotilla image import FILE.'
        }
        rows={images.map((i) => ({
          key: i.id,
          cells: [
            i.name,
            <>
              <State of={i.state} /> {i.error?.message}
            </>,
            i.format,
            formatSize(i.sizeBytes),
            formatSize(i.virtualSizeBytes),
            `${i.poolName ?? '?'}${i.node === null ? '' : ` on ${i.node}`}`,
            <May role="operator">
              <Confirm
                label="Delete"
                danger
                title={`Delete image "${i.name}"?`}
                says="Disks that are full copies of it stay; linked ones keep it from being deleted."
                yes="Delete"
                act={async () => saw('op', (await call('imageDelete', { params: { image: i.id } })).op)}
              />
            </May>,
          ],
        }))}
      />
    </Page>
  );
}

function FetchImage(): ReactNode {
  const [f, setF] = useState({ name: '', url: '', sha256: '' });
  const [key, setKey] = useState(newKey);
  const set = (part: Partial<typeof f>): void => {
    setF({ ...f, ...part });
    setKey(newKey());
  };
  const fetchIt = async (): Promise<void> => {
    const body = { name: f.name, url: f.url, ...(f.sha256 === '' ? {} : { sha256: f.sha256 }) };
    saw('op', (await call('imageCreate', { body }, { key })).op);
  };
  return (
    <FormDialog label="Fetch an image" yes="Fetch" act={fetchIt}>
      <TextInput
        label="Name"
        required
        value={f.name}
        onChange={(e) => set({ name: e.currentTarget.value })}
      />
      <TextInput
        label="Address"
        description="http or https; a node fetches it by itself."
        type="url"
        required
        value={f.url}
        onChange={(e) => set({ url: e.currentTarget.value })}
      />
      <TextInput
        label="SHA-256"
        description="Checked at the end, where it is given."
        value={f.sha256}
        onChange={(e) => set({ sha256: e.currentTarget.value })}
      />
    </FormDialog>
  );
}
