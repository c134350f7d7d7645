import type { CpuTune } from '../libvirt/hypervisor.js';

/** The definition with what the scheduler gives the machine, as libvirt would say it. */
export function tuned(xml: string, tune: CpuTune): string {
  const old = /<cputune>[\s\S]*?<\/cputune>/.exec(xml)?.[0] ?? '';
  const was = (name: string): string | null => new RegExp(`<${name}>(\\d+)</${name}>`).exec(old)?.[1] ?? null;
  const shares = tune.shares === undefined ? was('shares') : String(tune.shares);
  const quota =
    tune.quotaUs === undefined ? was('global_quota') : tune.quotaUs === null ? null : String(tune.quotaUs);
  const parts = [
    ...(shares === null ? [] : [`<shares>${shares}</shares>`]),
    ...(quota === null ? [] : [`<global_quota>${quota}</global_quota>`]),
  ];
  return xml
    .replace(/\s*<cputune>[\s\S]*?<\/cputune>/, '')
    .replace('<os>', parts.length === 0 ? '<os>' : `<cputune>${parts.join('')}</cputune><os>`);
}
/** Changes attributes of Flotilla's mark in a machine's XML; what is not named stays. */
export function withMark(xml: string, change: Readonly<Record<string, string | number>>): string {
  return xml.replace(/<f:vm [^>]*>/, (mark) => {
    let text = mark;
    for (const [name, value] of Object.entries(change)) {
      const bare = text.replace(new RegExp(` ${name}=("[^"]*"|'[^']*')`), '');
      text = bare.replace('<f:vm', `<f:vm ${name}="${value}"`);
    }
    return text;
  });
}
