import { migrations } from './migrations.js';

await migrations(true);
