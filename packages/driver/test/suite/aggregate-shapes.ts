/**
 * Aggregates, however a part says whose it is, however it was loaded, and whatever is done to it: its roots are checked and
 * bumped, or nothing is sent. Whose it was, and is, is looked up in the database.
 */
import { type EntityManager, type EntitySchema, Reference, Type, defineEntity, p } from '@mikro-orm/core';
import { VersionField, VersionNotLoaded } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open } from '../harness.ts';

/** How the key of a root, and the relations between it and its part, are declared. */
interface Shape {
  readonly key: object;
  readonly back: (root: never) => object;
  /** A 1:1 relation; else it is 1:m. */
  readonly forth?: (part: never) => object;
  /** What is not known though the roots are loaded. */
  readonly unknown?: RegExp;
}

const id = { id: p.integer().primary() };
const composite = { shop: p.integer().primary(), no: p.integer().primary() };

/** The entity has `no. 1`, and the row has 1. */
class Numbered extends Type<string | null, number | null> {
  override convertToDatabaseValue(value: string | number | null): number | null {
    return value === null ? null : Number(String(value).replace('no. ', ''));
  }

  override convertToJSValue(value: number | null): string | null {
    return value === null ? null : `no. ${value}`;
  }

  override getColumnType(): string {
    return 'int';
  }
}

const shapes: Record<string, Shape> = {
  'a plain relation': { key: id, back: (root) => p.manyToOne(root).nullable() },
  'a wrapped reference': { key: id, back: (root) => p.manyToOne(root).ref().nullable() },
  'a lazy relation': {
    key: id,
    back: (root) => p.manyToOne(root).lazy().nullable(),
    // that there is none was not read
    unknown: /^free/,
  },
  'the key itself': { key: id, back: (root) => p.manyToOne(root).mapToPk().nullable() },
  'a composite key': { key: composite, back: (root) => p.manyToOne(root).nullable() },
  'a composite key itself': {
    key: composite,
    back: (root) => p.manyToOne(root).mapToPk().nullable(),
    // MikroORM assigns another form of the key
    unknown: /from the other side$/,
  },
  'a key that is converted': {
    key: { id: p.bigint('string').primary() },
    back: (root) => p.manyToOne(root).nullable(),
  },
  'a key itself that is spelled otherwise in the database': {
    key: { id: p.type(Numbered).primary() },
    back: (root) => p.manyToOne(root).mapToPk().nullable(),
  },
  'behind an accessor': { key: id, back: (root) => p.manyToOne(root).accessor('_root').nullable() },
  '1:1, the key on the part': {
    key: id,
    back: (root) => p.oneToOne(root).nullable(),
    forth: (part) =>
      p
        .oneToOne(part)
        .mappedBy('root' as never)
        .nullable(),
  },
  '1:1, the key on the root': {
    key: id,
    back: (root) =>
      p
        .oneToOne(root)
        .mappedBy('part' as never)
        .nullable(),
    forth: (part) =>
      p
        .oneToOne(part)
        .inversedBy('root' as never)
        .nullable(),
  },
  '1:1, the key on the root, behind an accessor': {
    key: id,
    back: (root) =>
      p
        .oneToOne(root)
        .mappedBy('part' as never)
        .accessor('_root')
        .nullable(),
    forth: (part) =>
      p
        .oneToOne(part)
        .inversedBy('root' as never)
        .nullable(),
  },
};

interface Part {
  id: number;
  text: string | null;
  root?: unknown;
}
interface Root {
  version: number;
  part?: unknown;
  parts: { add(part: Part): void; remove(part: Part): void };
}
type Load = (em: EntityManager, part: EntitySchema<Part>, roots: () => Promise<readonly Root[]>) => Promise<Part>;

/** How a part comes into memory. */
const loads: Record<string, Load> = {
  alone: (em, part) => em.findOneOrFail(part, 1),
  'after the roots': async (em, part, roots) => (await roots()) && em.findOneOrFail(part, 1),
  'in part, after the roots': async (em, part, roots) =>
    (await roots()) && (em.findOneOrFail(part, 1, { fields: ['text'] }) as never),
  'as a reference, after the roots': async (em, part, roots) => (await roots()) && em.getReference<Part>(part, 1),
  'from plain data that leaves it open': async (em, part) =>
    em.merge<Part>(part, { id: 1, text: 'old', root: undefined } as never),
  'without an identity map': async (em, part) => {
    const found = await em.findOneOrFail(part, 1, { disableIdentityMap: true });
    em.persist(found);
    return found;
  },
  'refreshed in part': async (em, part) =>
    em.refreshOrFail(em.getReference<Part>(part, 1), { fields: ['text'] }) as never,
};

/** Of a part that nobody has, the same is known. */
const freely = { alone: loads['alone']!, 'after the roots': loads['after the roots']! };

type Work = (part: Part, em: EntityManager, roots: () => Promise<readonly Root[]>, shape: Shape) => unknown;

const refer = async (part: Part, roots: () => Promise<readonly Root[]>, shape: Shape) => {
  const [, other] = await roots();
  part.root = isKey(shape) ? keyIn(other!) : other;
};
/** Does a part hold a key, and no entity? */
const isKey = (shape: Shape) => /itself/.test(Object.entries(shapes).find(([, one]) => one === shape)![0]);
const keyIn = (root: object) => {
  const { shop, no, id: key } = root as Record<string, unknown>;
  return shop ? [shop, no] : key;
};

