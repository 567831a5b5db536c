/** Versions that cover something else than their entities say: what a control needs, and a database that cannot do it. */
import type { EntityMetadata, EntityProperty, Options } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';

type Covers = ConstructorParameters<typeof VersionField>[0];

export function declaredAs(change: (declared: VersionField) => Covers): Partial<Options> {
  const onMetadata = (meta: EntityMetadata) => {
    for (const prop of Object.values<EntityProperty>(meta.properties)) {
      const type: unknown = prop.type;
      if (type instanceof VersionField) {
        Object.assign(prop, { type: new VersionField(change(type)) });
      }
    }
  };
  return { discovery: { onMetadata } };
}
