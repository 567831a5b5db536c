/** The entities of the random programs with relations, and what a program may do to them before it flushes. */
import {
  type Collection,
  type EntityManager,
  type Opt,
  Cascade,
  PrimaryKeyProp,
  defineEntity,
  p,
} from '@mikro-orm/core';
import { VersionField, touch } from '@mikro-ool/core';

class Address {
  city!: string;
  zip!: Opt<string> | null;
}
class Org {
  id!: number;
  name!: string;
  address!: Address;
  teams!: Collection<Team>;
  profile!: Profile | null | undefined;
  version!: Opt<number>;
}
class Profile {
  id!: number;
  bio!: string;
  org!: Org;
  version!: Opt<number>;
}
class Team {
  id!: number;
  name!: string;
  org!: Org;
  members!: Collection<Person>;
  seats!: Collection<Seat>;
  version!: Opt<number>;
}
class Seat {
  [PrimaryKeyProp]?: ['team', 'no'];
  team!: Team;
  no!: number;
  holder!: Person | null | undefined;
  version!: Opt<number>;
}
class Person {
  id!: number;
  name!: string;
  boss!: Person | null | undefined;
  version!: Opt<number>;
}
class Employee extends Person {
  salary!: number;
}
class Asset {
  id!: number;
  label!: string;
  version!: Opt<number>;
}
class Car extends Asset {
  plate!: string;
}

const version = p.type(VersionField);
const rootOf = (...aggregate: string[]) => p.type(new VersionField({ aggregate }));
const id = p.integer().primary();

/**
 * 1:m with orphan removal, 1:1, m:1 to itself, m:n, cascades, an embeddable, both kinds of inheritance, a composite key, and
 * aggregates: an organisation with its teams, which are those of their seats and members.
 */
export const entities = [
  defineEntity({
    class: Address,
    embeddable: true,
    properties: { city: p.string(), zip: p.string().nullable() },
  } as never),
  defineEntity({
    class: Org,
    properties: {
      id,
      name: p.string(),
      address: () => p.embedded(Address),
      teams: () => p.oneToMany(Team).mappedBy('org').orderBy({ id: 'asc' }).orphanRemoval().cascade(Cascade.ALL),
      profile: () => p.oneToOne(Profile).mappedBy('org').orphanRemoval().cascade(Cascade.ALL).nullable(),
      version: rootOf('teams', 'profile'),
    },
  } as never),
  defineEntity({
    class: Profile,
    properties: { id, bio: p.string(), org: () => p.oneToOne(Org).inversedBy('profile'), version },
  } as never),
  defineEntity({
    class: Team,
    properties: {
      id,
      name: p.string(),
      org: () => p.manyToOne(Org),
      members: () => p.manyToMany(Person).owner().orderBy({ id: 'asc' }),
      seats: () => p.oneToMany(Seat).mappedBy('team').orderBy({ no: 'asc' }).cascade(Cascade.PERSIST),
      version: rootOf('seats', 'members'),
    },
  } as never),
  defineEntity({
    class: Seat,
    properties: {
      team: () => p.manyToOne(Team).primary().deleteRule('cascade'),
      no: p.integer().primary(),
      holder: () => p.manyToOne(Person).nullable().deleteRule('set null'),
      version,
    },
  } as never),
  defineEntity({
    class: Person,
    discriminatorColumn: 'kind',
    discriminatorValue: 'person',
    properties: {
      id,
      kind: p.string(),
      name: p.string(),
      boss: () => p.manyToOne(Person).nullable().deleteRule('set null'),
      version,
    },
  } as never),
  defineEntity({
    class: Employee,
    extends: Person,
    discriminatorValue: 'employee',
    properties: { salary: p.integer() },
  } as never),
  defineEntity({ class: Asset, inheritance: 'tpt', properties: { id, label: p.string(), version } } as never),
  defineEntity({ class: Car, extends: Asset, properties: { plate: p.string() } } as never),
];

