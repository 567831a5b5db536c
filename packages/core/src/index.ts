export {
  CommitOutcomeUnknown,
  ConcurrentUpdate,
  InvalidVersion,
  Refusal,
  VersionExhausted,
  VersionNotLoaded,
} from './concurrent-update.ts';
export { isOfType } from './copies.ts';
export type { Conflict, Operation } from './concurrent-update.ts';
export { hasPrecondition, setPrecondition } from './precondition.ts';
export { setSource, withSources } from './sources.ts';
export { asTouched, isTouched, loadedVersion, touch, touchedIn, withLoadedVersion } from './touch.ts';
export { verifiedIn, verifiesReads, verify, verifyingReads } from './verify.ts';
export type { VersionOptions } from './version-field.ts';
export {
  initialVersion,
  isChecked,
  maximumStart,
  maximumVersion,
  readsSnapshots,
  registerPlatform,
  VersionField,
  versionOf,
} from './version-field.ts';
