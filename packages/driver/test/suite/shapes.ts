/** Whatever an entity looks like: its rows are checked, bumped by one, and stored as MikroORM alone stores them. */
import { type EntitySchema, Type, defineEntity, p } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type Database, type TestDriver, open, stored, thrown, withoutLock } from '../harness.ts';

type Values = Record<string, unknown>;
type Row = Values & { version: number };

export interface Shape {
  readonly name: string;
  readonly entity: EntitySchema;
  readonly rows: readonly Values[];
  /** What changes in each row. */
  readonly changes: readonly Values[];
  /** Rows of other entities that are there already. */
  readonly others?: readonly (readonly [EntitySchema, readonly Values[]])[];
  /** Cannot be one statement. */
  readonly rowByRow?: boolean;
}

const version = p.type(VersionField);

/** Upper case in the database, by SQL. */
export class Shout extends Type<string, string> {
  override convertToDatabaseValueSQL(key: string): string {
    return `upper(${key})`;
  }
  override convertToJSValueSQL(key: string): string {
    return `lower(${key})`;
  }
  override getColumnType(): string {
    return 'varchar(100)';
  }
}

/** A number, whole cents in the database, added up there. */
class Cents extends Type<number | null, number | null> {
  override convertToDatabaseValue(value: number | null): number | null {
    return value == null ? value : Math.round(value * 100);
  }
  override convertToJSValue(value: number | null): number | null {
    return value == null ? value : Number(value) / 100;
  }
  override convertToDatabaseValueSQL(key: string): string {
    return `(${key} + 0)`;
  }
  override getColumnType(): string {
    return 'int';
  }
}

const Address = defineEntity({
  name: 'Address',
  embeddable: true,
  properties: {
    street: p.string().nullable(),
    city: p.string().fieldName('town').nullable(),
    since: p.datetime(3).nullable(),
    price: p.type(Cents).nullable(),
  },
});
const Contact = defineEntity({
  name: 'Contact',
  embeddable: true,
  properties: { email: p.string(), address: () => p.embedded(Address).nullable() },
});
const homes = [
  { street: "it's", city: 'a "b"', since: new Date('2024-02-29T01:02:03.456Z'), price: 1.25 },
  { street: 'back\\slash', city: '', price: 0 },
  { street: 'ü😀\nx', city: 'c' },
];
const embedded = (name: string, property: object): Shape => ({
  name,
  entity: defineEntity({
    name: 'Person',
    properties: { id: p.integer().primary(), name: p.string(), home: () => property as never, version },
  }),
  rows: [1, 2, 3, 4].map((id) => ({ id, name: `n${id}`, home: { street: 'old', city: 'old', price: 5 } })),
  changes: [
    { home: homes[0] },
    { home: homes[1], name: 'also' },
    { name: 'only', home: { street: null } },
    { home: homes[2] },
  ],
});

const Country = defineEntity({ name: 'Country', properties: { code: p.string().primary(), version } });
const Region = defineEntity({
  name: 'Region',
  properties: {
    country: () => p.manyToOne(Country).primary(),
    number: p.integer().primary(),
    title: p.string(),
    version,
  },
});
const countries = [Country, ['de', "f'r"].map((code) => ({ code }))] as const;
const regions = [
  Region,
  [1, 2].flatMap((number) => ['de', "f'r"].map((country) => ({ country, number, title: 'old' }))),
] as const;

/** Properties behind a getter and a setter; MikroORM uses the field of the one, and the accessors of the other two. */
function guarded() {
  return class Guarded {
    id!: number;
    _name!: string;
    _mail!: string;
    _version!: number;
    get name(): string {
      return this._name;
    }
    set name(name: string) {
      this._name = name;
    }
    get mail(): string {
      return this._mail;
    }
    set mail(mail: string) {
      this._mail = mail.toLowerCase();
    }
    get version(): number {
      return this._version;
    }
    set version(next: number) {
      this._version = next;
    }
  };
}

