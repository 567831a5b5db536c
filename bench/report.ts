/** The results: tables for the terminal and for results/*.md, and the chart in the README. */
import { mkdirSync, writeFileSync } from 'node:fs';
import * as echarts from 'echarts';
import { markdownTable } from 'markdown-table';
import type { Guarantee } from './guarantee.ts';
import { BUILT_IN, type Job, LIMIT, OURS, UNLOCKED } from './jobs.ts';
import type { Timings } from './measure.ts';

export interface Section {
  readonly job: Job;
  /** By number of rows. */
  readonly results: ReadonlyMap<number, Timings>;
}

const DIRECTORY = new URL('./results/', import.meta.url);

function ms(value: number): string {
  return value < 100 ? value.toPrecision(value < 10 ? 2 : 3) : String(Math.round(value));
}

/** A line for each contender, a column for each number of rows: milliseconds, and what share of them ours are. */
export function sectionTable({ job, results }: Section): string {
  const sizes = [...results.keys()];
  const names = [...results.get(sizes[0]!)!.keys()];
  const [first] = names; // ours
  const cell = (name: string, n: number) => {
    const timings = results.get(n)!;
    const { median } = timings.get(name)!;
    const ours = timings.get(first!)!.median;
    return name === first ? `**${ms(median)}**` : `${ms(median)} (${(ours / median).toFixed(2)})`;
  };
  const table = markdownTable(
    [['rows', ...sizes.map(String)], ...names.map((name) => [name, ...sizes.map((n) => cell(name, n))])],
    { align: ['l', ...sizes.map(() => 'r')] },
  );
  return `### ${job.title}\n\n${table}\n`;
}

export function guaranteeTable(guarantees: readonly Guarantee[]): string {
  const raced = guarantees.some(({ race }) => race);
  const head = ['', 'stale update', 'stale delete', ...(raced ? ['saved in a race', 'of these lost'] : [])];
  const lines = guarantees.map(({ name, staleUpdate, staleDelete, race }) => [
    name,
    staleUpdate,
    staleDelete,
    ...(race ? [String(race.saved), String(race.lost)] : []),
  ]);
  return `### What becomes of a write that a rival has overtaken\n\n${markdownTable([head, ...lines])}\n`;
}

export function memoryTable(bytes: ReadonlyMap<string, number>): string {
  const table = markdownTable([['', 'bytes'], ...[...bytes].map(([name, value]) => [name, String(value)])], {
    align: ['l', 'r'],
  });
  return `### Allocated by a flush of 1000 rows, per row\n\n${table}\n`;
}

export function writeResult(name: string, text: string): void {
  mkdirSync(DIRECTORY, { recursive: true });
  writeFileSync(new URL(name, DIRECTORY), text);
}

const SHOWN = [BUILT_IN, UNLOCKED, OURS, LIMIT];
const COLORS = ['#b0b7c3', '#7b8794', '#2563eb', '#d9dde3'];

/** Time to flush N changed rows, where MikroORM without a lock is 1. */
export function chart({ results }: Section, database: string): string {
  const sizes = [...results.keys()];
  const view = echarts.init(null, null, { renderer: 'svg', ssr: true, width: 960, height: 380 });
  view.setOption({
    animation: false,
    backgroundColor: '#ffffff',
    title: {
      text: `Time to flush N changed rows on ${database}`,
      subtext: 'MikroORM without a lock = 1; less is better',
      left: 'center',
    },
    color: COLORS,
    legend: { bottom: 0, data: SHOWN, itemGap: 30 },
    grid: { left: 45, right: 20, top: 70, bottom: 65 },
    xAxis: { type: 'category', data: sizes.map((n) => `${n} row${n > 1 ? 's' : ''}`), axisTick: { show: false } },
    yAxis: { type: 'value' },
    series: SHOWN.map((name) => ({
      name,
      type: 'bar',
      barGap: '10%',
      label: { show: true, position: 'top', fontSize: 10 },
      data: sizes.map((n) => {
        const timings = results.get(n)!;
        return Number((timings.get(name)!.median / timings.get(UNLOCKED)!.median).toFixed(2));
      }),
    })),
  });
  return view.renderToSVGString();
}
