/** Partial loading loads the version all the same; what is serialised does not change. */
import type { EntityMetadata, EntityProperty } from '@mikro-orm/core';
import type { InternalField } from '@mikro-orm/sql';
import { VersionField } from '@mikro-ool/core';

/**
 * The fields of a query, and the version.
 *
 * @param isGrouped rows are no entities then
 */
export function withVersion<T extends object>(
  fields: InternalField<T>[],
  meta: EntityMetadata<T>,
  alias: string,
  isGrouped: boolean,
): InternalField<T>[] {
  const props = meta.props as EntityProperty[];
  const version = props.find(({ customType }) => customType instanceof VersionField)?.name as
    | InternalField<T>
    | undefined;
  const isComplete = fields.some((field) => field === '*' || field === `${alias}.*` || field === version);
  return version && !isComplete && !isGrouped ? [...fields, version] : fields;
}
