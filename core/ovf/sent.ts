const MiB = 2 ** 20;

/** Files of a package that are sent to be looked into, by the ends of their names, and how large they may be. */
const kinds: readonly (readonly [RegExp, number])[] = [
  [/\.ovf$/i, 16 * MiB],
  [/\.(?:mf|cert)$/i, 4 * MiB],
  [/\.(?:xml|msg)$/i, MiB],
];

/** Whether the content of a file goes with a preview: the descriptor, lists and texts do, disks do not. */
export const goesWithPreview = (name: string, sizeBytes: number): boolean =>
  kinds.some(([end, bytesMax]) => end.test(name) && sizeBytes <= bytesMax);
