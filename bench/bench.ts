/**
 * `npx pnpm bench`: what the lock costs, beside everything else that saves rows, on an embedded PostgreSQL and on SQLite.
 *
 * Goal: a flush with mikro-ool is faster than one without any lock.
 * Fixed: the same rows of the same tables (20,000 rows), one process, contenders in turn, medians.
 * Varied: the number of rows, what is done with them, the database.
 */
// what is wrong with its options is said before all contenders are loaded, which takes seconds
import './options.ts';

await import('./run.ts');
