import { run } from './run.ts';
const r = await run({ database: (process.argv[2] ?? 'postgresql') as never, lock: (process.argv[3] ?? 'mikro-ool') as never, seed: 1, minutes: Number(process.argv[4] ?? 0.3) }, (p) => { if (Math.random()<0.1) console.error(p.secondsLeft, JSON.stringify(p.tally), JSON.stringify(p.faults)); });
const byKind = {} as Record<string, number>;
r.verdict.violations.forEach((v) => (byKind[v.kind] = (byKind[v.kind] ?? 0) + 1));
console.log({ ...r, verdict: { ...r.verdict, violations: r.verdict.violations.slice(0, 12).map((v) => v.kind+': '+v.text) }, byKind });