const shapes: Shape[] = [
  embedded('inline embeddable', p.embedded(Address)),
  embedded('inline embeddable without prefix', p.embedded(Address).prefix(false)),
  embedded('object embeddable', p.embedded(Address).object()),
  {
    name: 'array of embeddables',
    entity: defineEntity({
      name: 'Person',
      properties: {
        id: p.integer().primary(),
        name: p.string(),
        homes: () => p.embedded(Address).array(),
        version,
      },
    }),
    rows: [1, 2, 3].map((id) => ({ id, name: `n${id}`, homes: [{ city: 'old' }] })),
    changes: [{ homes }, { homes: [], name: 'none' }, { homes: [homes[1], homes[0]] }],
  },
  {
    name: 'nested embeddables',
    entity: defineEntity({
      name: 'Person',
      properties: {
        id: p.integer().primary(),
        inline: () => p.embedded(Contact),
        object: () => p.embedded(Contact).object().nullable(),
        version,
      },
    }),
    rows: [1, 2, 3].map((id) => ({ id, inline: { email: 'old', address: { city: 'old' } }, object: { email: 'old' } })),
    changes: [
      { inline: { email: "it's", address: homes[0] } },
      { object: { email: 'new', address: homes[0] }, inline: { email: 'b' } },
      { object: null, inline: { address: null } },
    ],
  },
  {
    name: 'foreign key as the key',
    entity: defineEntity({
      name: 'Flag',
      properties: { country: () => p.oneToOne(Country).primary(), colors: p.string(), stripes: p.integer(), version },
    }),
    others: [countries],
    rows: ['de', "f'r"].map((country) => ({ country, colors: 'old', stripes: 3 })),
    changes: [{ colors: 'black' }, { colors: 'blue', stripes: 4 }],
  },
  {
    name: 'composite key with a foreign key',
    entity: Region,
    others: [countries],
    rows: regions[1],
    changes: [{ title: "a'" }, { title: 'b' }, { title: '' }, { title: 'd' }],
  },
  {
    name: 'composite foreign keys, one of them in the key, that share a column',
    entity: defineEntity({
      name: 'City',
      properties: {
        region: () => p.manyToOne(Region).primary().joinColumns('country_code', 'region_number'),
        name: p.string().primary(),
        twin: () =>
          p
            .manyToOne(Region)
            .nullable()
            .joinColumns('country_code', 'twin_number')
            .ownColumns('twin_number')
            .deleteRule('restrict'),
        partner: () => p.manyToOne(Region).nullable(),
        size: p.integer(),
        version,
      },
    }),
    others: [countries, regions],
    rows: regions[1].map(({ country, number }) => ({
      region: [country, number],
      name: 'x',
      size: 0,
      twin: [country, number],
    })),
    changes: [
      { size: 1, twin: ['de', 2] },
      { partner: ['de', 1] },
      { twin: null, partner: ["f'r", 2] },
      { size: 9, partner: ['de', 2] },
    ],
  },
  {
    name: 'custom types with SQL conversion',
    entity: defineEntity({
      name: 'Word',
      properties: { id: p.integer().primary(), word: p.type(Shout), price: p.type(Cents).nullable(), version },
    }),
    rows: [1, 2, 3, 4].map((id) => ({ id, word: 'old', price: 1 })),
    changes: [{ word: "it's" }, { price: 12.34 }, { word: 'b', price: -0.5 }, { price: null }],
  },
  {
    name: 'custom type with SQL conversion as the key',
    entity: defineEntity({
      name: 'Word',
      properties: { word: p.type(Shout).primary(), count: p.integer(), note: p.string().nullable(), version },
    }),
    rows: ['a', 'b', 'c'].map((word) => ({ word, count: 0 })),
    changes: [{ count: 1 }, { note: 'x' }, { count: 3, note: 'y' }],
    rowByRow: true,
  },
  {
    name: 'generated columns',
    entity: defineEntity({
      name: 'Line',
      properties: {
        id: p.integer().primary(),
        price: p.integer(),
        count: p.integer(),
        total: p.integer().generated('(price * count) stored'),
        version,
      },
    }),
    rows: [1, 2, 3].map((id) => ({ id, price: id, count: id })),
    changes: [{ price: 7 }, { count: 0 }, { price: -3, count: 100 }],
  },
  {
    name: 'generated column with a composite key',
    entity: defineEntity({
      name: 'Line',
      properties: {
        order: p.string().primary(),
        number: p.integer().primary(),
        price: p.integer(),
        double: p.integer().generated('(price * 2) stored'),
        version,
      },
    }),
    rows: [1, 2, 3].map((number) => ({ order: `o'${number % 2}`, number, price: 1 })),
    changes: [{ price: 7 }, { price: 8 }, { price: -9 }],
  },
  {
    name: 'onUpdate and onCreate',
    entity: defineEntity({
      name: 'Stamped',
      properties: {
        id: p.integer().primary(),
        title: p.string(),
        created: p.string().onCreate(() => 'created'),
        updated: p
          .string()
          .onCreate(() => 'created')
          .onUpdate((row: Values) => `updated ${String(row.title)}`),
        slug: p.string().nullable(),
        version,
      },
    }),
    rows: [1, 2, 3].map((id) => ({ id, title: 'old' })),
    changes: [{ title: 'a' }, { slug: 'b' }, { title: 'c', slug: 'd' }],
  },
  {
    name: 'accessors',
    entity: defineEntity({
      class: guarded(),
      properties: {
        id: p.integer().primary(),
        name: p.string().accessor('_name'),
        mail: p.string().accessor(),
        version: p.type(VersionField).accessor(),
      },
    } as never),
    rows: [1, 2, 3].map((id) => ({ id, name: 'old', mail: 'OLD' })),
    changes: [{ name: 'New' }, { mail: 'A@B' }, { name: 'x', mail: 'Y' }],
  },
  {
    name: 'hidden, renamed, lazy and computed properties',
    entity: defineEntity({
      name: 'Account',
      properties: {
        id: p.integer().primary(),
        secret: p.string().hidden(),
        name: p.string().serializedName('displayName'),
        bio: p.text().lazy().nullable(),
        length: p.integer().formula('length(name)').persist(false).nullable(),
        memo: p.string().persist(false).nullable(),
        version: p.type(VersionField).hidden().serializedName('v'),
      },
    }),
    rows: [1, 2, 3].map((id) => ({ id, secret: 'old', name: 'old', bio: 'old' })),
    changes: [{ secret: 's' }, { name: 'n', memo: 'not stored' }, { bio: 'b', secret: 't' }],
  },
];

