/**
 * Names of the ledger's keys that the keeper uses, apart from the schemas behind them: the keeper runs without any
 * npm package. `ledger-keys.ts` has the same names with their schemas; a test compares them.
 */
export const ledgerRoot = '/flotilla/';

export const epochKey = `${ledgerRoot}epoch`;
export const policyKey = `${ledgerRoot}policy`;
export const liveKey = (node: string): string => `${ledgerRoot}live/${node}`;
export const seenKey = (node: string): string => `${ledgerRoot}seen/${node}`;
export const fencedKey = (node: string): string => `${ledgerRoot}fenced/${node}`;
export const ownKey = (vm: string): string => `${ledgerRoot}vm/${vm}/own`;

/** The epoch, decimal, that this node's keeper may join after a restore of the ledger. @see safety 10 */
export const admittedKey = (node: string): string => `${ledgerRoot}admitted/${node}`;
