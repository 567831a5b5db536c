/** The `version = version + 1` that MikroORM adds to an update: set-based ones, and those of a single row of a flush. */

/** The part of a query builder's helper that is overridden. */
export interface Helper {
  updateVersionProperty(query: unknown, data: object): void;
}

/**
 * MikroORM looks for a version that is given by its property, but has the data by column then.
 *
 * @param isLeft an update of these columns bumps nothing by itself
 */
export function bumpUnless(helper: Helper, isLeft: (columns: string[]) => boolean): void {
  const { updateVersionProperty } = helper;
  helper.updateVersionProperty = (query, data) => {
    if (!isLeft(Object.keys(data))) {
      updateVersionProperty.call(helper, query, data);
    }
  };
}