/** The tests of one shape; those that only one database has are run by its own test file. */
export function shapeTests(driver: TestDriver, all: readonly Shape[]): void {
  for (const shape of all) {
    for (const count of [1, shape.rows.length]) {
      test(`${shape.name}, ${count === 1 ? 'row by row' : 'in a batch'}`, async () => {
        const plain = await openShape(driver, shape, withoutLock(driver));
        const [em, rows] = await load(plain, shape);
        for (const [i, row] of rows.entries()) {
          em.assign(row, shape.changes[i] as never);
          await em.flush();
        }
        const expected = await stored(driver, plain);
        const db = await openShape(driver, shape);
        for (let i = 0; i < rows.length; i += count) {
          await checkRows(driver, db, shape, i, count);
        }
        expect(await stored(driver, db)).toEqual(expected);
        const last = db.fork();
        (await last.find(shape.entity, {})).forEach((row) => last.remove(row as object));
        await last.flush();
        expect(await db.fork().count(shape.entity)).toBe(0);
      });
    }
  }
}

export function shapesOfAll(driver: TestDriver): void {
  describe('shapes', () => {
    shapeTests(driver, shapes);

    for (const [name, property] of [
      ['a serialised name', { version: p.type(VersionField).serializedName('etag') }],
      ['a field behind it', { version: p.type(VersionField).accessor('_version') }],
    ] as const) {
      test(`em.refresh() brings the new version and all else, also with ${name}`, async () => {
        const properties = {
          id: p.integer().primary(),
          mail: p.string().accessor(),
          name: p.string().serializedName('label'),
          ...property,
        };
        const Document = guarded();
        const schema = defineEntity({ class: Document, properties } as never);
        const { fork } = await open(driver, [schema]);
        const seed = fork();
        seed.create(Document, { id: 1, mail: 'old', name: 'old' } as never);
        await seed.flush();
        const em = fork();
        const ours = await em.findOneOrFail(Document, 1);
        const theirs = fork();
        Object.assign(await theirs.findOneOrFail(Document, 1), { mail: 'theirs', name: 'theirs' });
        await theirs.flush();
        ours.mail = 'ours';
        expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
        await em.refresh(ours);
        expect(ours).toMatchObject({ mail: 'theirs', name: 'theirs', version: 2 });
        ours.mail = 'ours';
        await em.flush();
        expect(await fork().findOneOrFail(Document, 1)).toMatchObject({
          mail: 'ours',
          name: 'theirs',
          version: 3,
        });
      });
    }

    test('em.refresh() brings what is in the database, not what is sent as JSON', async () => {
      class Cents extends Type<number, number> {
        override toJSON(value: number): number {
          return `${value} cents` as never;
        }
        override getColumnType(): string {
          return 'int';
        }
      }
      const Product = defineEntity({
        name: 'Product',
        properties: {
          id: p.integer().primary(),
          price: p.type(Cents),
          fee: p.type(Cents).serializedName('charge'),
          version: p.type(VersionField),
        },
      });
      const { fork, sent } = await open(driver, [Product]);
      const seed = fork();
      seed.create(Product, { id: 1, price: 1, fee: 1 } as never);
      await seed.flush();
      const em = fork();
      const product = await em.findOneOrFail(Product, 1);
      const theirs = fork();
      Object.assign(await theirs.findOneOrFail(Product, 1), { price: 2, fee: 2 });
      await theirs.flush();
      await em.refresh(product);
      expect([product.price, product.fee, product.version]).toEqual([2, 2, 2]);
      expect(await sent(() => em.flush())).toEqual([]);
    });
  });
}

