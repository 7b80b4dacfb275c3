import { oneLine } from './terminal.ts';

const GAP = '  ';

/** Columns of text, left-aligned, each as wide as its widest cell; a first row in capitals is the caller's. Lines end with a newline. */
export function table(rows: readonly (readonly string[])[], indent = ''): string {
  const clean = rows.map((row) => row.map(oneLine));
  const widths: number[] = [];
  for (const row of clean) for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, cell.length);
  return (
    clean.map((row) => `${indent}${row.map((cell, column) => cell.padEnd(widths[column] as number)).join(GAP)}`.trimEnd()).join('\n') + '\n'
  );
}
