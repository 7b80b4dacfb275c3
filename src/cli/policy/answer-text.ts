import { oneLine } from '../terminal.ts';
import type { Answer } from './decide.ts';
import type { Question } from './question.ts';

/** Rules shown one by one. */
const MAX_STEPS = 50;

/** What was asked, in one line. */
export function questionText({ from, namespace, name, port, request }: Question): string {
  const who = from === null ? 'a plaintext peer' : from.text;
  const what = request === null ? 'a connection that is not HTTP' : `${request.method} ${request.target} (host ${request.host})`;
  return `${what} from ${who} to ${namespace}/${name} port ${port}`;
}

/** A decision and what made it, for a person. */
export function answerText(question: Question, { decision, dryRun, notes, workload, steps }: Answer): string {
  const { verdict, policy, rule, reason } = decision;
  const lines = [
    `${verdict.toUpperCase()}  ${questionText(question)}`,
    `because  ${reason}`,
    `policy   ${policy ?? 'none'}${rule === null ? '' : `, rule ${rule}`}`,
    `mode     ${workload.portModes.find(([port]) => port === question.port)?.[1] ?? workload.mode} (${workload.modeSource})`,
  ];
  for (const shadow of dryRun) {
    lines.push(
      `${shadow.effect === 'audit' ? 'audit  ' : 'dry run'}  ${shadow.policy}${shadow.rule === null ? '' : ` rule ${shadow.rule}`}: ${shadow.reason}`,
    );
  }
  for (const note of notes) lines.push(`note     ${note}`);
  const asked = steps();
  // Matches first: they are few, and they are what made it so.
  const shown = [...asked.filter(({ matched }) => matched), ...asked.filter(({ matched }) => !matched)];
  for (const step of shown.slice(0, MAX_STEPS)) {
    const which = `${step.policy}${step.rule === null ? '' : ` rule ${step.rule}`} (${step.action}${step.dryRun ? ', dry run' : ''})`;
    const why = step.because === '' ? '' : `: ${step.because}`;
    lines.push(`${step.matched ? 'match   ' : 'no match'} ${which}${why}`);
  }
  if (shown.length > MAX_STEPS) lines.push(`         … and ${shown.length - MAX_STEPS} more rules`);
  return lines.map((line) => `${oneLine(line)}\n`).join('');
}
