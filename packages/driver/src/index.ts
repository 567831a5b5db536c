export { type DescribedEntity, type LockReport, describeLocks } from './describe.ts';
export { type DriverClass, versioned } from './versioned.ts';
