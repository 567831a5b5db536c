/** The rows of a run, of whichever table, are told apart by one number, so that one journal and one checker know them all. */

export type RowKind = 'account' | 'sale' | 'doctor' | 'stock';

/** Each kind has its hundred. */
const BASES: Readonly<Record<RowKind, number>> = { account: 0, sale: 100, doctor: 200, stock: 300 };

const COUNTS: Readonly<Record<RowKind, number>> = { account: 48, sale: 3, doctor: 4, stock: 6 };

/** More lines no order has. */
export const LINES = 5;

export function idsOf(kind: RowKind): number[] {
  return Array.from({ length: COUNTS[kind] }, (_, i) => BASES[kind] + i + 1);
}

export function kindOf(id: number): RowKind {
  return (Object.keys(BASES) as RowKind[]).findLast((kind) => id > BASES[kind])!;
}

export function nameOf(id: number): string {
  return `${kindOf(id)} ${id}`;
}

/** Doctors in twos, of whom one is on call at least. */
export function pairs(): (readonly [number, number])[] {
  const doctors = idsOf('doctor');
  return doctors.filter((_, i) => i % 2 === 0).map((id) => [id, id + 1]);
}
