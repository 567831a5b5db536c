/** A contender whose conflicts somebody listens to, to see that nothing is paid when nobody does. */
import diagnostics from 'node:diagnostics_channel';
import type { Contender } from '../contender.ts';
import { around } from './around.ts';

const listen = (): void => {};

export function listened(contender: Contender): Contender {
  return around(contender, 'with a listener', async (update) => {
    diagnostics.subscribe('mikro-ool:conflict', listen);
    try {
      await update();
    } finally {
      diagnostics.unsubscribe('mikro-ool:conflict', listen);
    }
  });
}
