/** The `version = version + 1` that MikroORM adds to an update that is none of a flush. */

/** The part of a query builder's helper that is overridden. */
export interface Helper {
  updateVersionProperty(query: unknown, data: object): void;
}

/** MikroORM looks for a version that is given by its property, but has the data by column then. */
export function bumpUnlessGiven(helper: Helper, column: string): void {
  const { updateVersionProperty } = helper;
  helper.updateVersionProperty = (query, data) => {
    if (!Object.hasOwn(data, column)) {
      updateVersionProperty.call(helper, query, data);
    }
  };
}
