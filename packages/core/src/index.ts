export { CommitOutcomeUnknown, ConcurrentUpdate, InvalidVersion, VersionNotLoaded } from './concurrent-update.ts';
export { isOfType } from './copies.ts';
export type { Conflict, Operation } from './concurrent-update.ts';
export { isTouched, touch } from './touch.ts';
export { maximumVersion, registerPlatform, VersionField, versionOf } from './version-field.ts';
