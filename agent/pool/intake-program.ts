import { parentPort, workerData } from 'node:worker_threads';
import { IntakeThread, type IntakeStart } from './intake-thread.js';

/** What the thread of an intake runs. @see Intake */
if (parentPort !== null) new IntakeThread(parentPort, workerData as IntakeStart).start();
