/** Classes that extend others: one table, a table per class, an abstract base or a mixin; the version is one of the row's. */
import { type Dictionary, type EntitySchema, LockMode, type Opt, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, InvalidVersion, VersionField, VersionNotLoaded, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, inTransaction, open, refusal, testUnless, testWhere, thrown } from '../harness.ts';

type Species = 'Animal' | 'Dog' | 'Puppy' | 'Cat';
type Row = Dictionary & { id: number; name: string; version?: number };

interface Shape {
  readonly name: string;
  readonly tables: 'one' | 'per type' | 'each its own';
  /** The classes that declare the version. */
  readonly owners: readonly Species[];
}

const shapes: Shape[] = [
  { name: 'single-table, version on the root', tables: 'one', owners: ['Animal'] },
  { name: 'single-table, version on a middle class', tables: 'one', owners: ['Dog'] },
  { name: 'single-table, version on a leaf', tables: 'one', owners: ['Puppy'] },
  { name: 'single-table, version on siblings', tables: 'one', owners: ['Dog', 'Cat'] },
  { name: 'joined-table, version on the root', tables: 'per type', owners: ['Animal'] },
  { name: 'joined-table, version on a middle class', tables: 'per type', owners: ['Dog'] },
  { name: 'joined-table, version on a leaf', tables: 'per type', owners: ['Puppy'] },
  { name: 'joined-table, version on siblings', tables: 'per type', owners: ['Dog', 'Cat'] },
  { name: 'abstract base class', tables: 'each its own', owners: ['Animal'] },
  { name: 'abstract base class, version on a child', tables: 'each its own', owners: ['Dog'] },
];

/** The columns that each class adds. */
const columns: Record<Species, string[]> = { Animal: ['name'], Dog: ['breed'], Puppy: ['toy'], Cat: ['mood'] };
const lineage: Record<Species, Species[]> = {
  Animal: ['Animal'],
  Dog: ['Animal', 'Dog'],
  Puppy: ['Animal', 'Dog', 'Puppy'],
  Cat: ['Animal', 'Cat'],
};
const concrete = ['Dog', 'Puppy', 'Cat'] as const;

/** The class whose table has the version of a species, if any. */
const ownerOf = (species: Species, { owners }: Shape) => lineage[species].find((s) => owners.includes(s));

/** The classes of a shape; Dog 1, Puppy 2, Cat 3, Dog 4, and so on. */
function zoo({ tables, owners }: Shape) {
  abstract class Animal {
    id!: number;
    name!: string;
  }
  class Dog extends Animal {
    breed!: string;
  }
  class Puppy extends Dog {
    toy!: string;
  }
  class Cat extends Animal {
    mood!: string;
  }
  const classes = { Animal, Dog, Puppy, Cat } as unknown as Record<Species, new () => Row>;
  const properties = (species: Species, own: Dictionary = {}) => ({
    ...own,
    ...Object.fromEntries(columns[species].map((column) => [column, p.string().nullable()])),
    ...(owners.includes(species) ? { version: p.type(VersionField).fieldName('lock_no') } : {}),
  });
  const schemas: Partial<Record<Species, EntitySchema>> = {};
  for (const species of ['Animal', 'Dog', 'Puppy', 'Cat'] as const) {
    const parent = lineage[species].at(-2);
    schemas[species] = defineEntity({
      class: classes[species],
      ...(parent
        ? { extends: schemas[parent], ...(tables === 'one' ? { discriminatorValue: species } : {}) }
        : {
            abstract: true,
            ...{ one: { discriminatorColumn: 'type' }, 'per type': { inheritance: 'tpt' }, 'each its own': {} }[tables],
          }),
      properties: properties(species, parent ? {} : { id: p.integer().primary() }),
    } as never);
  }
  return { classes, schemas: Object.values(schemas) as EntitySchema[] };
}

