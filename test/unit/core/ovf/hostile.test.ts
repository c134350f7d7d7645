import t from 'tap';
import { decodeXml, readXml, xmlBytesMax } from '../../../../agent/ovf/xml-reader.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import { readManifest } from '../../../../core/ovf/manifest.js';
import { item, packageOf, read } from './read.js';

/** The refusal of something, as its message. */
function refusal(run: () => unknown): string {
  try {
    run();
  } catch (e) {
    if (e instanceof FlotillaError && ['bad-input', 'too-large'].includes(e.code)) return e.message;
    throw e;
  }
  return 'was taken';
}
const refused = (source: string): string => refusal(() => read(source));

void t.test('XML that does harm or is none', (t) => {
  const bomb = `<!DOCTYPE a [<!ENTITY a "${'x'.repeat(100)}"><!ENTITY b "&a;&a;&a;">]>\n<Envelope>&b;</Envelope>`;
  t.match(refused(bomb), /^x\.ovf line 1: it declares a document type/);
  t.match(refused('<!DOCTYPE a SYSTEM "file:///etc/passwd">\n<a/>'), /declares a document type/);
  t.match(
    refused(packageOf({}).replace('<Info/>', '<Info>&xxe;</Info>')),
    /line 3: it is not well-formed XML: Named entity isn't defined: &xxe;/,
  );
  t.match(refused(packageOf({}).slice(0, -12)), /line 7: it is not well-formed XML: /);
  t.match(
    refused(packageOf({ system: '<a b="1" b="2"/>' })),
    /line 7: .*[Aa]ttribute `b` redefined|line 7: .*[Dd]uplicate/,
  );
  t.match(refused(packageOf({ system: '<foo:Bar/>' })), /line 7: the prefix of "foo:Bar" is not declared/);
  t.match(refused(''), /line 1: /);
  t.match(
    refused('<?xml version="1.0"?>\n<!-- a -->\n<!DOCTYPE b>\n<b/>'),
    /line 3: it declares a document type/,
  );
  t.match(refused(packageOf({ system: '<x>'.repeat(100_000) })), /nested more than 200 deep/);
  t.match(refused('<a/>\n<b/>'), /line 2: .*/);
  t.match(
    refused(packageOf({ system: '<x>'.repeat(500) + '</x>'.repeat(500) })),
    /nested more than 200 deep/,
  );
  t.match(refused(packageOf({ system: '<x/>'.repeat(900_000) })), /more than 800000 tags/);
  t.end();
});

void t.test('text in another encoding than it says', (t) => {
  const bad = Buffer.from('<a>\n<b>\n\xff</b></a>', 'latin1');
  t.match(
    refusal(() => decodeXml(bad, 'x.ovf')),
    /^x\.ovf line 3: there are bytes that are not UTF-8/,
  );
  const far = Buffer.concat([Buffer.from(`<a>${'\n'.repeat(20_000)}`), Buffer.from([0xc3, 0x28])]);
  t.match(
    refusal(() => decodeXml(far, 'x.ovf')),
    /line 20001/,
  );
  t.match(
    refusal(() => decodeXml(Buffer.from('<?xml version="1.0" encoding="martian"?><a/>'), 'x.ovf')),
    /encoding "martian" is not known/,
  );
  const utf16 = Buffer.from('\ufeff<a>ü</a>', 'utf16le');
  t.equal(readXml(decodeXml(utf16, 'x'), 'x').text, 'ü');
  const latin = Buffer.from('<?xml version="1.0" encoding="ISO-8859-1"?><a>\xfc</a>', 'latin1');
  t.equal(readXml(decodeXml(latin, 'x'), 'x').text, 'ü');
  const marked = Buffer.from('\ufeff<a>ü</a>', 'utf8');
  t.equal(readXml(decodeXml(marked, 'x'), 'x').text, 'ü');
  t.match(
    refusal(() => decodeXml(Buffer.alloc(xmlBytesMax + 1, 0x20), 'x')),
    /larger than/,
  );
  t.end();
});

