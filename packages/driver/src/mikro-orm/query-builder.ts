/** The `version = version + 1` that MikroORM adds to an update: set-based ones, and those of a single row of a flush. */

/** An UPDATE that is being built, by column. */
interface Update {
  update(data: object): unknown;
}

/** The part of a query builder's helper that is overridden. */
export interface Helper {
  updateVersionProperty(query: Update, data: object): void;
}

/**
 * MikroORM looks for a version that is given by its property, but has the data by column then.
 *
 * @param bump the next version, by column
 * @param isLeft an update of these columns bumps nothing by itself
 */
export function bumpUnless(helper: Helper, bump: object, isLeft: (columns: string[]) => boolean): void {
  helper.updateVersionProperty = (query, data) => {
    if (!isLeft(Object.keys(data))) {
      query.update(bump);
    }
  };
}
