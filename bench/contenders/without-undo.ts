/** mikro-ool that could not take a failed flush back, to see what being able to costs. */
import { Undo } from '../../packages/driver/src/memory/undo.ts';
import type { Contender } from '../contender.ts';
import { around } from './around.ts';

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
  return around(contender, 'without undo', withoutMemory);
}