/** Tables with the m:n links first, so that they can be emptied in this order. */
export const TABLES = ['team_members', 'seat', 'profile', 'team', 'org', 'person', 'car', 'asset'];

/** Two organisations, with four teams, their seats and members, six persons and four assets. */
export async function seed(em: EntityManager): Promise<void> {
  const make = <T>(Class: new () => T, data: object) => em.create(Class as never, data as never) as T;
  const people = [1, 2, 3].map((i) => make(Person, { id: i, name: `p${i}` }));
  people.push(...[4, 5, 6].map((i) => make(Employee, { id: i, name: `e${i}`, salary: i })));
  [0, 1, 4].forEach((i) => (people[i]!.boss = people[i + 1]));
  for (const i of [1, 2]) {
    const org = make(Org, { id: i, name: `o${i}`, address: { city: `c${i}`, zip: null } });
    make(Profile, { id: i, bio: `b${i}`, org });
    for (const k of [2 * i - 1, 2 * i]) {
      const team = make(Team, { id: k, name: `t${k}`, org });
      [1, 2].forEach((no) => make(Seat, { team, no, holder: people[(k + no) % 6] }));
      team.members.set([people[k]!, people[k + 1]!]);
    }
  }
  [1, 2].forEach((i) => make(Asset, { id: i, label: `a${i}` }));
  [3, 4].forEach((i) => make(Car, { id: i, label: `c${i}`, plate: `p${i}` }));
  await em.flush();
}

/** Everything, loaded into one EntityManager, in the same order each time. */
export interface Loaded {
  readonly em: EntityManager;
  readonly orgs: Org[];
  readonly teams: Team[];
  readonly seats: Seat[];
  readonly people: Person[];
  readonly assets: Asset[];
}

export async function load(em: EntityManager): Promise<Loaded> {
  const orderBy = { id: 'asc' } as never;
  const people = await em.find(Person, {}, { orderBy });
  const orgs = await em.find(
    Org,
    {},
    { orderBy, populate: ['teams', 'teams.members', 'teams.seats', 'profile'] as never },
  );
  const teams = await em.find(Team, {}, { orderBy });
  const seats = await em.find(Seat, {}, { orderBy: { team: 'asc', no: 'asc' } as never });
  const assets = await em.find(Asset, {}, { orderBy });
  return { em, orgs, teams, seats, people, assets };
}

export interface Step {
  readonly op: keyof typeof OPERATIONS;
  readonly n: number;
  readonly m: number;
}

const pick = <T>(list: readonly T[], n: number): T => list[n % list.length]!;
const all = ({ orgs, teams, seats, people, assets }: Loaded) => [...orgs, ...teams, ...seats, ...people, ...assets];