void t.test('files outside of the package', (t) => {
  const file = (href: string): string => packageOf({ files: `<File ovf:id="f" ovf:href="${href}"/>` });
  for (const href of [
    '../disk',
    'a/../../b',
    '..',
    '../../etc/passwd',
    '%2e%2e/disk.vmdk',
    '%2E%2E%2Fdisk',
    '..%2f..%2fa.iso',
  ])
    t.match(refused(file(href)), /^x\.ovf line 2: the file ".*" is outside of the package/, href);
  for (const href of ['/etc/shadow', '%2Fetc/shadow', 'C%3A/x'])
    t.match(refused(file(href)), /line 2: the file ".*" has an absolute name/, href);
  for (const href of ['file:///etc/shadow', 'smb://x/y', 'data:text/plain,x'])
    t.match(refused(file(href)), /line 2: .* kind of address that is not taken/, href);
  for (const href of ['a\\b', '\\\\server\\share', 'a%00b', 'a&#10;b'])
    t.match(refused(file(href)), /line 2: .* characters in its name/, href);
  t.match(refused(file('x'.repeat(2000))), /overlong name/);
  for (const href of ['../disk.vmdk', '../../disks/a.vmdk.gz', 'a/../../b.iso']) {
    const p = read(file(href));
    t.match(p.files, [{ href, outside: true, remote: false }], 'a disk kept elsewhere is named, not opened');
    t.match(p.warnings, [
      {
        line: 2,
        text: `the file "${href}" is outside of the package: it is not looked for, and an import refuses it`,
      },
    ]);
  }
  t.match(read(file('a/../b')).files, [{ href: 'a/../b', outside: false }]);
  t.equal(read(file('./a%20b/disk.vmdk')).files[0]?.href, 'a%20b/disk.vmdk');
  t.end();
});

void t.test('sections that we do not know', (t) => {
  const section = (attributes: string, inside = '<Info/>'): string =>
    packageOf({
      sections: `<o:OddSection xmlns:o="http://example.org/odd" ${attributes}>${inside}</o:OddSection>`,
    });
  t.match(
    refused(section('ovf:required="true"')),
    /^x\.ovf line 4: the section <OddSection> of http:\/\/example\.org\/odd is required, and Flotilla does not know it/,
  );
  t.match(refused(section('')), /line 4: the section <OddSection> .* is required/, 'the default is required');
  t.match(
    refused(packageOf({ sections: '<TypoSection><Info/></TypoSection>' })),
    /<TypoSection> is required/,
  );
  t.match(
    refused(packageOf({ system: '<vmw:NewSection ovf:required="true"><Info/></vmw:NewSection>' })),
    /<NewSection> of http:\/\/www\.vmware\.com\/schema\/ovf is required/,
  );
  const kept = read(section('ovf:required="false"', '<Info/>\n<o:x a="&lt;">t</o:x>')).kept;
  t.match(kept, [{ name: 'OddSection', namespace: 'http://example.org/odd', owner: null, line: 4 }]);
  t.match(kept[0]?.xml, /^<o:OddSection .*\n<o:x a="&lt;">t<\/o:x><\/o:OddSection>$/);
  t.match(read(packageOf({ system: '<vmw:NewSection><Info/></vmw:NewSection>' })).kept, [{ owner: 'vm' }]);
  t.end();
});

void t.test('too much of everything', (t) => {
  const many = (n: number, of: (i: number) => string): string =>
    Array.from({ length: n }, (_, i) => of(i)).join('');
  const properties = (n: number): string =>
    packageOf({
      sections: `<ProductSection><Info/>${many(n, (i) => `\n<Property ovf:key="k${i}" ovf:type="string"/>`)}</ProductSection>`,
    });
  t.equal(read(properties(10_000)).properties.length, 10_000);
  t.match(refused(properties(10_001)), /line 10005: it has more than 10000 properties/);
  const million = Buffer.from(properties(1_000_000));
  const started = performance.now();
  t.match(
    refusal(() => decodeXml(million, 'x.ovf')),
    /larger than/,
  );
  t.ok(performance.now() - started < 5_000);
  t.match(
    refused(packageOf({ files: many(10_001, (i) => `<File ovf:id="f${i}" ovf:href="f${i}"/>`) })),
    /refers to 10001 files/,
  );
  const systems = many(1_001, (i) => `<VirtualSystem ovf:id="s${i}"/>`);
  t.match(
    refused(packageOf({}).replace('</Envelope>', `${systems}</Envelope>`)),
    /too many or too deeply nested/,
  );
  const options = many(65, (i) => `<Configuration ovf:id="c${i}"/>`);
  t.match(
    refused(packageOf({ sections: `<DeploymentOptionSection><Info/>${options}</DeploymentOptionSection>` })),
    /more than 64 deployment options/,
  );
  const noisy = packageOf({ items: many(3_000, (i) => item({ InstanceID: i, ResourceType: 17 })) });
  t.equal(read(noisy).warnings.length, 500, 'remarks are bounded');
  t.end();
});

