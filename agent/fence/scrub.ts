import type { FencingDevice } from '../../core/domain/fencing.js';

/** Lines kept of what a program said: enough for its reason and what led to it. */
const linesMax = 6;
const charsMax = 600;

/** What a program said, as it may be shown and stored: without the password in any of the forms it is sent in. */
export function scrub(text: string, device: FencingDevice): string {
  const { user, password } = device;
  const forms = [
    Buffer.from(`${user}:${password}`).toString('base64'),
    password,
    JSON.stringify(password).slice(1, -1),
    encodeURIComponent(password),
    `'${password.replaceAll("'", `'"'"'`)}'`,
  ];
  let clean = text;
  for (const form of forms.sort((a, b) => b.length - a.length)) clean = clean.replaceAll(form, '[password]');
  return clean;
}

/** Said by programs that do well, too. */
const chatter =
  /^(?:Executing: |Please use '-h'|\d+ +\S*$|Starting new HTTPS|Loading IANA|Get HPM|Running Get |Discovered IPMB|Invalid completion code received: Insufficient privilege)/;

/** The last words of a program, scrubbed, in one line: without time stamps, blank lines and chatter. */
export function lastWords(stderr: string, device: FencingDevice): string {
  const words = scrub(stderr, device)
    .split('\n')
    .map((line) => line.replace(/^[\d-]+ [\d:,]+ (?:ERROR|WARNING|INFO|DEBUG): (?:\d+ +(?=\S))?/, '').trim())
    .filter((line) => line !== '' && !chatter.test(line));
  return words.slice(-linesMax).join('; ').slice(-charsMax);
}