/** Each takes what is loaded, and two numbers to choose by; new keys come from the second counter, so that they differ. */
export const OPERATIONS = {
  renameOrg: ({ orgs }: Loaded, n: number, m: number) => void (pick(orgs, n).name = `name ${m}`),
  moveOrg: ({ orgs }: Loaded, n: number, m: number) => void (pick(orgs, n).address.city = `city ${m}`),
  replaceAddress({ orgs, em }: Loaded, n: number, m: number): void {
    em.assign(pick(orgs, n), { address: { city: `city ${m}`, zip: m % 2 ? null : `${m}` } } as never);
  },
  renameTeam: ({ teams }: Loaded, n: number, m: number) => void (pick(teams, n).name = `name ${m}`),
  addTeam({ orgs, teams, people, em }: Loaded, n: number, m: number, key: number): void {
    const team = em.create(Team, { id: key, name: 'new', org: pick(orgs, n) } as never) as Team;
    team.members.add(pick(people, m));
    em.create(Seat, { team, no: 1, holder: pick(people, n) } as never);
    teams.push(team);
  },
  orphanTeam({ orgs }: Loaded, n: number, m: number): void {
    const org = pick(orgs, n);
    const items = org.teams.getItems();
    if (items.length > 0) {
      org.teams.remove(pick(items, m));
    }
  },
  handOverTeam: ({ orgs, teams }: Loaded, n: number, m: number) => void (pick(teams, n).org = pick(orgs, m)),
  removeOrg: ({ orgs, em }: Loaded, n: number) => void em.remove(pick(orgs, n)),
  changeProfile({ orgs }: Loaded, n: number, m: number): void {
    const { profile } = pick(orgs, n);
    if (profile) {
      profile.bio = `bio ${m}`;
    }
  },
  dropProfile: ({ orgs }: Loaded, n: number) => void (pick(orgs, n).profile = null),
  addMember: ({ teams, people }: Loaded, n: number, m: number) => void pick(teams, n).members.add(pick(people, m)),
  removeMember: ({ teams, people }: Loaded, n: number, m: number) =>
    void pick(teams, n).members.remove(pick(people, m)),
  setMembers: ({ teams, people }: Loaded, n: number, m: number) =>
    void pick(teams, n).members.set([pick(people, m), pick(people, n)]),
  clearMembers: ({ teams }: Loaded, n: number) => void pick(teams, n).members.removeAll(),
  renamePerson: ({ people }: Loaded, n: number, m: number) => void (pick(people, n).name = `name ${m}`),
  raise({ people }: Loaded, n: number, m: number): void {
    const person = pick(people, n);
    if (person instanceof Employee) {
      person.salary = 100 + m;
    }
  },
  promote({ people }: Loaded, n: number, m: number): void {
    const boss = pick(people, m);
    pick(people, n).boss = m % 5 === 0 ? null : boss;
  },
  hire({ people, em }: Loaded, n: number, m: number, key: number): void {
    const Class = n % 2 ? Person : Employee;
    people.push(em.create(Class, { id: key, name: 'new', boss: pick(people, m), salary: m } as never) as Person);
  },
  /** Two new ones, each the boss of the other: MikroORM writes one of the links by an update of its own. */
  hirePair({ people, em }: Loaded, _n: number, _m: number, key: number): void {
    const [a, b] = [key, key + 500].map((one) => em.create(Person, { id: one, name: 'pair' } as never) as Person);
    a!.boss = b;
    b!.boss = a;
    people.push(a!, b!);
  },
  dismiss: ({ people, em }: Loaded, n: number) => void em.remove(pick(people, n)),
  seat: ({ seats, people }: Loaded, n: number, m: number) =>
    void (pick(seats, n).holder = m % 4 === 0 ? null : pick(people, m)),
  removeSeat: ({ seats, em }: Loaded, n: number) => void em.remove(pick(seats, n)),
  relabel: ({ assets }: Loaded, n: number, m: number) => void (pick(assets, n).label = `label ${m}`),
  replate({ assets }: Loaded, n: number, m: number): void {
    const asset = pick(assets, n);
    if (asset instanceof Car) {
      asset.plate = `plate ${m}`;
    }
  },
  buy({ assets, em }: Loaded, n: number, m: number, key: number): void {
    const Class = n % 2 ? Asset : Car;
    assets.push(em.create(Class, { id: key, label: `new ${m}`, plate: `${m}` } as never) as Asset);
  },
  sell: ({ assets, em }: Loaded, n: number) => void em.remove(pick(assets, n)),
  touch(loaded: Loaded, n: number): void {
    const entity = pick(all(loaded), n);
    const { em } = loaded;
    const uow = em.getUnitOfWork();
    if (uow.getOriginalEntityData(entity) && !uow.getRemoveStack().has(entity)) {
      touch(entity);
    }
  },
  claim(loaded: Loaded, n: number): void {
    // the version that it has, said once more
    const entity = pick(all(loaded), n);
    if (loaded.em.getUnitOfWork().getOriginalEntityData(entity)) {
      entity.version = Number(entity.version);
    }
  },
} satisfies Record<string, (loaded: Loaded, n: number, m: number, key: number) => void>;

