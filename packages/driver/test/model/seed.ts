/** Which random programs a run draws. */

/** MODEL_SEED, or else new ones each time; in CI always the same, so that what turns red is what has changed. */
export function seedOfRun(): number {
  const { MODEL_SEED, CI } = process.env;
  return Number(MODEL_SEED ?? (CI ? 20261128 : Math.floor(Math.random() * 2 ** 31)));
}