void t.test('descriptors that are wrong, with their lines', (t) => {
  const disk = (attributes: string): string =>
    packageOf({ disks: `<Disk ${attributes}/>`, files: '<File ovf:id="f" ovf:href="f"/>' });
  const cases: [string, string, RegExp][] = [
    ['no envelope', '<html/>', /line 1: it begins with <html>, not with an Envelope/],
    ['OVF 3', packageOf({}).replaceAll('envelope/1', 'envelope/3'), /line 1: its Envelope is of ".*\/3"/],
    ['no namespace', '<Envelope/>', /in no namespace/],
    ['no system', packageOf({}).replace(/<VirtualSystem[\s\S]*VirtualSystem>/, ''), /no VirtualSystem/],
    ['system without id', packageOf({}).replace(' ovf:id="vm"', ''), /line 5: <VirtualSystem> has no id/],
    [
      'two of an id',
      packageOf({}).replace('</Envelope>', '<VirtualSystem ovf:id="vm"/></Envelope>'),
      /id "vm" is there twice/,
    ],
    ['file without href', packageOf({ files: '<File ovf:id="f"/>' }), /line 2: <File> has no href/],
    [
      'two files of an id',
      packageOf({ files: '<File ovf:id="f" ovf:href="a"/><File ovf:id="f" ovf:href="b"/>' }),
      /file "f" is there twice/,
    ],
    [
      'odd compression',
      packageOf({ files: '<File ovf:id="f" ovf:href="a" ovf:compression="lzma"/>' }),
      /compression "lzma" is not known/,
    ],
    [
      'negative size',
      packageOf({ files: '<File ovf:id="f" ovf:href="a" ovf:size="-5"/>' }),
      /size of <File> is "-5", not a whole number/,
    ],
    [
      'size beyond all',
      packageOf({ files: '<File ovf:id="f" ovf:href="a" ovf:size="9223372036854775808"/>' }),
      /size of <File> is "9223372036854775808", which is impossibly large/,
    ],
    ['disk without id', disk('ovf:capacity="1"'), /line 3: <Disk> has no diskId/],
    ['disk without capacity', disk('ovf:diskId="d"'), /line 3: disk "d" has no capacity/],
    [
      'capacity of no property',
      disk('ovf:diskId="d" ovf:capacity="${x}"'),
      /property "x", which there is not/,
    ],
    [
      'capacity too large',
      disk('ovf:diskId="d" ovf:capacity="9007199254740991" ovf:capacityAllocationUnits="byte * 2^40"'),
      /impossibly large/,
    ],
    [
      'odd unit',
      disk('ovf:diskId="d" ovf:capacity="1" ovf:capacityAllocationUnits="parsec"'),
      /unit "parsec" of disk "d" is none/,
    ],
    [
      'file not there',
      disk('ovf:diskId="d" ovf:capacity="1" ovf:fileRef="g"'),
      /refers to file "g", which is not among/,
    ],
    ['its own parent', disk('ovf:diskId="d" ovf:capacity="1" ovf:parentRef="d"'), /built upon "d"/],
    [
      'disk not there',
      packageOf({ items: item({ ResourceType: 17, HostResource: 'ovf:/disk/x' }) }),
      /line 6: .*refers to disk "x"/,
    ],
    [
      'medium not there',
      packageOf({ items: item({ ResourceType: 15, HostResource: 'ovf:/file/x' }) }),
      /line 6: .*refers to file "x"/,
    ],
    ['device of no type', packageOf({ items: item({}) }), /line 6: a device has no ResourceType/],
    [
      'half a CPU',
      packageOf({ items: item({ ResourceType: 3, VirtualQuantity: '0.5' }) }),
      /VirtualQuantity of <Item> is "0.5"/,
    ],
    ['no CPU', packageOf({ items: item({ ResourceType: 3, VirtualQuantity: 0 }) }), /0 CPUs/],
    [
      'no memory',
      packageOf({ items: item({ ResourceType: 4, VirtualQuantity: 0, AllocationUnits: 'MB' }) }),
      /no memory/,
    ],
    [
      'memory in hertz',
      packageOf({ items: item({ ResourceType: 4, VirtualQuantity: 1, AllocationUnits: 'hertz' }) }),
      /unit "hertz" is none/,
    ],
    [
      'a field that must be understood',
      packageOf({
        items: item({ ResourceType: 3 }).replace('</Item>', '<vmw:Odd ovf:required="true"/></Item>'),
      }),
      /line 6: the field <Odd> of a device is required/,
    ],
    [
      'odd bound',
      packageOf({ items: item({ ResourceType: 3 }, 'ovf:bound="some"') }),
      /none of min, max, normal/,
    ],
    [
      'property without key',
      packageOf({ sections: '<ProductSection><Info/><Property ovf:type="string"/></ProductSection>' }),
      /line 4: <Property> has no key/,
    ],
    [
      'property twice',
      packageOf({
        sections: '<ProductSection><Info/><Property ovf:key="a"/><Property ovf:key="a"/></ProductSection>',
      }),
      /property "a" is there twice/,
    ],
    [
      'odd flag',
      packageOf({
        sections: '<ProductSection><Info/><Property ovf:key="a" ovf:password="maybe"/></ProductSection>',
      }),
      /password="maybe"/,
    ],
    [
      'start of nobody',
      packageOf({ sections: '<StartupSection><Info/><Item ovf:id="ghost"/></StartupSection>' }),
      /line 4: the start order names "ghost"/,
    ],
    [
      'hardware of nobody',
      packageOf({ sections: '<VirtualHardwareSection><Info/></VirtualHardwareSection>' }),
      /line 4: hardware stands outside/,
    ],
  ];
  for (const [what, source, expected] of cases) t.match(refused(source), expected, what);
  t.end();
});

