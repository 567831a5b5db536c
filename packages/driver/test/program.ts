/** Programs that stand in the docs, run as a reader would: pasted into a file. */
import { execFile } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { onTestFinished } from 'vitest';

/**
 * What a program prints.
 *
 * @param directory where its imports are found
 */
export async function outputOf(program: string, directory: string): Promise<string> {
  const file = join(directory, `program-${process.pid}.ts`);
  writeFileSync(file, program);
  onTestFinished(() => rmSync(file));
  return (await promisify(execFile)(process.execPath, [file])).stdout;
}
