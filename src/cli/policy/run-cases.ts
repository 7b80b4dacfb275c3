import type { Resource } from '../../model/resources.ts';
import { type Answer, Decider } from './decide.ts';
import { meshOf } from './mesh-of-files.ts';
import type { CaseTable, PolicyCase } from './case-table.ts';

/** A case and what became of it. */
export interface CaseResult {
  readonly row: PolicyCase;
  readonly answer: Answer;
  readonly passed: boolean;
}

/** Decides every case of a table by these resources. */
export function runCases({ cases, names }: CaseTable, resources: readonly Resource[]): CaseResult[] {
  const deciders = new Map<string, Decider>();
  return cases.map((row) => {
    const { namespace, name, labels } = row.question;
    const key = JSON.stringify([namespace, name, labels === null ? null : Object.entries(labels).toSorted()]);
    let decider = deciders.get(key);
    if (decider === undefined) deciders.set(key, (decider = new Decider(meshOf(resources, names, row.question))));
    const answer = decider.decide(row.question);
    const { verdict, policy } = answer.decision;
    return { row, answer, passed: verdict === row.expect && (row.policy === null || row.policy === policy) };
  });
}
