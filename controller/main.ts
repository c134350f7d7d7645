import { Command } from 'commander';
import { errorRecord } from '../core/domain/error.js';
import { controllerConfigFile, readControllerConfig } from './config.js';
import { runController } from './run.js';
import { journal } from './system.js';
import { version } from './version.js';

const log = journal();

const program = new Command('flotilla-controller')
  .description(
    'The API and the page of the whole Flotilla cluster. It holds nothing and may vanish at any time.',
  )
  .version(version);

program
  .command('run')
  .description('run until told to stop')
  .option('--config <file>', 'configuration', controllerConfigFile)
  .action(async ({ config }: { config: string }) => {
    const stop = new AbortController();
    for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => stop.abort());
    await runController(await readControllerConfig(config), log, stop.signal);
  });

process.on('unhandledRejection', (error) => {
  const r = errorRecord(error);
  log.error(`a promise failed unheard: ${r.message}`, { causes: r.causes.join(': ') });
});

try {
  await program.parseAsync();
} catch (error) {
  const r = errorRecord(error);
  log.error(`${[r.message, ...r.causes].join(': ')}. ${r.hint} [${r.code}]`);
  process.exitCode = 1;
}
