export { type DriverClass, resilient } from './resilient.ts';
