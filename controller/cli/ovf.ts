import type { Command } from 'commander';
import { OvfArchive, type PackageReport } from '../../agent/ovf/package.js';
import type { OvfProperty, OvfStart, OvfSystem, OvfSystemDisk } from '../../core/ovf/model.js';
import { formatSize } from '../../core/domain/units.js';
import { bar, type Io } from './io.js';
import { ovfImportCommand } from './ovf-import.js';
import { facts, plain, table, type Column } from './table.js';

/** A licence is shown so far; --json has all of it. */
const eulaCharsShown = 200;

export function ovfCommands(program: Command, io: Io): void {
  const ovf = program.command('ovf').description('packages of VMs: OVF and OVA');
  ovfImportCommand(ovf, io);
  ovf
    .command('inspect')
    .description('what a package holds, and whether it is whole; needs no cluster')
    .argument('<file>', 'an .ova, an .ovf, or a folder with one')
    .option('--deployment-option <id>', 'show it with this deployment option')
    .option('--language <tag>', 'language of its texts, e.g. de-DE')
    .option('--no-verify', 'do not compute the checksums of disks')
    .action(async (file: string, o: { deploymentOption?: string; language?: string; verify: boolean }) => {
      const archive = await OvfArchive.open(file);
      const report = await archive.report({
        ...(o.deploymentOption === undefined ? {} : { configuration: o.deploymentOption }),
        ...(o.language === undefined ? {} : { language: o.language }),
        verify: o.verify,
        nowMs: Date.now(),
        signal: io.terminal.signal,
        progress: (share) => io.progress(`checking ${bar(share)} ${Math.round(share * 100)} %`),
      });
      io.progress(null);
      io.show(shortened(report), () => reportText(report, io.terminal.width));
    });
}

/** Without the text of what is kept, which is the package's own, and without what only guests are told. */
const shortened = ({ values: _, ...report }: PackageReport): unknown => ({
  ...report,
  kept: report.kept.map(({ owner, name, namespace, line }) => ({ owner, name, namespace, line })),
});

const osText = ({ os }: OvfSystem): string =>
  os === null ? '' : os.description === '' ? (os.type ?? '') : os.description;

const systemColumns: readonly Column<OvfSystem>[] = [
  { head: 'SYSTEM', text: (s) => s.name },
  { head: 'CPUS', text: (s) => String(s.cpus ?? '?'), right: true },
  {
    head: 'MEMORY',
    text: (s) => (s.memoryMiB === null ? '?' : formatSize(s.memoryMiB * 2 ** 20)),
    right: true,
  },
  { head: 'DISKS', text: (s) => s.disks.map(diskText).join(', '), give: 1 },
  {
    head: 'NICS',
    text: (s) => s.nics.map((n) => `${n.network ?? 'none'} (${n.model ?? '?'})`).join(', '),
    give: 2,
  },
  { head: 'FIRMWARE', text: (s) => `${s.firmware}${s.tpm ? ', TPM' : ''}`, give: 4 },
  { head: 'OS', text: osText, give: 3 },
];

const diskText = (d: OvfSystemDisk): string =>
  `${d.capacityBytes === null ? '?' : formatSize(d.capacityBytes)} ${d.controller ?? d.bus}`;

const propertyColumns: readonly Column<OvfProperty>[] = [
  { head: 'PROPERTY', text: (p) => p.id },
  { head: 'TYPE', text: (p) => p.type },
  {
    head: 'DEFAULT',
    text: (p) => (p.secret ? (p.hasDefault ? '(secret)' : '') : (p.default ?? '')),
    give: 2,
  },
  { head: 'ASKED', text: (p) => (p.userConfigurable ? 'yes' : '') },
  { head: 'LABEL', text: (p) => p.label, give: 1 },
];

const startColumns: readonly Column<OvfStart>[] = [
  { head: 'ORDER', text: (s) => String(s.order), right: true },
  { head: 'STARTS', text: (s) => (s.startAction === 'none' ? `${s.id} (by hand)` : s.id) },
  {
    head: 'THEN WAITS',
    text: (s) =>
      s.waitForGuest
        ? `for the guest, at most ${s.startDelayS} s`
        : s.startDelayS > 0
          ? `${s.startDelayS} s`
          : '',
  },
  { head: 'STOPS BY', text: (s) => s.stopAction, give: 1 },
];

function reportText(r: PackageReport, width: number | null): string {
  const parts = [
    facts([
      ['package', `${r.name} (${r.kind.toUpperCase()}, OVF ${r.versionText ?? r.version})`],
      ['note', r.annotation],
      ['collections', r.collections.map((c) => c.name).join(', ')],
      ['networks', r.networks.map((n) => n.name).join(', ')],
      [
        'files',
        r.files
          .map((f) => `${f.href}${f.outside ? ' (outside)' : f.storedBytes === null ? ' (not here)' : ''}`)
          .join(', '),
      ],
      ['manifest', r.manifest === null ? 'none' : manifestText(r.manifest)],
      [
        'signed by',
        r.signer === null ? '' : `${r.signer.subject}${r.signer.selfSigned ? ' (self-signed)' : ''}`,
      ],
    ]),
    table(r.systems, systemColumns, width),
    r.startOrder.length === 0 ? '' : table(r.startOrder, startColumns, width),
    r.properties.length === 0 ? '' : table(r.properties, propertyColumns, width),
    r.deploymentOptions
      .map((c) => {
        const sizes = c.systems
          .map((s) => `${s.id} ${s.cpus ?? '?'} CPUs ${s.memoryMiB ?? '?'} MiB`)
          .join(', ');
        return plain(`option ${c.id}${c.id === r.configuration ? ' (shown)' : ''}: ${c.label}: ${sizes}`);
      })
      .join('\n'),
    r.eulas
      .map((e) =>
        plain(`licence: ${e.text.slice(0, eulaCharsShown)}${e.text.length > eulaCharsShown ? '…' : ''}`),
      )
      .join('\n'),
    r.warnings.map((w) => plain(`! ${w.line === null ? '' : `line ${w.line}: `}${w.text}`)).join('\n'),
  ];
  return parts.filter((p) => p !== '').join('\n\n');
}

const manifestText = (m: NonNullable<PackageReport['manifest']>): string =>
  `${m.verified.length} checksums right${m.unverified.length === 0 ? '' : `, not checked: ${m.unverified.join(', ')}`}`;
