/**
 * Every touch of a MikroORM internal: what MikroORM 7.2 offers no public extension point for. All are overrides of plain
 * methods on instances that belong to a `versioned()` ORM, never on a prototype. test/internals.test.ts pins each one,
 * so that a MikroORM that renames or reroutes it fails there with a sentence.
 */
import { type ChangeSet, type Dictionary, type EntityManager, type Transaction, helper } from '@mikro-orm/core';

type AnyChangeSet = ChangeSet<object>;

/** Change sets of one flush by type, then by the class that they are written with. */
export type ChangeSetGroups = Record<AnyChangeSet['type'], Map<number, AnyChangeSet[]>>;

/** Options that the change set persister hands down to the driver. */
export type PersistOptions = Dictionary & { ctx?: Transaction; schema?: string };

/** What a flush is told while MikroORM carries it out, in this order. */
export interface FlushListener {
  /** Change sets are final (all `onFlush` listeners ran), and no SQL was sent yet. */
  plan(groups: ChangeSetGroups): void;
  /** Write everything: `write` sends the statements in the transaction it is given. */
  persist(write: (ctx?: Transaction) => Promise<void>, ctx?: Transaction): Promise<void>;
  /** New rows are about to be inserted. */
  inserting(changeSets: AnyChangeSet[]): void;
  /** Changed rows are about to be updated: here also those that MikroORM adds during the flush ("extra updates"). */
  updating(changeSets: AnyChangeSet[]): void;
  /** The flush failed, its COMMIT included. Returns what to throw. */
  failed(error: unknown): unknown;
}

/** The parts of the unit of work and its persister that are overridden; private in MikroORM's types. */
interface UnitOfWorkMethods {
  doCommit(): Promise<void>;
  getChangeSetGroups(): ChangeSetGroups;
  persistToDatabase(groups: ChangeSetGroups, ctx?: Transaction): Promise<void>;
  getChangeSetPersister(): PersisterMethods;
}

interface PersisterMethods {
  executeInserts(sets: AnyChangeSet[], options?: PersistOptions, withSchema?: boolean): Promise<void>;
  executeUpdates(sets: AnyChangeSet[], batched: boolean, options?: PersistOptions, withSchema?: boolean): Promise<void>;
  executeDeletes(sets: AnyChangeSet[], options?: PersistOptions, withSchema?: boolean): Promise<void>;
  checkOptimisticLocks(meta: AnyChangeSet['meta'], sets: AnyChangeSet[], options?: PersistOptions): Promise<void>;
  prepareOptions(meta: AnyChangeSet['meta'], options?: PersistOptions): PersistOptions;
}

/** Rides on the persister's options down to the driver, and so tells a flush from a user's own call. */
const FLUSH = Symbol('mikro-ool flush');

/** What the driver finds in the options of a call that comes from a flush. */
export interface FlushCall<Flush> {
  flush: Flush;
  /** Change sets of a DELETE, which otherwise carries keys only. */
  deletes?: AnyChangeSet[];
}

/** The flush that a driver call belongs to, or `undefined` for a call by the user. */
export function flushOf<Flush>(options: object | undefined): FlushCall<Flush> | undefined {
  return (options as { [FLUSH]?: FlushCall<Flush> } | undefined)?.[FLUSH];
}

/** Ways to take part in the flushes of one EntityManager, fixed for its life. */
export interface FlushHooks<Flush extends FlushListener> {
  /** Called once for every flush that has something to write. */
  begin(em: EntityManager): Flush;
  /** Does MikroORM's own check by SELECT fall away, because the driver checks the rows of this class? */
  checks(meta: AnyChangeSet['meta']): boolean;
  /** Into how many DELETE statements do these change sets of one class go? */
  chunkDeletes(changeSets: AnyChangeSet[]): AnyChangeSet[][] | undefined;
  /** The driver's checked DELETE. */
  delete(meta: AnyChangeSet['meta'], options: PersistOptions): Promise<unknown>;
}

/**
 * Hooks the unit of work of an EntityManager. Why not `onFlush` and a catch around `em.flush()`: later `onFlush`
 * listeners may still recompute change sets, and follow-up updates appear only while the flush runs.
 */
export function hookFlushes<Flush extends FlushListener>(em: EntityManager, hooks: FlushHooks<Flush>): void {
  const uow = em.getUnitOfWork(false) as unknown as UnitOfWorkMethods;
  const persister = uow.getChangeSetPersister();
  const { doCommit, getChangeSetGroups, persistToDatabase } = uow;
  const { executeInserts, executeUpdates, executeDeletes, checkOptimisticLocks } = persister;
  let flush: Flush | undefined;
  const marked = (options?: PersistOptions, deletes?: AnyChangeSet[]): PersistOptions =>
    flush ? { ...options, [FLUSH]: { flush, deletes } satisfies FlushCall<Flush> } : { ...options };

  // Runs once per flush, queued ones included, and its promise ends after COMMIT or ROLLBACK.
  uow.doCommit = async () => {
    try {
      await doCommit.call(uow);
    } catch (error) {
      throw flush ? flush.failed(error) : error;
    } finally {
      flush = undefined;
    }
  };
  // The last step before the transaction starts.
  uow.getChangeSetGroups = () => {
    const groups = getChangeSetGroups.call(uow);
    flush = hooks.begin(em);
    flush.plan(groups);
    return groups;
  };
  uow.persistToDatabase = async (groups, ctx) => {
    await flush!.persist((tx) => persistToDatabase.call(uow, groups, tx), ctx);
  };
  // em.insert() and em.insertMany() with entities come here too, without a flush.
  persister.executeInserts = async (sets, options, withSchema) => {
    if (!withSchema) {
      (flush ?? hooks.begin(em)).inserting(sets);
    }
    return executeInserts.call(persister, sets, options, withSchema);
  };
  persister.executeUpdates = async (sets, batched, options, withSchema) => {
    if (!withSchema) {
      flush?.updating(sets);
    }
    return executeUpdates.call(persister, sets, batched, marked(options), withSchema);
  };
  // The persister passes keys only; the driver needs to know whose they are.
  persister.executeDeletes = async (sets, options, withSchema) => {
    const chunks = withSchema && flush ? hooks.chunkDeletes(sets) : undefined;
    if (!chunks) {
      return executeDeletes.call(persister, sets, options, withSchema);
    }
    for (const chunk of chunks) {
      const { meta } = chunk[0]!;
      await hooks.delete(meta, marked(persister.prepareOptions(meta, options), chunk));
    }
  };
  persister.checkOptimisticLocks = async (meta, sets, options) => {
    if (!hooks.checks(meta)) {
      await checkOptimisticLocks.call(persister, meta, sets, options);
    }
  };
}

/** The state an entity is compared with when its changes are computed; setting it back makes them dirty again. */
export function snapshotOf(entity: object): unknown {
  return helper(entity).__originalEntityData;
}

/** @see snapshotOf */
export function restoreSnapshot(entity: object, snapshot: unknown): void {
  helper(entity).__originalEntityData = snapshot as never;
}
