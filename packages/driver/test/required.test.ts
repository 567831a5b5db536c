/** A MikroORM that lacks something is refused when the ORM starts, before any SQL; one that was not tested is named. */
import { readFileSync, readdirSync } from 'node:fs';
import { type Configuration, MikroORM, type Options, Utils, defineEntity, p } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { expect, onTestFinished, test, vi } from 'vitest';
import { REQUIRED, TESTED } from '../src/mikro-orm/required.ts';
import { thrown } from './harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

const sent: string[] = [];
const log = (line: string) => void sent.push(line);

async function start(driver: typeof SqliteDriver, more: Partial<Options> = {}): Promise<MikroORM> {
  sent.length = 0;
  const options = { dbName: ':memory:', entities: [Article], debug: ['query'], logger: log, colors: false };
  const orm = await MikroORM.init({ driver: versioned(driver), ...options, ...more } as Options);
  onTestFinished(() => orm.close());
  return orm;
}

type Owner = keyof typeof REQUIRED;

/** SQLite's driver with a MikroORM that lacks one method. */
function lacking(owner: Owner, method: string): [driver: typeof SqliteDriver, options?: Partial<Options>] {
  const hide = (target: object) => void Object.defineProperty(target, method, { value: undefined, writable: true });
  class Lacking extends SqliteDriver {
    constructor(config: Configuration) {
      super(config);
      if (owner === 'connection') {
        hide(this.connection);
      }
    }
    override createEntityManager(useContext?: boolean): never {
      const em = super.createEntityManager(useContext);
      const uow = em.getUnitOfWork(false);
      const all: Partial<Record<Owner, object>> = {
        EntityFactory: em.getEntityFactory(),
        EntityComparator: em.getComparator(),
        IdentityMap: uow.getIdentityMap(),
        ChangeSetPersister: uow.getChangeSetPersister(),
        UnitOfWork: uow,
        EntityManager: em,
        SchemaHelper: em.getPlatform().getSchemaHelper(),
      };
      if (all[owner]) {
        hide(all[owner]);
      }
      return em as never;
    }
    override createQueryBuilder(...args: never[]): never {
      const qb = super.createQueryBuilder(...(args as unknown as Parameters<SqliteDriver['createQueryBuilder']>));
      if (owner === 'QueryBuilder') {
        hide(qb);
      } else if (owner === 'QueryBuilderHelper') {
        hide((qb as unknown as { helper: object }).helper);
      }
      return qb as never;
    }
  }
  if (owner === 'driver') {
    hide(Lacking.prototype);
  }
  const hides = owner === 'storage' || owner === 'metadata';
  return [
    Lacking as unknown as typeof SqliteDriver,
    hides
      ? { discovery: { afterDiscovered: (storage) => hide(owner === 'storage' ? storage : [...storage][0]!) } }
      : {},
  ];
}

const methods = Object.entries(REQUIRED).flatMap(([owner, names]) =>
  names.map((name) => [owner as Owner, name] as const),
);

/** What has none of these is no SQL driver, and is refused by `versioned()` itself. */
const ofEveryDriver = ['driver.createEntityManager', 'driver.createQueryBuilder', 'driver.nativeUpdate'];

test.each(methods.filter((path) => !ofEveryDriver.includes(path.join('.'))))(
  'without %s.%s()',
  async (owner, method) => {
    const { message } = await thrown(() => start(...lacking(owner, method)));
    expect(message).toBe(
      `versioned() cannot lock with MikroORM ${Utils.getORMVersion()}, which has no ${owner}.${method}(). It works with ` +
        `MikroORM ${TESTED.join(' to ')}: install one of these, or a newer @mikro-ool/driver.`,
    );
    expect(sent).toEqual([]);
  },
);

test('all that is missing is named at once', async () => {
  class Lacking extends SqliteDriver {}
  for (const name of ['buildFields', 'nativeDelete']) {
    Object.defineProperty(Lacking.prototype, name, { value: undefined });
  }
  expect((await thrown(() => start(Lacking as typeof SqliteDriver))).message).toContain(
    'which has no driver.buildFields(), no driver.nativeDelete(). It works',
  );
});

test('outside of the tested range it is said, once', async () => {
  vi.spyOn(Utils, 'getORMVersion').mockReturnValue('7.99.0');
  onTestFinished(() => void vi.restoreAllMocks());
  await start(SqliteDriver);
  expect(sent.filter((line) => line.startsWith('[info]'))).toEqual([
    `[info] versioned() was tested with MikroORM ${TESTED.join(' to ')}; this is 7.99.0. All that it needs is there.`,
  ]);
  await start(SqliteDriver);
  expect(sent).toEqual([]);
});

test.each(TESTED)('nothing is said of MikroORM %s', async (version) => {
  vi.spyOn(Utils, 'getORMVersion').mockReturnValue(version);
  onTestFinished(() => void vi.restoreAllMocks());
  await start(SqliteDriver);
  expect(sent).toEqual([]);
});

test.each(['core', 'driver', 'http', 'pool', 'resolve'])('@mikro-ool/%s asks for what was tested', (name) => {
  const manifest = readFileSync(new URL(`../../${name}/package.json`, import.meta.url), 'utf8');
  const { peerDependencies } = JSON.parse(manifest) as { peerDependencies: Record<string, string> };
  expect(peerDependencies['@mikro-orm/core']).toBe(`>=${TESTED[0]} <=${TESTED[1]}`);
});

test('all that is overridden is looked for', () => {
  const src = new URL('../src/', import.meta.url);
  const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'));
  const overridden = files.flatMap((file) => {
    const text = readFileSync(new URL(file, src), 'utf8');
    const onInstances = text.matchAll(
      /^ +(?:uow|em|persister|factory|connection|locks|qb|helper|registry)\.(\w+) = /gm,
    );
    return [...onInstances, ...text.matchAll(/^ +(?:protected )?override (?:async )?(\w+)/gm)].map(([, name]) => name!);
  });
  const required: readonly string[] = Object.values(REQUIRED).flat();
  expect(overridden.length).toBeGreaterThan(35);
  expect([...new Set(overridden)].filter((name) => !required.includes(name))).toEqual([]);
});
