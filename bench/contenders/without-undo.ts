/** mikro-ool that could not take a failed flush back, to see what being able to costs. */
import { Undo } from '../../packages/driver/src/undo.ts';
import type { Contender } from '../contender.ts';

const METHODS = ['remember', 'moved', 'done'] as const;

async function withoutMemory(work: () => Promise<void>): Promise<void> {
  const prototype = Undo.prototype as unknown as Record<string, unknown>;
  const originals = METHODS.map((method) => [method, prototype[method]] as const);
  originals.forEach(([method]) => (prototype[method] = () => {}));
  try {
    await work();
  } finally {
    originals.forEach(([method, original]) => (prototype[method] = original));
  }
}

export function withoutUndo(contender: Contender): Contender {
  return {
    name: `${contender.name}, without undo`,
    async open(server) {
      const session = await contender.open(server)!;
      return {
        ...session,
        async load(table, ids) {
          const loaded = await session.load(table, ids);
          return { ...loaded, update: () => withoutMemory(loaded.update) };
        },
      };
    },
  };
}