/** Changes these rows while somebody else changes the last of them, then once more, then removes them. */
async function checkRows(driver: TestDriver, db: Database, shape: Shape, first: number, count: number): Promise<void> {
  const [em, all] = await load(db, shape);
  const change = (row: Row) => em.assign(row, shape.changes[all.indexOf(row)] as never);
  const ours = all.slice(first, first + count);
  const before = ours.map((row) => row.version);
  const stale = ours.at(-1)!;
  await touchTheirs(db, shape, all.indexOf(stale));

  const untouched = await stored(driver, db, 'with versions');
  ours.forEach(change);
  const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
  expect(error).toBeInstanceOf(ConcurrentUpdate);
  expect(error.conflicts).toMatchObject([{ operation: 'update', expected: 1, actual: 2 }]);
  expect(error.conflicts[0]!.entity).toBe(stale);
  expect(await stored(driver, db, 'with versions')).toEqual(untouched);
  expect(ours.map((row) => row.version)).toEqual(before);

  // em.refresh() of MikroORM fails for a composite foreign key inside a composite key
  await em.findOneOrFail(shape.entity, keyOf(db, shape, shape.rows[all.indexOf(stale)]!) as never, { refresh: true });
  change(stale);
  const log = await db.sent(() => em.flush());
  expect(log.filter((sql) => sql.includes('update')).length).toBe(driver.batches && !shape.rowByRow ? 1 : count);
  expect(ours.map((row) => row.version)).toEqual(ours.map((row) => (row === stale ? 3 : 2)));
  expect(await db.sent(() => em.flush())).toEqual([]);

  // what is in memory is what is in the database
  const [fresh, again] = await load(db, shape);
  for (const row of ours) {
    expect(snapshot(em, row)).toMatchObject(snapshot(fresh, again[all.indexOf(row)]!));
  }

  // a stale removal
  await touchTheirs(db, shape, all.indexOf(stale));
  const there = await stored(driver, db, 'with versions');
  ours.forEach((row) => em.remove(row));
  const removal = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
  expect(removal).toBeInstanceOf(ConcurrentUpdate);
  expect(removal.conflicts).toMatchObject([{ operation: 'delete', expected: 3, actual: 4 }]);
  expect(removal.conflicts[0]!.entity).toBe(stale);
  expect(await stored(driver, db, 'with versions')).toEqual(there);
}

async function openShape(driver: TestDriver, shape: Shape, more = {}): Promise<Database> {
  const others = shape.others ?? [];
  const db = await open(driver, [shape.entity, ...others.map(([entity]) => entity)], more);
  const em = db.fork();
  for (const [entity, rows] of [...others, [shape.entity, shape.rows] as const]) {
    rows.forEach((row) => em.create(entity, row as never));
    await em.flush();
  }
  return db;
}

/** All rows, in the order of the shape. */
async function load(db: Database, shape: Shape): Promise<[EntityManager, Row[]]> {
  const { entity, rows } = shape;
  const em = db.fork();
  const found = [];
  for (const row of rows) {
    found.push((await em.findOneOrFail(entity, keyOf(db, shape, row) as never, { populate: ['*'] as never })) as Row);
  }
  return [em, found];
}

function keyOf(db: Database, { entity }: Shape, row: Values): Values {
  const keys = db.orm.getMetadata().get(entity as never).primaryKeys as string[];
  return Object.fromEntries(keys.map((key) => [key, row[key]]));
}

async function touchTheirs(db: Database, shape: Shape, index: number): Promise<void> {
  const [theirs, rows] = await load(db, shape);
  touch(rows[index]!);
  await theirs.flush();
}

/** The state of an entity as MikroORM compares it, to the last property. */
function snapshot(em: EntityManager, row: Row): Values {
  return em.getComparator().prepareEntity(row) as Values;
}