/** What is done to it. */
const works: Record<string, Work> = {
  change: (part) => (part.text = 'new'),
  remove: (part, em) => em.remove(part),
  move: (part, _, roots, shape) => refer(part, roots, shape),
  'move from the other side': async (part, _, roots, { forth }) => {
    const [, other] = await roots();
    return forth ? (other!.part = part) : other!.parts.add(part);
  },
  'let go': (part) => (part.root = null),
  'let go, as undefined': (part) => (part.root = undefined),
  'change and let go': (part) => Object.assign(part, { text: 'new', root: null }),
  'let go from the other side': async (part, _, roots, { forth }) => {
    const [own] = await roots();
    return forth ? (own!.part = null) : own!.parts.remove(part);
  },
  'remove along with its root': async (part, em, roots) => em.remove(part).remove((await roots())[0]!),
};

export function aggregateShapes(driver: TestDriver): void {
  const setUp = async (shape: Shape) => {
    const { key, back, forth } = shape;
    const relation = forth ? 'part' : 'parts';
    const root = defineEntity({
      name: 'Root',
      tableName: 'root_row',
      properties: {
        ...key,
        [relation]: () => forth?.(part as never) ?? p.oneToMany(part as never).mappedBy('root' as never),
        version: p.type(new VersionField({ aggregate: [relation] })),
      } as never,
    }) as unknown as EntitySchema<Root>;
    const part = defineEntity({
      name: 'Part',
      properties: { ...id, text: p.string(), root: () => back(root as never) } as never,
    }) as unknown as EntitySchema<Part>;
    const { orm, fork, sent } = await open(driver, [root, part]);
    const orderBy = { ['no' in key ? 'no' : 'id']: 'asc' };
    const rootsOf = (em: EntityManager) =>
      em.find(root, {}, { populate: [relation] as never, orderBy: orderBy as never }) as Promise<readonly Root[]>;
    const isForth =
      forth && !('mappedBy' in (orm.getMetadata().get('Root' as never).properties['part' as never] as object));
    /** Root 1 has the part, or none has. */
    const fill = async (isOwned: boolean) => {
      const em = fork();
      // the row with the foreign key first
      for (const entity of isForth ? [root, part] : [part, root]) {
        await em.nativeDelete(entity as never, {});
      }
      const rows = [1, 2].map((n) => ('no' in key ? { shop: 1, no: n } : { id: n }));
      await em.insertMany(root, rows as never);
      const owner = 'no' in key ? [1, 1] : 1;
      await em.insert(part, { id: 1, text: 'old', ...(isOwned && !isForth && { root: owner }) } as never);
      if (isOwned && isForth) {
        await em.nativeUpdate(root, 1 as never, { part: 1 } as never);
      }
    };
    const see = async () => {
      const em = fork();
      const roots = await rootsOf(em);
      const [found] = await em.find(part, {}, { populate: ['root'] as never });
      const named: unknown = Reference.unwrapReference(found?.root as object);
      const owner = named && roots.find((one) => one === named || String(keyIn(one)) === String(named));
      const number = (one: Root) => Number(String(keyIn(one)).at(-1));
      return {
        row: found && `${found.text} ${owner ? number(owner as Root) : 'none'}`,
        owner: owner ? number(owner as Root) : undefined,
        versions: new Map(roots.map((one) => [number(one), one.version])),
      };
    };
    return { fork, sent, root, part, rootsOf, fill, see };
  };

  describe('aggregates, whatever a part looks like: its roots are bumped, or nothing is sent', () => {
    for (const [name, shape] of Object.entries(shapes)) {
      test(name, async () => {
        const { fork, sent, part, rootsOf, fill, see } = await setUp(shape);
        const wrong: string[] = [];
        for (const isOwned of [true, false]) {
          await fill(isOwned);
          const before = await see();
          for (const [how, load] of Object.entries(isOwned ? loads : freely)) {
            for (const [what, work] of Object.entries(works)) {
              await fill(isOwned);
              const em = fork();
              const roots = () => rootsOf(em);
              const label = `${isOwned ? 'owned' : 'free'}, loaded ${how}, ${what}`;
              let error: unknown;
              const run = async () => {
                await work(await load(em, part, roots), em, roots, shape);
                await em.flush();
              };
              const log = [...(await sent(() => run().catch((reason: unknown) => (error = reason))))];
              const after = await see();
              const written = before.row === after.row ? [] : [before.owner, after.owner];
              const isRight = [...after.versions].every(
                ([n, version]) => version === before.versions.get(n)! + (written.includes(n) ? 1 : 0),
              );
              const isSent = error instanceof VersionNotLoaded && log.some((sql) => !sql.startsWith('select'));
              if (
                !isRight ||
                isSent ||
                (error && (written.length > 0 || (how === 'after the roots' && !shape.unknown?.test(label))))
              ) {
                wrong.push(
                  `${label}: ${before.row} to ${after.row}, ${[...after.versions.values()].join()}, ${String(error)}`,
                );
              }
            }
          }
        }
        expect(wrong).toEqual([]);
      });
    }
  });
}
