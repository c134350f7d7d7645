import { createHash } from 'node:crypto';

/** Style of the node's pages. Small on purpose: it also has to come over a bad line, from a node in trouble. */
export const css = `
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #57606a; --paper: #fff; --card: #f6f8fa; --line: #d0d7de;
  --ok: #116329; --warn: #7d4e00; --bad: #a40e26; --okback: #dafbe1; --warnback: #fff8c5; --badback: #ffebe9; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --quiet: #9ea7b3; --paper: #0d1117; --card: #161b22;
  --line: #3d444d; --ok: #56d364; --warn: #e3b341; --bad: #ff8f8f; --okback: #12261e; --warnback: #272115;
  --badback: #301b1f; --link: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main, body > header, body > footer { max-width: 76rem; margin: 0 auto; padding: .75rem 1rem; }
main.narrow { max-width: 28rem; padding-top: 12vh; }
header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; border-bottom: 1px solid var(--line); }
header form, header p { margin: 0; }
header .end { margin-left: auto; display: flex; gap: 1rem; align-items: baseline; }
h1 { font-size: 1.25rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
a { color: var(--link); }
p.quiet { margin: .25rem 0 .5rem; }
.quiet { color: var(--quiet); font-size: .9rem; }
.ok { color: var(--ok); } .warn { color: var(--warn); } .bad { color: var(--bad); }
h3 { font-size: .95rem; margin: .75rem 0 .25rem; }
.banner { margin: .75rem 0 0; padding: .6rem 1rem; border: 2px solid; border-radius: .25rem; }
.banner.bad { background: var(--badback); } .banner.warn { background: var(--warnback); }
.verdict { margin: 1rem 0 0; padding: .75rem 1rem; border-left: .4rem solid; border-radius: .25rem; }
.verdict p { margin: 0; font-size: 1.1rem; font-weight: 600; }
.verdict ul { margin: .5rem 0 0; padding-left: 1.2rem; color: var(--ink); }
.verdict.ok { background: var(--okback); } .verdict.warn { background: var(--warnback); } .verdict.bad { background: var(--badback); }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--quiet); font-weight: 600; font-size: .85rem; white-space: nowrap; }
td.n { font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.wide { overflow-x: auto; } .wide table { width: auto; } .wide th, .wide td { padding-right: 1rem; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0; font-size: .95rem; }
dt { color: var(--quiet); } dd { margin: 0; }
ul.plain { list-style: none; padding: 0; margin: 0; } ul.plain li { padding: .25rem 0; border-bottom: 1px solid var(--line); }
meter { width: 6rem; height: .9rem; vertical-align: middle; }
input, button { font: inherit; color: inherit; padding: .4rem .6rem; border: 1px solid var(--quiet); border-radius: .25rem; background: var(--card); }
form label, form input { display: block; width: 100%; margin-bottom: .5rem; } form label { width: auto; }
a.button { display: block; padding: .4rem .6rem; border: 1px solid var(--quiet); border-radius: .25rem; background: var(--card); text-align: center; }
header button { padding: 0; border: 0; background: none; color: var(--link); text-decoration: underline; cursor: pointer; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
code { font-size: .9em; }
@media (max-width: 44rem) {
  table.cards thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table.cards, table.cards tbody { display: block; }
  table.cards tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  table.cards th, table.cards td { display: block; border: 0; padding: 0; }
  table.cards td::before { content: attr(data-label) ": "; color: var(--quiet); }
  table.cards td.empty { display: none; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; }
  header .end { margin-left: 0; }
}
`;

/** Its address changes with its content, so browsers may keep it for ever. */
export const stylesheetPath = `/style-${createHash('sha256').update(css).digest('hex').slice(0, 12)}.css`;