void t.test('messages neither command the terminal nor grow with their input', (t) => {
  const message = refused(
    packageOf({ files: `<File ovf:id="f" ovf:href="a" ovf:compression="&#x9b;31m${'y'.repeat(5000)}"/>` }),
  );
  t.notMatch(message, /\u009b/);
  t.ok(message.length < 200);
  t.end();
});

void t.test('manifests', (t) => {
  const sha1 = 'a'.repeat(40);
  const sha256 = 'B'.repeat(64);
  t.match(
    readManifest(
      `SHA1(a.ovf)= ${sha1}\r\n\nSHA256 (my disk.vmdk) = ${sha256}\nsha512(./c)=${'c'.repeat(128)}`,
      'x.mf',
    ),
    [
      { file: 'a.ovf', algorithm: 'sha1', hex: sha1, line: 1 },
      { file: 'my disk.vmdk', algorithm: 'sha256', hex: sha256.toLowerCase(), line: 3 },
      { file: 'c', algorithm: 'sha512' },
    ],
  );
  const bad = (text: string): string => refusal(() => readManifest(text, 'x.mf'));
  t.match(bad(`SHA1(a)= ${sha1}\nnonsense`), /^x\.mf line 2: "nonsense" is no line of a manifest/);
  t.match(bad(`MD5(a)= ${'a'.repeat(32)}`), /line 1: checksums of kind "MD5" are not taken/);
  t.match(bad(`SHA256(a)= ${sha1}`), /line 1: the checksum of "a" has 40 digits, not 64/);
  t.match(bad(`SHA1(a)= ${sha1}\nSHA1(a)= ${'b'.repeat(40)}`), /line 2: "a" has another checksum in line 1/);
  t.match(bad('\n'.repeat(30_000)), /too long/);
  t.end();
});
