export { Entity, PrimaryKey, Property } from '@mikro-orm/decorators/legacy';
