/** What becomes of a twin whose node is emptied, for people. */
export const twinGoes = (t: {
  readonly name: string;
  readonly to: string | null;
  readonly text: string;
}): string =>
  t.to === null
    ? `${t.name} would run on without its twin, unprotected: ${t.text}`
    : `${t.name} would get another twin on ${t.to}, and is unprotected until then`;
