/**
 * Prints the node's facts as JSON and ends. A program of its own, since systeminformation in the agent would hold
 * 12 MB for something asked six times an hour, and since one of its commands may hang.
 */
import { constants, setPriority } from 'node:os';
import { collectFacts } from './collect-facts.js';

setPriority(constants.priority.PRIORITY_LOW);
process.stdout.write(JSON.stringify(await collectFacts()));
