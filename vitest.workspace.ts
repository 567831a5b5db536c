/** One project per database, plus those that need a transform of their own for decorators. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { transform } from 'esbuild';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

const driver = 'packages/driver/test';
const pool = 'packages/pool/test';
const resolve = 'packages/resolve/test';

const LONG =
  /\/(site|pglite|chaos|pgbouncer|unknown-dialect|(postgresql|mariadb|sqlite)(-faults|-file|-mysql-driver)?)\.test\.ts$/;

/** Most of what a program costs that a test starts is to compile MikroORM once more. */
process.env.NODE_COMPILE_CACHE ??= join(import.meta.dirname, 'node_modules/.cache/node-compile');

/** No long file is left for the end, when the other workers have nothing to do. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isShort = ({ moduleId }: TestSpecification) => Number(!LONG.test(moduleId));
    // oxlint-disable-next-line unicorn/no-array-sort -- it is the sequencer's
    const sorted = await super.sort(files);
    return sorted.toSorted((a, b) => isShort(a) - isShort(b));
  }
}

/** After all others: these have servers of their own that fail, and deadlines, and wait half of the time. */
const LATER = { sequence: { groupOrder: 1 } };

export default defineConfig({
  test: {
    // Vitest leaves one core to itself, of two, and here it is servers that some tests wait for
    maxWorkers: availableParallelism() + 1,
    sequence: { sequencer: LongestFirst },
    // they end what hangs, and nothing else: a machine may be several times as slow as another
    testTimeout: 240_000,
    hookTimeout: 240_000,
    projects: [
      { test: { name: 'core', include: ['packages/core/test/*.test.ts'] } },
      {
        test: {
          name: 'sqlite',
          include: [
            `${driver}/sqlite*.test.ts`,
            `${driver}/unknown-dialect.test.ts`,
            `${pool}/sqlite*.test.ts`,
            `${resolve}/sqlite*.test.ts`,
          ],
        },
      },
      {
        test: {
          name: 'postgresql',
          include: [`${driver}/postgresql*.test.ts`, `${pool}/postgresql*.test.ts`, `${resolve}/postgresql*.test.ts`],
          globalSetup: [`${driver}/drivers/postgresql.setup.ts`],
        },
      },
      {
        test: {
          name: 'postgresql-15',
          include: [`${driver}/postgresql*.test.ts`, `${pool}/postgresql*.test.ts`],
          globalSetup: [`${driver}/drivers/postgresql-15.setup.ts`],
        },
      },
      {
        test: {
          name: 'mariadb',
          include: [`${driver}/mariadb*.test.ts`, `${pool}/mariadb*.test.ts`, `${resolve}/mariadb*.test.ts`],
          exclude: [`${driver}/mariadb-storm.test.ts`],
          globalSetup: [`${driver}/drivers/mysql.setup.ts`],
        },
      },
      {
        // it counts the deadlocks of the whole server, and some tests make one
        test: {
          ...LATER,
          name: 'mariadb-storm',
          include: [`${driver}/mariadb-storm.test.ts`],
          globalSetup: [`${driver}/drivers/mysql.setup.ts`],
        },
      },
      { test: { name: 'libsql', include: [`${driver}/libsql*.test.ts`] } },
      { test: { name: 'pglite', include: [`${driver}/pglite*.test.ts`] } },
      {
        test: {
          name: 'driver',
          include: [`${driver}/*.test.ts`],
          exclude: [
            `${driver}/{sqlite,postgresql,mariadb,libsql,pglite}*.test.ts`,
            `${driver}/unknown-dialect.test.ts`,
          ],
        },
      },
      {
        test: {
          name: 'http',
          include: ['packages/http/test/*.test.ts'],
          globalSetup: [`${driver}/drivers/postgresql.setup.ts`],
        },
      },
      {
        test: {
          name: 'pool',
          include: [`${pool}/*.test.ts`],
          exclude: [`${pool}/{sqlite,postgresql,mariadb}*.test.ts`],
        },
      },
      { test: { name: 'docs', include: ['docs/test/*.test.ts'], exclude: ['docs/test/site.test.ts'] } },
      { test: { name: 'site', include: ['docs/test/site.test.ts'] } },
      { test: { ...LATER, name: 'chaos', include: ['chaos/test/*.test.ts'] } },
      {
        test: {
          ...LATER,
          name: 'cluster',
          include: ['cluster/*.test.ts'],
          globalSetup: [`${driver}/drivers/postgresql.setup.ts`],
        },
      },
      { test: { name: 'examples', include: ['examples/*/test/*.test.ts'] } },
      {
        // Vitest's own transform leaves standard decorators as they are, and Node does not run them
        plugins: [
          {
            name: 'standard-decorators',
            enforce: 'pre' as const,
            async transform(code: string, id: string) {
              return /\/test\/(es|decorated)\//.test(id)
                ? transform(code, { loader: 'ts', target: 'es2024', sourcemap: true })
                : undefined;
            },
          },
        ],
        resolve: { alias: { '#decorators': join(import.meta.dirname, driver, 'es/decorators.ts') } },
        test: { name: 'decorators-es', include: [`${driver}/{decorated,es}/*.test.ts`] },
      },
      {
        resolve: { alias: { '#decorators': join(import.meta.dirname, driver, 'legacy/decorators.ts') } },
        oxc: { decorator: { legacy: true, emitDecoratorMetadata: true } },
        test: {
          name: 'decorators-legacy',
          include: [
            `${driver}/{decorated,legacy}/*.test.ts`,
            'packages/http/test/nestjs/*.test.ts',
            'examples/recipes/nestjs/*.test.ts',
          ],
        },
      },
    ],
  },
});
