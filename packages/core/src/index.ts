export { CommitOutcomeUnknown, ConcurrentUpdate, InvalidVersion, VersionNotLoaded } from './concurrent-update.ts';
export type { Conflict, Operation } from './concurrent-update.ts';
export { isTouched, touch } from './touch.ts';
export { maximumVersion, readsSnapshots, registerPlatform, VersionField, versionOf } from './version-field.ts';
