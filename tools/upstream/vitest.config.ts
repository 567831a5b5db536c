/**
 * How MikroORM's tests run: as the Vitest configuration of their checkout has it, but with MikroORM as this workspace has
 * it installed, and with our wrapper around what the tests import as a driver package. What this workspace does not
 * install comes from the sources of the checkout. `tools/upstream.ts` starts the Vitest of the checkout with this file.
 */
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { DRIVERS, type DriverPackage, type Run } from './runs.ts';

const checkout = process.env.UPSTREAM_CHECKOUT!;
const run = process.env.UPSTREAM_RUN as Run;
const here = (file: string) => fileURLToPath(new URL(file, import.meta.url));

const installed = here('../../packages/driver/node_modules/@mikro-orm');
const packages = readdirSync(installed);
const PREFIX = '\0wrapped:';

const { default: theirs } = await import(pathToFileURL(join(checkout, 'vitest.config.ts')).href);
const aliases: { find: string | RegExp }[] = theirs.test.alias;

interface Resolver {
  resolve(source: string, importer?: string): Promise<{ id: string } | null>;
}

const mikroOrm = {
  name: 'mikro-ool:mikro-orm',
  enforce: 'pre' as const,

  resolveId(this: Resolver, source: string, importer: string = '') {
    const [name = '', inner = ''] = namesIn(source, importer);
    if (name in DRIVERS && !inner && run !== 'plain' && importer.startsWith(join(checkout, 'tests'))) {
      return PREFIX + name;
    }
    if (packages.includes(name)) {
      // a path that a test takes through the sources is the same in the published package
      return source.startsWith('.')
        ? join(installed, name, inner)
        : this.resolve(source, here('../../packages/driver/src/index.ts'));
    }
    return name && !source.startsWith('.') ? join(checkout, 'packages', name, 'src', inner || 'index.ts') : undefined;
  },

  load(id: string) {
    if (!id.startsWith(PREFIX)) {
      return undefined;
    }
    const name = id.slice(PREFIX.length) as DriverPackage;
    return `
      import * as plain from ${JSON.stringify(join(installed, name, 'index.js'))};
      import { wrap } from ${JSON.stringify(here('./wrap.ts'))};
      export * from ${JSON.stringify(join(installed, name, 'index.js'))};
      export const { Driver: ${DRIVERS[name]}, MikroORM, defineConfig } = wrap(plain, '${DRIVERS[name]}', '${run}');
    `;
  },
};

/** Which package of MikroORM is imported, and which file of it: by its name, or by a path through the sources. */
function namesIn(source: string, importer: string): string[] {
  if (source.startsWith('@mikro-orm/') && !source.endsWith('-highlighter')) {
    const [, name = '', ...inner] = source.split('/');
    return [name, inner.join('/')];
  }
  const [name = '', src, ...inner] = source.startsWith('.')
    ? join(dirname(importer), source).replace(`${checkout}/packages/`, '').split('/')
    : [];
  return src === 'src' && importer.startsWith(join(checkout, 'tests')) ? [name, inner.join('/')] : [];
}

export default {
  ...theirs,
  root: checkout,
  plugins: [mikroOrm, ...(theirs.plugins ?? [])],
  test: {
    ...theirs.test,
    setupFiles: [...theirs.test.setupFiles, here('./setup.ts')],
    // theirs starts MongoDB, and drops every database that appears on a server while it runs
    globalSetup: here('./databases.ts'),
    sequence: { setupFiles: 'list' },
    maxWorkers: 1,
    retry: 0,
    // as their sources do, each test file gets modules of its own
    server: { deps: { inline: [/@mikro-orm/] } },
    alias: [
      { find: '@mikro-ool/core', replacement: here('../../packages/core/src/index.ts') },
      { find: '@mikro-ool/driver', replacement: here('../../packages/driver/src/index.ts') },
      // an optional dependency that this workspace does not have
      { find: 'dataloader', replacement: join(checkout, 'node_modules/dataloader') },
      ...aliases.filter(({ find }) => String(find).endsWith('-highlighter') || !String(find).includes('@mikro-orm')),
    ],
  },
};
