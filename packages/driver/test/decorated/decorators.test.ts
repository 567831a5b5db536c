/** Entities declared by decorators are locked like any other: run with the standard (ES) ones, and with legacy ones. */
import { Collection, type Opt, MikroORM } from '@mikro-orm/core';
import { Entity, ManyToOne, OneToMany, PrimaryKey, Property } from '#decorators';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, VersionField, verify } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { expect, test } from 'vitest';

@Entity()
class Article {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @Property({ type: 'string' })
  title!: string;

  @Property({ type: VersionField })
  version!: Opt<number>;
}

/** An abstract base class. */
abstract class Versioned {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @Property({ type: VersionField })
  version!: Opt<number>;
}

@Entity()
class Note extends Versioned {
  @Property({ type: 'string' })
  title!: string;
}

/** A mixin. */
const withVersion = () => {
  abstract class WithVersion {
    @PrimaryKey({ type: 'integer' })
    id!: number;

    @Property({ type: VersionField })
    version!: Opt<number>;
  }
  return WithVersion;
};

@Entity()
class Memo extends withVersion() {
  @Property({ type: 'string' })
  title!: string;
}

/** One table for two classes, and only one of them has a version. */
@Entity({ abstract: true, discriminatorColumn: 'type' })
abstract class Page {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @Property({ type: 'string' })
  title!: string;
}

@Entity()
class Draft extends Page {}

@Entity()
class Post extends Page {
  @Property({ type: VersionField })
  version!: Opt<number>;
}

test.each([Article, Note, Memo, Post])(
  '%o: a decorated VersionField starts at 1, is bumped and checked',
  async (Class) => {
    const orm = await MikroORM.init({
      driver: versioned(SqliteDriver),
      dbName: ':memory:',
      entities: [Article, Note, Memo, Page, Draft, Post],
    });
    await orm.schema.create();
    const em = orm.em.fork();
    const ours = em.create(Class, { id: 1, title: 'new' });
    const draft = em.create(Draft, { id: 2, title: 'new' });
    await em.flush();
    expect(ours.version).toBe(1);
    const theirs = orm.em.fork();
    (await theirs.findOneOrFail(Class, 1)).title = 'theirs';
    await theirs.flush();
    ours.title = 'ours';
    draft.title = 'ours';
    await expect(em.flush()).rejects.toThrow(ConcurrentUpdate);
    await em.refresh(ours);
    ours.title = 'ours';
    await em.flush();
    expect(ours.version).toBe(3);
    expect(await orm.em.fork().findOneOrFail(Draft, 2)).toMatchObject({ title: 'ours' });
    await orm.close();
  },
);

@Entity()
class Counted {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @Property({ type: 'string' })
  title!: string;

  @Property({ type: 'integer', default: 0 })
  likes!: Opt<number>;

  @Property({ type: new VersionField({ exclude: ['likes'], guard: true }) })
  version!: Opt<number>;
}

test('a decorated VersionField covers what it is told to', async () => {
  const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [Counted] });
  await orm.schema.create();
  const em = orm.em.fork();
  const counted = em.create(Counted, { id: 1, title: 'new' });
  await em.flush();
  counted.likes = 1;
  await em.flush();
  expect(counted.version).toBe(1);
  counted.title = 'changed';
  await em.flush();
  expect(counted.version).toBe(2);
  // past the ORM
  await orm.em.execute(`update counted set likes = 2`);
  verify(counted);
  await em.flush();
  expect(await orm.schema.getUpdateSchemaSQL()).toBe('');
  await orm.em.execute(`update counted set title = 'raw'`);
  verify(counted);
  await expect(em.flush()).rejects.toThrow(ConcurrentUpdate);
  await orm.close();
});

@Entity()
class Whole {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @OneToMany({ entity: () => Piece, mappedBy: 'whole' })
  pieces = new Collection<Piece>(this);

  @Property({ type: new VersionField({ aggregate: ['pieces'] }) })
  version!: Opt<number>;
}

@Entity()
class Piece {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @ManyToOne({ entity: () => Whole })
  whole!: Whole;
}

test('a decorated VersionField covers its parts', async () => {
  const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [Whole, Piece] });
  await orm.schema.create();
  const em = orm.em.fork();
  const whole = em.create(Whole, { id: 1 });
  await em.flush();
  em.create(Piece, { id: 1, whole });
  await em.flush();
  expect(whole.version).toBe(2);
  await orm.close();
});

/** One table, a version with options, and a class below. */
@Entity({ discriminatorColumn: 'kind', discriminatorValue: 'ticket' })
class Ticket {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @Property({ type: 'string' })
  kind!: Opt<string>;

  @Property({ type: 'integer' })
  views!: number;

  @OneToMany({ entity: () => Seat, mappedBy: 'ticket' })
  seats = new Collection<Seat>(this);

  @Property({ type: new VersionField({ aggregate: ['seats'], exclude: ['views'], guard: true }) })
  version!: Opt<number>;
}

@Entity({ discriminatorValue: 'group' })
class GroupTicket extends Ticket {
  @Property({ type: 'integer', nullable: true })
  size?: number;
}

@Entity()
class Seat {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @ManyToOne({ entity: () => Ticket })
  ticket!: Ticket;
}

test('single-table inheritance, and what a version covers', async () => {
  const orm = await MikroORM.init({
    driver: versioned(SqliteDriver),
    dbName: ':memory:',
    entities: [Ticket, GroupTicket, Seat],
  });
  await orm.schema.create();
  const em = orm.em.fork();
  const group = em.create(GroupTicket, { id: 1, views: 0, size: 2 });
  const ticket = em.create(Ticket, { id: 2, views: 0 });
  await em.flush();
  const versions = async () => {
    const rows = await orm.em.getConnection().execute<{ version: number }[]>('select version from ticket order by id');
    return rows.map(({ version }) => version);
  };
  em.create(Seat, { id: 1, ticket: group });
  await em.flush();
  expect(await versions()).toEqual([2, 1]);
  [group, ticket].forEach((one) => one.views++);
  await em.flush();
  expect(await versions()).toEqual([2, 1]);
  group.size = 3;
  await em.flush();
  await orm.em.getConnection().execute('update ticket set size = 4 where id = 1');
  expect(await versions()).toEqual([4, 1]);
  expect([group.version, ticket.version]).toEqual([3, 1]);
  await orm.close();
});
