import { Migration } from '@mikro-orm/migrations';

export class Migration20261128164251 extends Migration {

  override name = 'Migration20261128164251';

  override up(): void | Promise<void> {
    this.addSql(`create table \`article\` (\`id\` integer not null primary key autoincrement, \`title\` text not null, \`version\` integer not null default 1);`);
  }

}
