import type { ConfigProblem } from './config-problem.ts';

/** The longest source line shown; a longer one is cut around the place. */
const EXCERPT_WIDTH = 100;
// oxlint-disable-next-line no-control-regex
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/**
 * A problem as a line for a terminal or a log: `file:line:column: field: message (next step)`, with what is in force until
 * then where something is. With the text of the file, the source line and a mark
 * under the place follow. Control characters of the file never reach the terminal.
 */
export function formatProblem(problem: ConfigProblem, source?: string): string {
  const { file, line, column, field, message, nextStep, consequence } = problem;
  const place = line === 0 ? printable(file) : `${printable(file)}:${line}:${column}`;
  const until = consequence === undefined ? '' : `; until then ${printable(consequence)}`;
  const text = `${place}: ${field === '' ? '' : `${printable(field)}: `}${printable(message)} (${printable(nextStep)}${until})`;
  const excerpt = source === undefined || line === 0 ? null : excerptOf(source, line, column);
  return excerpt === null ? text : `${text}\n${excerpt}`;
}

function excerptOf(source: string, line: number, column: number): string | null {
  const written = lineOf(source, line);
  if (written === null) return null;
  const start = Math.max(0, Math.min(column - 1 - EXCERPT_WIDTH / 2, written.length - EXCERPT_WIDTH));
  const shown = printable(written.slice(start, start + EXCERPT_WIDTH));
  const gutter = ` ${line} | `;
  const mark = `${' '.repeat(gutter.length - 2)}| ${' '.repeat(Math.max(0, column - 1 - start))}^`;
  return `${gutter}${shown}\n${mark}`;
}

function lineOf(source: string, line: number): string | null {
  let start = 0;
  for (let current = 1; current < line; current += 1) {
    const end = source.indexOf('\n', start);
    if (end === -1) return null;
    start = end + 1;
  }
  const end = source.indexOf('\n', start);
  return source.slice(start, end === -1 ? undefined : end).replace(/\r$/, '');
}

/** Tabs and everything that a terminal acts on become one visible space or mark, so that columns stay where they are. */
function printable(text: string): string {
  return text.replace(UNPRINTABLE, (character) => (character === '\t' ? ' ' : '\uFFFD'));
}