export function inheritance(driver: TestDriver): void {
  describe.each(shapes)('inheritance: $name', (shape) => {
    const versionedSpecies = concrete.filter((species) => ownerOf(species, shape));
    const rootOwns = shape.owners.includes('Animal');
    /** A Dog of joined tables may have been loaded without looking whether it is a Puppy. */
    const lookups = shape.tables === 'per type' && shape.owners.includes('Puppy') ? ['select'] : [];
    const { classes, schemas } = zoo(shape);
    const setUp = async (count = 3) => {
      const db = await open(driver, schemas);
      const em = db.fork();
      const speciesOf = (id: number) => concrete[(id - 1) % 3]!;
      const seeded: Row[] = [];
      for (let id = 1; id <= count; id++) {
        const species = speciesOf(id);
        const data = lineage[species].flatMap((s) => columns[s]).map((column) => [column, 'saved']);
        seeded.push(em.create(classes[species], { id, ...Object.fromEntries(data) } as never));
      }
      await em.flush();
      const load = async (source: ReturnType<typeof db.fork>, ids?: number[]): Promise<Row[]> => {
        const where = ids ? { id: ids } : {};
        const found =
          shape.tables === 'each its own'
            ? (await Promise.all(concrete.map((s) => source.find(classes[s], where as never)))).flat()
            : await source.find(classes.Animal, where as never);
        return [...new Set(found)].toSorted((a, b) => a.id - b.id);
      };
      const one = async (source: ReturnType<typeof db.fork>, id: number) => (await load(source, [id]))[0]!;
      /** What the database has, read by nobody's unit of work. */
      const rows = () => load(db.fork());
      const isVersioned = (row: { id: number }) => (versionedSpecies as string[]).includes(speciesOf(row.id));
      return { ...db, classes, seeded, speciesOf, load, one, rows, isVersioned };
    };
    const kindsOf = (log: string[]) =>
      log.map((sql) => sql.match(/^(?:begin|select|commit)|delete(?= from)|update(?! of)/)?.[0]);
    const versionsOf = (rows: Row[]) => rows.map((row) => row.version);

    test('new rows start at 1, in memory as in the database, and an idle flush sends nothing', async () => {
      const { fork, sent, seeded, rows, isVersioned, load } = await setUp(6);
      expect(versionsOf(seeded)).toEqual(seeded.map((row) => (isVersioned(row) ? 1 : undefined)));
      expect(versionsOf(await rows())).toEqual(versionsOf(seeded));
      const em = fork();
      await load(em);
      expect(await sent(() => em.flush())).toEqual([]);
    });

    for (const species of versionedSpecies) {
      test(`${species}: a change of any table bumps once, conflicts when stale, and is written by a retry`, async () => {
        const { fork, one, sent } = await setUp();
        const id = concrete.indexOf(species) + 1;
        const all = lineage[species].flatMap((s) => columns[s]);
        const em = fork();
        const mine = await one(em, id);
        let version = 1;
        for (const changed of [...all.map((column) => [column]), all]) {
          const change = (row: Row, value: string) =>
            changed.forEach((column) => (row[column] = `${value} ${version}`));
          const theirs = fork();
          const rival = await one(theirs, id);
          change(rival, 'theirs');
          await theirs.flush();
          expect(rival.version).toBe(version + 1);
          change(mine, 'ours');
          for (let attempt = 0; attempt < 2; attempt++) {
            const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
            expect(error).toBeInstanceOf(ConcurrentUpdate);
            expect(error.conflicts).toMatchObject([
              { entityName: species, primaryKey: id, operation: 'update', expected: version, actual: version + 1 },
            ]);
            expect(error.getEntity()).toBe(mine);
            expect(mine.version).toBe(version);
            expect(await one(fork(), id)).toEqual(rival);
          }
          await em.refresh(mine);
          change(mine, 'ours');
          await em.flush();
          version += 2;
          expect(mine.version).toBe(version);
          expect(await one(fork(), id)).toEqual(mine);
          expect(await sent(() => em.flush())).toEqual([]);
        }
      });
    }

    test('a batch of all classes: those with a version are bumped, the others are written', async () => {
      const { fork, load, rows, isVersioned, sent, speciesOf } = await setUp(30);
      const em = fork();
      const loaded = await load(em);
      const change = (row: Row, value: string) => {
        row.name = value;
        row[columns[speciesOf(row.id)][0]!] = value;
      };
      loaded.forEach((row) => change(row, 'ours'));
      const log = await sent(() => em.flush());
      if (driver.batches) {
        const updates = { one: versionedSpecies.length === 3 ? 1 : 2, 'per type': 4, 'each its own': 3 }[shape.tables];
        expect(kindsOf(log)).toEqual(inTransaction(driver, [...lookups, ...Array<string>(updates).fill('update')]));
      }
      const stored = await rows();
      for (const state of [loaded, stored]) {
        expect(versionsOf(state)).toEqual(state.map((row) => (isVersioned(row) ? 2 : undefined)));
        expect(state.every((row) => row.name === 'ours' && row[columns[speciesOf(row.id)][0]!] === 'ours')).toBe(true);
      }

      // every row has a rival, and only those with a version notice it
      const theirs = fork();
      (await load(theirs, [4, 5, 6])).forEach((row) => change(row, 'theirs'));
      await theirs.flush();
      loaded.forEach((row) => change(row, 'late'));
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      const names = error.conflicts.map((conflict) => conflict.entityName);
      expect(names.every((name) => (versionedSpecies as string[]).includes(name))).toBe(true);
      expect(error.conflicts.every((c) => c.expected === 2 && c.actual === 3)).toBe(true);
      expect((await rows()).filter((row) => row.name === 'late')).toEqual([]);
      expect(versionsOf(loaded)).toEqual(loaded.map((row) => (isVersioned(row) ? 2 : undefined)));
      for (const row of loaded.filter((r) => [4, 5, 6].includes(r.id) && isVersioned(r))) {
        await em.refresh(row);
        change(row, 'late');
      }
      await em.flush();
      expect((await rows()).every((row) => row.name === 'late')).toBe(true);
    });

    for (const count of [1, 4]) {
      test(`removing ${count} of each class: a stale one stays with all of them, a fresh one goes`, async () => {
        const { fork, load, rows, one, isVersioned, sent } = await setUp(3 * count);
        const em = fork();
        const loaded = await load(em);
        const stale = loaded.find(isVersioned)!;
        const theirs = fork();
        (await one(theirs, stale.id)).name = 'theirs';
        await theirs.flush();
        loaded.forEach((row) => em.remove(row));
        for (let attempt = 0; attempt < 2; attempt++) {
          const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
          expect(error).toBeInstanceOf(ConcurrentUpdate);
          expect(error.conflicts).toMatchObject([
            { primaryKey: stale.id, entityName: stale.constructor.name, operation: 'delete', expected: 1, actual: 2 },
          ]);
          expect(error.getEntity()).toBe(stale);
          expect((await rows()).length).toBe(3 * count);
        }
        const fresh = fork();
        (await load(fresh)).forEach((row) => fresh.remove(row));
        const log = await sent(() => fresh.flush());
        const deletes = {
          one: versionedSpecies.length === 3 ? 1 : 2,
          // a table that has the version but is not the root's goes first
          'per type': 3 + (rootOwns ? 0 : versionedSpecies.length),
          'each its own': 3,
        }[shape.tables];
        if (driver.batches) {
          expect(kindsOf(log)).toEqual(inTransaction(driver, [...lookups, ...Array<string>(deletes).fill('delete')]));
        }
        expect(await rows()).toEqual([]);
        const orphans = await Promise.all(
          log
            .flatMap((sql) => sql.match(/delete from [`"](\w+)/)?.[1] ?? [])
            .map((table) => fork().getConnection().execute(`select 1 from ${table}`)),
        );
        expect(orphans.flat()).toEqual([]);
      });
    }

    testWhere(shape.tables === 'per type')(
      'a row that has lost its part in a table is refused, beside others',
      async () => {
        const { fork, load, rows } = await setUp(9);
        const em = fork();
        const puppies = await load(em, [2, 5, 8]);
        await fork().getConnection().execute('delete from puppy where id = 5');
        puppies.forEach((row) => Object.assign(row, { name: 'a', breed: 'b', toy: 'c' }));
        const actual = ownerOf('Puppy', shape) === 'Puppy' ? null : 1;
        expect(await thrown(() => em.flush())).toMatchObject({
          conflicts: [{ entityName: 'Puppy', primaryKey: 5, operation: 'update', expected: 1, actual }],
        });
        expect((await rows()).filter(({ name }) => name !== 'saved')).toEqual([]);
      },
    );

    for (const [what, make] of Object.entries(shape.tables === 'per type' ? (driver.keepsBack ?? {}) : {})) {
      for (const table of lineage.Puppy) {
        for (const operation of ['update', 'delete'] as const) {
          // without a dialect nobody asks for triggers, and a cascade does not say what it has not taken
          const isHeard =
            driver.batches || operation === 'update' || [ownerOf('Puppy', shape), 'Animal'].includes(table);
          const name = `${what} keeps back the ${operation} of a row in table ${table}: refused, with nothing written`;
          testWhere(isHeard)(name, async () => {
            const { fork, load, rows } = await setUp(9);
            for (const sql of make(table.toLowerCase(), operation, 5)) {
              await fork().getConnection().execute(sql);
            }
            const before = await rows();
            for (const ids of [[5], [2, 5, 8]]) {
              const em = fork();
              const puppies = await load(em, ids);
              const write = (row: Row) =>
                operation === 'delete' ? em.remove(row) : Object.assign(row, { name: 'a', breed: 'b', toy: 'c' });
              puppies.forEach(write);
              const error = await thrown(() => em.flush());
              expect(error).toBeInstanceOf(ConcurrentUpdate);
              expect(error.message).toContain('was not written, although it has that version now');
              expect(error).toMatchObject({
                conflicts: [{ entityName: 'Puppy', primaryKey: 5, operation, expected: 1, actual: 1 }],
              });
              expect(versionsOf(puppies)).toEqual(puppies.map(() => 1));
              expect(await rows()).toEqual(before);
            }
            const em = fork();
            const [other] = await load(em, [2]);
            em.remove(Object.assign(other!, { toy: 'c' }));
            await em.flush();
            expect(await rows()).toEqual(before.filter(({ id }) => id !== 2));
          });
        }
      }
    }

    test('removing a row that is gone is a conflict', async () => {
      const { fork, load, isVersioned } = await setUp();
      const em = fork();
      const row = (await load(em)).find(isVersioned)!;
      const theirs = fork();
      const [same] = await load(theirs, [row.id]);
      await theirs.remove(same!).flush();
      expect(await thrown(() => em.remove(row).flush())).toMatchObject({
        conflicts: [{ entityName: row.constructor.name, operation: 'delete', expected: 1, actual: null }],
      });
    });

    for (const through of ['its own class', 'the root'] as const) {
      for (const hint of ['fields', 'exclude'] as const) {
        test(`partial loading by ${hint} through ${through} brings the version, or the write is refused`, async () => {
          const { fork, classes, one, isVersioned, speciesOf } = await setUp();
          if (through === 'the root' && shape.tables === 'each its own') {
            return;
          }
          for (const id of [1, 2, 3]) {
            const em = fork();
            const source = through === 'the root' ? classes.Animal : classes[speciesOf(id)];
            const options = hint === 'fields' ? { fields: ['name'] } : { exclude: ['version', 'mood'] };
            const [row] = (await em.find(source, { id } as never, options as never)) as unknown as Row[];
            row!.name = 'partial';
            if (!isVersioned({ id })) {
              await em.flush();
              expect((await one(fork(), id)).name).toBe('partial');
            } else if (row!.version === undefined) {
              // joined tables: MikroORM loads a part of the root's table only, and not the class
              expect([shape.tables, through, row!.constructor]).toEqual(['per type', 'the root', classes.Animal]);
              expect(rootOwns).toBe(false);
              expect(await thrown(() => em.flush())).toBeInstanceOf(VersionNotLoaded);
              expect((await one(fork(), id)).name).toBe('saved');
              em.clear();
              const [removed] = (await em.find(source, { id } as never, options as never)) as unknown as Row[];
              expect(await thrown(() => em.remove(removed!).flush())).toBeInstanceOf(VersionNotLoaded);
            } else {
              expect(row!.version).toBe(1);
              await em.flush();
              expect(row!.version).toBe(2);
              const theirs = fork();
              (await one(theirs, id)).name = 'theirs';
              await theirs.flush();
              row!.name = 'late';
              expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 2, actual: 3 }] });
            }
          }
        });
      }
    }

    test('em.lock, findOne with a version, and touch', async () => {
      const { fork, load, one, classes, speciesOf, isVersioned, rows, sent } = await setUp(6);
      const em = fork();
      const loaded = await load(em);
      const mine = loaded.filter(isVersioned);
      for (const row of mine) {
        await em.lock(row, LockMode.OPTIMISTIC, 1);
        expect(await thrown(() => em.lock(row, LockMode.OPTIMISTIC, 9))).toMatchObject({
          conflicts: [{ operation: 'check', entityName: speciesOf(row.id), expected: 9, actual: 1 }],
        });
        const options = { lockMode: LockMode.OPTIMISTIC, lockVersion: 2 } as const;
        expect(await thrown(() => fork().findOne(classes[speciesOf(row.id)], row.id as never, options))).toBeInstanceOf(
          ConcurrentUpdate,
        );
        touch(row);
      }
      const other = loaded.find((row) => !isVersioned(row));
      if (other) {
        expect(() => touch(other)).toThrow(/cannot be touched, because it has no VersionField/);
        expect(await thrown(() => em.lock(other, LockMode.OPTIMISTIC, 1))).not.toBeInstanceOf(ConcurrentUpdate);
      }
      await em.flush();
      expect(versionsOf(await rows())).toEqual(loaded.map((row) => (isVersioned(row) ? 2 : undefined)));
      expect(versionsOf(mine)).toEqual(mine.map(() => 2));
      expect(await sent(() => em.flush())).toEqual([]);
      const theirs = fork();
      (await one(theirs, mine[0]!.id)).name = 'theirs';
      await theirs.flush();
      touch(mine[0]!);
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ entityName: speciesOf(mine[0]!.id), operation: 'update', expected: 2, actual: 3 }],
      });
    });

    test('claims: alone one SELECT and no bump, with a change of any table the expected version', async () => {
      const { fork, one, rows, classes, speciesOf, sent } = await setUp(3);
      for (const species of versionedSpecies) {
        const id = concrete.indexOf(species) + 1;
        const em = fork();
        const row = await one(em, id);
        row.version = 7;
        const conflict = (operation: string) => ({
          conflicts: [{ operation, entityName: speciesOf(id), primaryKey: id, expected: 7, actual: 1 }],
        });
        expect(await thrown(() => em.flush())).toMatchObject(conflict('check'));
        row.version = 1;
        const reference = fork();
        reference.assign(reference.getReference(classes[species], id as never) as Row, { version: 1 });
        const log = await sent(() => reference.flush());
        expect(kindsOf(log)).toEqual(['begin', 'select', 'commit']);
        expect((await one(fork(), id)).version).toBe(1);
        for (const column of lineage[species].flatMap((s) => columns[s])) {
          em.assign(row, { [column]: 'claimed', version: 7 });
          expect(await thrown(() => em.flush())).toMatchObject(conflict('update'));
          expect((await one(fork(), id))[column]).toBe('saved');
          em.assign(row, { [column]: 'saved', version: 1 });
        }
        // as a form does it: no read, right away
        const form = fork();
        form.assign(form.getReference(classes[species], id as never) as Row, {
          [columns[species][0]!]: 'form',
          version: 1,
        });
        const sentByForm = await sent(() => form.flush());
        expect(sentByForm.some((sql) => sql.startsWith('select'))).toBe(false);
        expect(await one(fork(), id)).toMatchObject({ [columns[species][0]!]: 'form', version: 2 });
        const removal = fork();
        removal.remove(removal.assign(removal.getReference(classes[species], id as never) as Row, { version: 1 }));
        expect(await thrown(() => removal.flush())).toMatchObject({
          conflicts: [{ operation: 'delete', entityName: species, expected: 1, actual: 2 }],
        });
        row.version = -1;
        row.name = 'nonsense';
        const error = await thrown(() => em.flush());
        expect(error).toBeInstanceOf(InvalidVersion);
        expect(error.message).toMatch(new RegExp(`^${species}\\.version is -1`));
      }
      expect((await rows()).length).toBe(3);
    });

    test('a reference without a version is not written, whichever class it was made of', async () => {
      const { fork, rows, classes } = await setUp(3);
      for (const species of versionedSpecies) {
        const id = concrete.indexOf(species) + 1;
        for (const name of shape.tables === 'each its own' ? [species] : lineage[species]) {
          const em = fork();
          (em.getReference(classes[name], id as never) as Row).name = 'blind';
          const error = await thrown(() => em.flush());
          expect([name, error.name]).toEqual([name, 'VersionNotLoaded']);
          em.clear();
          em.remove(em.getReference(classes[name], id as never));
          expect((await thrown(() => em.flush())).name).toBe('VersionNotLoaded');
        }
      }
      expect((await rows()).every((row) => row.name === 'saved')).toBe(true);
    });

    test('a failed flush with new rows leaves everything as it was, and a retry writes it once', async () => {
      const { fork, load, classes, one, rows, isVersioned, sent } = await setUp(6);
      const em = fork();
      const loaded = await load(em);
      const stale = loaded.findLast(isVersioned)!;
      const theirs = fork();
      (await one(theirs, stale.id)).name = 'theirs';
      await theirs.flush();
      const fresh = concrete.map((species, i) => {
        const data = lineage[species].flatMap((s) => columns[s]).map((column) => [column, 'new']);
        return em.create(classes[species], { id: 100 + i, ...Object.fromEntries(data) } as never);
      });
      const gone = loaded.find((row) => isVersioned(row) && row !== stale)!;
      em.remove(gone);
      const changed = loaded.filter((row) => row !== gone);
      changed.forEach((row) => (row.name = 'ours'));
      for (let attempt = 0; attempt < 2; attempt++) {
        expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
        expect(versionsOf([...changed, gone])).toEqual(
          [...changed, gone].map((row) => (isVersioned(row) ? 1 : undefined)),
        );
        expect((await rows()).map((row) => row.name).filter((name) => name !== 'saved')).toEqual(['theirs']);
      }
      await em.refresh(stale);
      stale.name = 'ours';
      await em.flush();
      const stored = await rows();
      expect(stored.map((row) => [row.id, row.name])).toEqual([
        ...changed.map((row) => [row.id, 'ours']),
        ...fresh.map((row) => [row.id, 'new']),
      ]);
      expect(versionsOf(stored)).toEqual(versionsOf([...changed, ...fresh]));
      expect(await sent(() => em.flush())).toEqual([]);
    });

    test('a dirty entity that is read again keeps its version, through its own class and through the root', async () => {
      const { fork, one, classes, speciesOf } = await setUp();
      for (const species of versionedSpecies) {
        const id = concrete.indexOf(species) + 1;
        const em = fork();
        const mine = await one(em, id);
        mine.name = 'ours';
        const theirs = fork();
        (await one(theirs, id))[columns[species][0]!] = 'theirs';
        await theirs.flush();
        await one(em, id);
        await em.find(classes[speciesOf(id)], { id } as never, { fields: ['name'] } as never);
        expect(mine.version).toBe(1);
        expect(await thrown(() => em.flush())).toMatchObject({
          conflicts: [{ entityName: species, expected: 1, actual: 2 }],
        });
      }
    });

    test('set-based writes bump the rows of the table that has the version', async () => {
      const { fork, one, classes } = await setUp();
      for (const species of versionedSpecies) {
        const id = concrete.indexOf(species) + 1;
        const owner = ownerOf(species, shape)!;
        const version = async () => (await one(fork(), id)).version;
        const target = shape.tables === 'per type' ? owner : species;
        const column = columns[target][0]!;
        await fork().nativeUpdate(classes[target], { id } as never, { [column]: 'native' } as never);
        expect(await version()).toBe(2);
        await fork()
          .createQueryBuilder(classes[target])
          .update({ [column]: 'qb' } as never)
          .where({ id })
          .execute();
        expect(await version()).toBe(3);
        await fork().nativeUpdate(classes[target], { id } as never, { version: 9 } as never);
        expect(await version()).toBe(9);
        if (shape.tables === 'per type') {
          // not even MikroORM can do it in one statement: the version is in another table
          for (const other of lineage[species].filter((s) => s !== owner)) {
            await fork().nativeUpdate(classes[other], { id } as never, { [columns[other][0]!]: 'native' } as never);
            expect(await version()).toBe(9);
          }
        }
      }
    });

    const testUpserts = shape.tables === 'one' ? testUnless(driver, 'upsert of single-table inheritance') : test;
    testUpserts('upserts bump rows that exist, whichever table they change, and start new ones as given', async () => {
      const { fork, one, classes } = await setUp();
      for (const species of versionedSpecies) {
        const id = concrete.indexOf(species) + 1;
        const all = lineage[species].flatMap((s) => columns[s]);
        const type = shape.tables === 'one' ? { type: species } : {};
        const data = (value: string, more = {}) =>
          ({ id, ...type, ...Object.fromEntries(all.map((column) => [column, value])), ...more }) as never;
        const state = async (key = id) => {
          const row = await one(fork(), key);
          return [row.version, ...all.map((column) => row[column])];
        };
        const filled = (version: number, value: string) => [version, ...all.map(() => value)];
        const upserted = (await fork().upsert(classes[species], data('one'))) as Row;
        expect(upserted.version).toBe(2);
        expect(await state()).toEqual(filled(2, 'one'));
        await fork().upsert(classes[species], data('older', { version: 1 }));
        expect(await state()).toEqual(filled(3, 'older'));
        await fork().upsert(classes[species], data('event', { version: 40 }));
        expect(await state()).toEqual(filled(40, 'event'));
        await fork().upsertMany(classes[species], [data('many'), data('many', { id: 50 + id })]);
        expect([await state(), await state(50 + id)]).toEqual([filled(41, 'many'), filled(1, 'many')]);
        await fork().upsert(classes[species], data('new', { id: 60 + id, version: 7 }));
        expect(await state(60 + id)).toEqual(filled(7, 'new'));
        for (const [i, column] of all.entries()) {
          await fork().upsert(classes[species], { id, ...type, [column]: 'part' } as never);
          expect((await one(fork(), id))[column]).toBe('part');
          expect((await state())[0]).toBe(42 + i);
        }
        await fork().upsert(classes[species], data('ignored'), { onConflictAction: 'ignore' });
        expect(await state()).toEqual(filled(41 + all.length, 'part'));
      }
    });

    if (driver.concurrent) {
      test('removing waits for a rival that is writing the row, and is refused then', async () => {
        const { fork, one, rows } = await setUp();
        for (const species of versionedSpecies) {
          const id = concrete.indexOf(species) + 1;
          for (const column of lineage[species].flatMap((s) => columns[s])) {
            const em = fork();
            em.remove(await one(em, id));
            const theirs = fork();
            await theirs.begin();
            const rival = await one(theirs, id);
            rival[column] += '!';
            await theirs.flush();
            const ours = thrown(() => em.flush());
            await new Promise((resolve) => setTimeout(resolve, 50));
            await theirs.commit();
            expect(await ours).toMatchObject({
              conflicts: [{ operation: 'delete', entityName: species, actual: rival.version }],
            });
          }
        }
        expect((await rows()).length).toBe(3);
      });
    }
  });

  describe('inheritance and cascades of the database', () => {
    for (const tables of ['one', 'per type'] as const) {
      for (const owners of [['Node'], ['Folder'], ['File'], ['Folder', 'File']]) {
        test(`a tree in ${tables === 'one' ? 'one table' : 'a table per type'}, version on ${owners.join(' and ')}: removed as a whole, or not at all`, async () => {
          class Node {
            id!: number;
            name!: string;
            parent!: Node | null;
          }
          class Folder extends Node {}
          class File extends Node {}
          const version = (name: string) => (owners.includes(name) ? { version: p.type(VersionField) } : {});
          const NodeSchema = defineEntity({
            class: Node,
            abstract: true,
            ...(tables === 'one' ? { discriminatorColumn: 'type' } : { inheritance: 'tpt' }),
            properties: {
              id: p.integer().primary(),
              name: p.string(),
              parent: () => p.manyToOne(Node).nullable().deleteRule('cascade'),
              ...version('Node'),
            },
          } as never);
          const child = (type: typeof Node, name: string) =>
            defineEntity({
              class: type,
              extends: NodeSchema,
              properties: { [name]: p.string().nullable(), ...version(name) },
            } as never);
          const db = await open(driver, [NodeSchema, child(Folder, 'Folder'), child(File, 'File')]);
          const seed = db.fork();
          let parent: Node | null = null;
          for (let id = 1; id <= 6; id++) {
            // a file may contain a folder here, so that neither class comes first
            const node: Node = seed.create(id % 2 ? Folder : File, { id, name: 'saved', parent } as never);
            parent = id % 3 ? node : parent;
          }
          await seed.flush();
          const load = async (em: ReturnType<typeof db.fork>) => await em.find(Node, {}, { orderBy: { id: 'asc' } });
          for (const node of (await load(db.fork())).filter((n) => 'version' in n)) {
            const em = db.fork();
            (await load(em)).forEach((n) => em.remove(n));
            const theirs = db.fork();
            const rival = await theirs.findOneOrFail(Node, node.id);
            rival.name += '!';
            await theirs.flush();
            const expected = (node as Node & { version: number }).version;
            expect(await thrown(() => em.flush())).toMatchObject({
              conflicts: [{ operation: 'delete', primaryKey: node.id, expected, actual: expected + 1 }],
            });
            expect(await db.fork().count(Node)).toBe(6);
          }
          const em = db.fork();
          (await load(em)).forEach((node) => em.remove(node));
          await em.flush();
          expect(await db.fork().count(Node)).toBe(0);
        });
      }
    }
  });

  describe('inheritance by other means', () => {
    test('a mixin that returns a base class, and a shared object of properties', async () => {
      const versioned = () => {
        abstract class Versioned {
          version!: Opt<number>;
        }
        return Versioned;
      };
      class Dog extends versioned() {
        id!: number;
        name!: string;
      }
      class Cat extends versioned() {
        id!: number;
        name!: string;
        lives!: Opt<number>;
      }
      const shared = { id: p.integer().primary(), name: p.string(), version: p.type(VersionField) };
      const db = await open(driver, [
        defineEntity({ class: Dog, properties: shared }),
        defineEntity({ class: Cat, properties: { ...shared, lives: p.integer().default(9) } }),
      ]);
      const em = db.fork();
      const pets = [1, 2].flatMap((id) => [em.create(Dog, { id, name: 'new' }), em.create(Cat, { id, name: 'new' })]);
      await em.flush();
      pets.forEach((pet) => (pet.name = 'changed'));
      await em.flush();
      expect(pets.map((pet) => pet.version)).toEqual([2, 2, 2, 2]);
      await db.fork().nativeUpdate(Cat, { id: 2 }, { name: 'theirs' });
      pets.forEach((pet) => (pet.name = 'late'));
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ entityName: 'Cat', primaryKey: 2, expected: 2, actual: 3 }],
      });
    });

    test('siblings in one table that keep their versions in two columns are refused', async () => {
      const Animal = defineEntity({
        name: 'Animal',
        abstract: true,
        discriminatorColumn: 'type',
        properties: { id: p.integer().primary() },
      });
      const child = (name: string, property: string) =>
        defineEntity({ name, extends: Animal, properties: { [property]: p.type(VersionField) } } as never);
      const said = await refusal(driver, [Animal, child('Dog', 'version'), child('Cat', 'revision')]);
      expect(said).toMatch(/^Animal\.\w+ is not the only version: there are \w+ and \w+\./);
    });

    for (const tables of ['one', 'per type'] as const) {
      const testGenerated = tables === 'one' ? testUnless(driver, 'nullable generated columns') : test;
      testGenerated(
        `generated columns of every class come back from a batch (${tables === 'one' ? 'one table' : 'a table per type'})`,
        async () => {
          const loud = (column: string) => p.string().generated(`(upper(${column})) stored`);
          const Animal = defineEntity({
            name: 'Animal',
            ...(tables === 'one' ? { discriminatorColumn: 'type' } : { inheritance: 'tpt' }),
            properties: {
              id: p.integer().primary(),
              name: p.string(),
              loudName: loud('name'),
              version: p.type(VersionField),
            },
          } as never) as unknown as EntitySchema<Row>;
          const child = (name: string, column: string) =>
            defineEntity({
              name,
              extends: Animal,
              properties: { [column]: p.string().nullable(), [`loud_${column}`]: loud(column) },
            } as never) as unknown as EntitySchema<Row>;
          const [Dog, Cat] = [child('Dog', 'breed'), child('Cat', 'mood')];
          const db = await open(driver, [Animal, Dog, Cat]);
          const em = db.fork();
          const rows = [1, 2, 3, 4].map((id) =>
            em.create(id % 2 ? Dog : Cat, { id, name: 'new', [id % 2 ? 'breed' : 'mood']: 'new' } as never),
          );
          await em.flush();
          rows.forEach((row) => (row.name = row['breed' in row ? 'breed' : 'mood'] = 'changed'));
          await em.flush();
          const stored = await db.fork().find(Animal, {}, { orderBy: { id: 'asc' } });
          expect(stored.map((row) => row.loudName)).toEqual(rows.map(() => 'CHANGED'));
          expect(rows.map((row) => row.loudName)).toEqual(rows.map(() => 'CHANGED'));
          expect(rows.map((row) => row.loud_breed ?? row.loud_mood)).toEqual(rows.map(() => 'CHANGED'));
        },
      );
    }

    test('joined tables: a removal that another table refuses leaves both tables as they were, without implicit transactions too', async () => {
      class Animal {
        id!: number;
      }
      class Dog extends Animal {
        version!: Opt<number>;
      }
      class Bowl {
        id!: number;
        animal!: Animal;
      }
      const AnimalSchema = defineEntity({
        class: Animal,
        inheritance: 'tpt',
        properties: { id: p.integer().primary() },
      });
      const DogSchema = defineEntity({
        class: Dog,
        extends: AnimalSchema,
        properties: { version: p.type(VersionField) },
      } as never);
      const BowlSchema = defineEntity({
        class: Bowl,
        properties: { id: p.integer().primary(), animal: () => p.manyToOne(Animal) },
      });
      for (const implicitTransactions of [true, false]) {
        const db = await open(driver, [AnimalSchema, DogSchema, BowlSchema], { implicitTransactions });
        const seed = db.fork();
        seed.create(Bowl, { id: 1, animal: seed.create(Dog, { id: 1 }) });
        await seed.flush();
        const em = db.fork();
        const remove = async (source: typeof em) => {
          const dog = await source.findOneOrFail(Dog, 1);
          const error = await thrown(() => source.remove(dog).flush());
          expect(error.message).toMatch(/foreign key/i);
        };
        await remove(em);
        expect(await db.fork().count(Dog)).toBe(1);
        await db.fork().transactional(async (tx) => {
          await remove(tx as typeof em);
          tx.clear();
        });
        expect(await db.fork().count(Dog)).toBe(1);
      }
    });

    test('joined tables: a unique value of the child table moves in an update of its own, and all is checked', async () => {
      class Animal {
        id!: number;
        name!: string;
        version!: Opt<number>;
      }
      class Dog extends Animal {
        chip!: string | null;
      }
      const AnimalSchema = defineEntity({
        class: Animal,
        inheritance: 'tpt',
        properties: { id: p.integer().primary(), name: p.string(), version: p.type(VersionField) },
      });
      const DogSchema = defineEntity({
        class: Dog,
        extends: AnimalSchema,
        properties: { chip: p.string().unique().nullable() },
      } as never);
      const db = await open(driver, [AnimalSchema, DogSchema]);
      const seed = db.fork();
      [1, 2, 3].forEach((id) => seed.create(Dog, { id, name: 'saved', chip: `${id}` } as never));
      await seed.flush();
      const versions = async () =>
        (await db.fork().find(Dog, {}, { orderBy: { id: 'asc' } })).map((dog) => dog.version);
      for (const stale of [undefined, 1, 2]) {
        for (const alsoNamed of [false, true]) {
          const em = db.fork();
          const before = await versions();
          const [a, b] = (await em.find(Dog, { id: [1, 2] }, { orderBy: { id: 'asc' } })) as [Dog, Dog];
          const [from, to] = a.chip ? [a, b] : [b, a];
          to.chip = from.chip;
          from.chip = null;
          if (alsoNamed) {
            to.name += '!';
          }
          if (stale) {
            await db.fork().nativeUpdate(Animal, { id: stale }, { name: 'theirs' });
            const rivals = await versions();
            expect(await thrown(() => em.flush())).toMatchObject({
              conflicts: [{ entityName: 'Dog', primaryKey: stale, expected: before[stale - 1] }],
            });
            expect(await versions()).toEqual(rivals);
            expect([a.version, b.version]).toEqual(before.slice(0, 2));
          } else {
            await em.flush();
            expect(await versions()).toEqual([before[0]! + 1, before[1]! + 1, 1]);
            expect([a.version, b.version]).toEqual([before[0]! + 1, before[1]! + 1]);
          }
        }
      }
    });
  });
}
