/** The same contender with something around each of its updates, to see what that costs. */
import type { Contender } from '../contender.ts';

export function around(
  contender: Contender,
  name: string,
  wrap: (update: () => Promise<void>) => Promise<void>,
): Contender {
  return {
    name: `${contender.name}, ${name}`,
    async open(server) {
      const session = await contender.open(server)!;
      return {
        ...session,
        async load(table, ids) {
          const loaded = await session.load(table, ids);
          return { ...loaded, update: () => wrap(loaded.update) };
        },
      };
    },
  };
}
