/** What each contender is worth: what becomes of a write that a rival has overtaken. */
import { type Contender, NARROW, type Server, type Session } from './contender.ts';
import { createTables, fill } from './database.ts';

const WORKERS = 8;
const SAVES = 25;

export interface Guarantee {
  readonly name: string;
  readonly staleUpdate: string;
  readonly staleDelete: string;
  /** Reported as saved, and how many of them are not in the database; only where writers really run at once. */
  readonly race?: { readonly saved: number; readonly lost: number };
}

export async function guaranteeOf(contender: Contender, server: Server): Promise<Guarantee | undefined> {
  const opening = contender.open(server);
  if (!opening) {
    return undefined;
  }
  const session = await opening;
  try {
    if (server.kind === 'sqlite') {
      await createTables(session);
    }
    const staleUpdate = await attempt(session, async ({ load, rival }) => {
      const loaded = await load();
      await rival();
      loaded.rows.forEach((row) => (row['c0'] = 'mine'));
      return () => loaded.update();
    });
    const staleDelete = await attempt(session, async ({ load, rival }) => {
      const loaded = await load();
      await rival();
      return () => loaded.remove();
    });
    return {
      name: contender.name,
      staleUpdate: staleUpdate ? 'overwritten' : 'refused',
      staleDelete: staleDelete ? 'deleted' : 'refused',
      race: server.kind === 'postgresql' ? await race(contender, server) : undefined,
    };
  } finally {
    await session.close();
  }
}

const IDS = [1, 2];

/** Did it write the rows, one of which a rival has changed meanwhile? */
async function attempt(
  session: Session,
  prepare: (hands: {
    load: () => ReturnType<Session['load']>;
    rival: () => Promise<void>;
  }) => Promise<() => Promise<void>>,
): Promise<boolean> {
  await fill(session, NARROW, IDS);
  const write = await prepare({
    load: () => session.load(NARROW, IDS),
    rival: () => session.execute(`update narrow set c0 = 'rival', version = version + 1 where id = ${IDS[0]}`),
  });
  try {
    await write();
  } catch {
    return false;
  } finally {
    await fill(session, NARROW, IDS);
  }
  return true;
}

/** Workers that read two rows, add 1 to each and save. A save that is missing in one of the rows is lost. */
async function race(contender: Contender, server: Server): Promise<{ saved: number; lost: number }> {
  const sessions = await Promise.all(Array.from({ length: WORKERS }, () => contender.open(server)!));
  let saved = 0;
  const [first] = sessions as [Session];
  await first.execute(`update narrow set c1 = 0 where id in (${IDS.join(', ')})`);
  await Promise.all(
    sessions.map(async (session) => {
      for (let i = 0; i < SAVES; i++) {
        const loaded = await session.load(NARROW, IDS);
        loaded.rows.forEach((row) => (row['c1'] = Number(row['c1']) + 1));
        const isSaved = await loaded.update().then(
          () => true,
          () => false,
        );
        saved += isSaved ? 1 : 0;
      }
    }),
  );
  const { rows } = await first.load(NARROW, IDS);
  const counted = Math.min(...rows.map((row) => Number(row['c1'])));
  await Promise.all(sessions.map((session) => session.close()));
  return { saved, lost: saved - counted };
}
