/** Three ratings of a product, with a composite key of which a part is a relation. */
import { type EntitySchema, defineEntity, p } from '@mikro-orm/core';
import type { VersionField } from '@mikro-ool/core';
import { type TestDriver, open } from '../harness.ts';

/** By ann, bob and cid, with 3 stars. */
export async function openRatings(driver: TestDriver, version: VersionField) {
  const Product = defineEntity({ name: 'Product', properties: { id: p.integer().primary() } });
  const Rating = defineEntity({
    name: 'Rating',
    primaryKeys: ['product', 'by'] as const,
    properties: {
      product: () => p.manyToOne(Product).primary(),
      by: p.string().primary(),
      stars: p.integer(),
      hits: p.integer().default(0),
      version: p.type(version),
    },
  });
  const { fork } = await open(driver, [Product, Rating] as EntitySchema[]);
  const seed = fork();
  const product = seed.create(Product, { id: 1 });
  ['ann', 'bob', 'cid'].forEach((by) => seed.create(Rating, { product, by, stars: 3 }));
  await seed.flush();
  return { fork, Rating };
}
