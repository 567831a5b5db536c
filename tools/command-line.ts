/** The options of our commands: `--help` says what there is, and an option that there is not ends the command. */
import { type ParseArgsOptionsConfig, parseArgs } from 'node:util';

const HELP = { help: { type: 'boolean' } } as const;

/**
 * @param usage what `--help` prints
 */
export function readOptions<Options extends ParseArgsOptionsConfig>(usage: string, options: Options) {
  const { values, positionals } = readArguments(usage, options);
  return positionals.length > 0 ? refuse(`Unexpected argument '${positionals[0]}'.`, usage) : values;
}

/** With arguments that are no options, which the command looks at itself. */
export function readArguments<Options extends ParseArgsOptionsConfig>(usage: string, options: Options) {
  try {
    // some versions of pnpm hand the `--` between their arguments and ours along
    const args = process.argv.slice(2).filter((arg) => arg !== '--');
    const { values, positionals } = parseArgs({ args, options: { ...options, ...HELP }, allowPositionals: true });
    if ((values as { help?: boolean }).help) {
      console.log(usage);
      process.exit();
    }
    return { values, positionals };
  } catch (error) {
    return refuse((error as Error).message, usage);
  }
}

/** Ends the command because of what it was told. */
export function refuse(problem: string, usage: string): never {
  console.error(`${problem}\n\n${usage}`);
  process.exit(2);
}

/** Ends the process, and with it what it ends at its exit, when nobody reads what it prints (`… | head`). */
export function endWithReader(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', () => process.exit(1));
  }
}