export function apply(loaded: Loaded, steps: readonly Step[]): void {
  steps.forEach(({ op, n, m }, i) => OPERATIONS[op](loaded, n, m, 100 + i));
}

/** What memory says: the version of every entity that is managed, and the items of its collections. */
export function memory({ em }: Loaded): Record<string, unknown> {
  const known = [...em.getUnitOfWork().getIdentityMap()] as (object & { version?: number })[];
  const keyOf = (entity: object) =>
    `${entity.constructor.name} ${JSON.stringify((entity as { __helper: { getSerializedPrimaryKey(): string } }).__helper.getSerializedPrimaryKey())}`;
  const collections = (entity: object) =>
    ['teams', 'members', 'seats'].flatMap((name) => {
      const items = (entity as Record<string, Collection<object> | undefined>)[name];
      return items?.isInitialized() ? [[name, items.getItems().map(keyOf).toSorted()]] : [];
    });
  return Object.fromEntries(
    known
      .map((entity): [string, unknown] => [keyOf(entity), [entity.version, ...collections(entity)]])
      .toSorted(([a], [b]) => (a < b ? -1 : 1)),
  );
}

type Row = Readonly<Record<string, unknown>>;
/** The rows of each table, as text. */
export type State = Readonly<Record<string, readonly string[]>>;

/** A part, and what says whose it is: rows are told apart by their key. */
const PARTS: readonly { root: string; table: string; key: (row: Row) => unknown; owner: string }[] = [
  { root: 'org', table: 'team', key: ({ id: key }) => key, owner: 'org_id' },
  { root: 'org', table: 'profile', key: ({ id: key }) => key, owner: 'org_id' },
  { root: 'team', table: 'seat', key: (row) => `${String(row['team_id'])} ${String(row['no'])}`, owner: 'team_id' },
  { root: 'team', table: 'team_members', key: (row) => JSON.stringify(row), owner: 'team_id' },
];

/**
 * The roots that one flush has bumped, or not, against what the rows of their parts say. Whatever the database changes by
 * itself, when a person is removed, has no new version, and what was touched looks as it did before.
 */
export function wrongRoots(before: State, after: State, isTouched: boolean): string[] {
  const rowsOf = (state: State, table: string, key: (row: Row) => unknown = ({ id: one }) => one) =>
    new Map(state[table]!.map((text) => JSON.parse(text) as Row).map((row) => [key(row), row]));
  const people = rowsOf(after, 'person');
  // links of theirs may even come and go in this flush
  const areGone = [...rowsOf(before, 'person').keys()].some((one) => !people.has(one));
  const must = new Set<string>();
  for (const { root, table, key, owner } of PARTS) {
    const [old, now] = [rowsOf(before, table, key), rowsOf(after, table, key)];
    for (const one of new Set([...old.keys(), ...now.keys()])) {
      const rows = [old.get(one), now.get(one)];
      if (rows[0]?.['version'] !== rows[1]?.['version'] || !rows[0] || !rows[1]) {
        const isByDatabase = table === 'team_members' && !people.has((rows[0] ?? rows[1])!['person_id']);
        rows.forEach((row) => row && !isByDatabase && must.add(`${root} ${String(row[owner])}`));
      }
    }
  }
  return ['org', 'team'].flatMap((table) => {
    const old = rowsOf(before, table);
    return [...rowsOf(after, table)].flatMap(([one, row]) => {
      const was = old.get(one);
      const name = `${table} ${String(one)}`;
      const isChanged = JSON.stringify({ ...was, version: 0 }) !== JSON.stringify({ ...row, version: 0 });
      const bumps = was && Number(row['version']) - Number(was['version']);
      const isRight =
        bumps === undefined || bumps === 1
          ? bumps === undefined || must.has(name) || isChanged || isTouched || (table === 'team' && areGone)
          : bumps === 0 && !must.has(name) && !isChanged;
      return isRight ? [] : [`${name} was bumped ${bumps} times`];
    });
  });
}
