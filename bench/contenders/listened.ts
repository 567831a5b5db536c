/** A contender whose conflicts somebody listens to, to see that nothing is paid when nobody does. */
import diagnostics from 'node:diagnostics_channel';
import type { Contender } from '../contender.ts';

const listen = (): void => {};

export function listened(contender: Contender): Contender {
  return {
    name: `${contender.name}, with a listener`,
    async open(server) {
      const session = await contender.open(server)!;
      return {
        ...session,
        async load(table, ids) {
          const loaded = await session.load(table, ids);
          const update = async () => {
            diagnostics.subscribe('mikro-ool:conflict', listen);
            try {
              await loaded.update();
            } finally {
              diagnostics.unsubscribe('mikro-ool:conflict', listen);
            }
          };
          return { ...loaded, update };
        },
      };
    },
  };
}
