/** What replaces a driver package in MikroORM's tests: the driver is wrapped, and is the one that the package's ORM takes. */
import type { MikroORM, Options } from '@mikro-orm/core';
import { type DriverClass, versioned } from '@mikro-ool/driver';
import type { Run } from './runs.ts';
import { withVersions } from './with-versions.ts';

type OrmClass = new (options: Options) => MikroORM;

interface DriverModule {
  [name: string]: unknown;
  MikroORM: OrmClass & { init(options: Options): Promise<MikroORM> };
  defineConfig(options: Options): Options;
}

export function wrap(plain: DriverModule, driverName: string, run: Run) {
  const Base = plain[driverName] as DriverClass;
  const Driver = versioned(run === 'versions' ? withVersions(Base) : Base);
  const defineConfig = (options: Options) => plain.defineConfig({ driver: Driver, ...options } as Options);
  class WrappedOrm extends plain.MikroORM {
    static override init(options: Options): Promise<MikroORM> {
      return super.init(options && defineConfig(options));
    }
    constructor(options: Options) {
      super(options && defineConfig(options));
    }
  }
  Object.defineProperty(WrappedOrm, 'name', { value: plain.MikroORM.name });
  return { Driver, MikroORM: WrappedOrm, defineConfig };
}
