/** What to do about the words of a failed program, the most telling first. */
const reasons: readonly [RegExp, string][] = [
  [/waiting to power OFF/i, 'The BMC took the order and nothing happened: power the node off by hand.'],
  [/waiting to power ON/i, 'The BMC took the order and nothing happened: power the node on by hand.'],
  [
    /failed to execute|No such file|not found or not accessible/i,
    'Install fence-agents-ipmilan and fence-agents-redfish.',
  ],
  [
    /HMAC is invalid|unauthorized name|invalid user|Password:|refuses the login|\b401\b/i,
    'Correct user and password; with IPMI the user must also be allowed to log in over the LAN.',
  ],
  [
    /authentication algorithm|integrity algorithm|cipher suite|confidentiality/i,
    'The BMC does not speak this cipher: try cipher 3 instead of 17.',
  ],
  [/privilege/i, 'Give the user the right to switch power, or ask for another privilege.'],
  [
    /certificate|CERTIFICATE_VERIFY_FAILED|self[- ]signed/i,
    'The certificate of the BMC is not trusted: give its CA, or turn verifyTls off.',
  ],
  [/Unable to get PowerState/, 'Correct user, password and systemUri.'],
  [
    /Unable to establish|Connection (?:refused|timed out)|timed out|ECONN|EHOST|ENOTFOUND|EAI_|No route|resolve/i,
    'See whether address and port are right, and the BMC is on a network that this node reaches.',
  ],
];

/** The next step, from what a fence agent said. */
export function reasonHint(said: string): string {
  return (
    reasons.find(([words]) => words.test(said))?.[1] ??
    'Try the device from this node by hand with the same settings; the cause has the words of the program.'
  );
}
