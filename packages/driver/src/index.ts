export { type DriverClass, versioned } from './versioned.ts';
