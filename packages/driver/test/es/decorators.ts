export { Entity, PrimaryKey, Property } from '@mikro-orm/decorators/es';
