/** What `npx mikro-ool doctor` finds in an application that has its own copies of some packages. */
import { defineEntity, p } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';

const Post = defineEntity({ name: 'Post', properties: { id: p.integer().primary(), version: p.type(VersionField) } });

export default { driver: versioned(SqliteDriver), dbName: 'posts.db', entities: [Post] };
