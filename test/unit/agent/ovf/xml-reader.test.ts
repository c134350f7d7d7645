import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parseXml, XmlCdata, XmlElement as OtherElement, XmlError, XmlText } from '@rgrove/parse-xml';
import t from 'tap';
import { decodeXml, readXml } from '../../../../agent/ovf/xml-reader.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import type { XmlElement } from '../../../../core/ovf/xml.js';

/** Our reader against another one, on descriptors, on odd XML, and on both when they are damaged. */

const fixtures = path.join('test', 'fixtures', 'ovf');

/** All that both must agree upon, layout aside. */
type Seen = [name: string, attributes: Record<string, string>, text: string, children: Seen[]];

function ours(e: XmlElement, text: string): Seen {
  const tag = text.slice(e.from, e.to);
  const written = /^<([^\s/>]+)/.exec(tag)?.[1] ?? '';
  return [
    written,
    Object.fromEntries(e.attributes.map((a) => [a.name, a.value])),
    e.text.trim(),
    e.children.map((c) => ours(c, text)),
  ];
}

function theirs(e: OtherElement): Seen {
  const attributes = Object.entries(e.attributes).filter(([k]) => k !== 'xmlns' && !k.startsWith('xmlns:'));
  return [
    e.name,
    Object.fromEntries(attributes.map(([k, v]) => [k.slice(k.indexOf(':') + 1), v])),
    e.children
      .filter((c): c is XmlText => c instanceof XmlText || c instanceof XmlCdata)
      .map((c) => c.text)
      .join('')
      .trim(),
    e.children.filter((c) => c instanceof OtherElement).map(theirs),
  ];
}

const notTheirs = /the prefix of|Invalid prefix|document type|nested more than|it is empty/;

/** @returns what it is, or `refused`; null: ours refuses what theirs does not look at */
function byUs(text: string): Seen | 'refused' | null {
  try {
    return ours(readXml(text, 'x'), text);
  } catch (e) {
    if (!(e instanceof FlotillaError)) throw e;
    return notTheirs.test(e.message) ? null : 'refused';
  }
}

function byThem(text: string): Seen | 'refused' {
  try {
    // Blank lines before the declaration are read by us only.
    const { root } = parseXml(text.trimStart());
    return root === null ? 'refused' : theirs(root);
  } catch (e) {
    if (!(e instanceof XmlError)) throw e;
    return 'refused';
  }
}

const odd = [
  '<a/>',
  '<a></a >',
  '<a\n b = "1"\tc=\'2 "3"\'/>',
  '<a b="x&#10;y\nz\tw&amp;&lt;&quot;&apos;&#x41;">&gt;&#65;<![CDATA[<b>&amp;]]> tail<b/> more </a>',
  '<!-- c --><?pi x?><a><!-- - --><?pi?>t</a><!--d-->\n<?e?>',
  '<?xml version="1.0" encoding="UTF-8" standalone=\'yes\' ?>\n<ä:b xmlns:ä="urn:x" ä:c="1">𐐀</ä:b>',
  '<a xmlns="urn:a" xmlns:b="urn:b" b:c="1" c="2"><d/><b:d/></a>',
  '<a>]] ></a>',
];

void t.test('the same as another reader', (t) => {
  const files = readdirSync(fixtures, { recursive: true, encoding: 'utf8' }).filter((f) =>
    f.endsWith('.ovf'),
  );
  const documents = [...odd, ...files.map((f) => decodeXml(readFileSync(path.join(fixtures, f)), f))];
  t.ok(files.length > 3);
  for (const text of documents) {
    t.not(byUs(text), 'refused', text.slice(0, 60));
    t.same(byUs(text), byThem(text), text.slice(0, 60));
  }
  t.end();
});

void t.test('the same refused', (t) => {
  for (const text of [
    'a',
    '<',
    '<a',
    '<a>',
    '<a/',
    '< a/>',
    '<a></b>',
    '<a></ab>',
    '<a></a',
    '<a b/>',
    '<a b=1/>',
    '<a b="1"c="2"/>',
    '<a b="1" b="2"/>',
    '<a b="<"/>',
    '<a b="&"/>',
    '<a b="1/>',
    '<a>&</a>',
    '<a>&b;</a>',
    '<a>&#0;</a>',
    '<a>&#xd800;</a>',
    '<a>&#x110000;</a>',
    '<a>&constructor;</a>',
    '<a>\u0001</a>',
    '<a>]]></a>',
    '<a><!-- -- --></a>',
    '<a><!-- </a>',
    '<a><![CDATA[ </a>',
    '<a><?b </a>',
    '<a><?xml version="1.0"?></a>',
    '<?xml version="2.0"?><a/>',
    '<a/>b',
    '<a/><b/>',
    '<1a/>',
    '<a !/>',
    '<!ELEMENT a><a/>',
    '</a>',
  ]) {
    t.equal(byThem(text), 'refused', text);
    t.equal(byUs(text), 'refused', text);
  }
  t.end();
});

void t.test('damaged in the same way, both read the same or nothing', (t) => {
  let x = 20_261_129;
  const random = (below: number): number => {
    x = (Math.imul(x, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor((x / 2 ** 32) * below);
  };
  const pieces = ['<', '>', '/', '&', '"', "'", '=', '!', '?', '-', ']', ';', ' ', '\n', 'a', ':', '<!--', '-->', ']]>', '<![CDATA[', '&amp;', '<a>', '</a>', '<b/>', 'x="1" ']; // prettier-ignore
  let read = 0;
  let refused = 0;
  const differing: string[] = [];
  for (let n = 0; n < 20_000; n += 1) {
    let text = odd[random(odd.length)] ?? '';
    for (let edits = 1 + random(3); edits > 0; edits -= 1) {
      const at = random(text.length + 1);
      text = text.slice(0, at) + (pieces[random(pieces.length)] ?? '') + text.slice(at + random(3));
    }
    // Half a character is none.
    const mine = Buffer.from(text).toString() === text ? byUs(text) : null;
    if (mine === null) continue;
    if (mine === 'refused') refused += 1;
    else read += 1;
    if (JSON.stringify(mine) !== JSON.stringify(byThem(text))) differing.push(text);
  }
  t.same(differing.slice(0, 20), []);
  t.ok(read > 1_000 && refused > 1_000, `${read} read, ${refused} refused`);
  t.end();
});

void t.test('the same from UTF-16 as from UTF-8', (t) => {
  const text = '<?xml version="1.0"?>\n<a b="ü">\n  𐐀</a>';
  const from = (bytes: Buffer): Seen => ours(readXml(decodeXml(bytes, 'x'), 'x'), text);
  const wanted = from(Buffer.from(text));
  t.same(wanted, ['a', { b: 'ü' }, '𐐀', []]);
  for (const written of [text, `\ufeff${text}`, text.replaceAll('\n', '\r\n')]) {
    t.same(from(Buffer.from(written)), wanted);
    t.same(from(Buffer.from(written, 'utf16le')), wanted);
    t.same(from(Buffer.from(written, 'utf16le').swap16()), wanted);
  }
  t.end();
});
