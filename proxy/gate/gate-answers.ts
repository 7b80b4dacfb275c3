import type { Decision } from '../../src/model/policy.ts';
import type { GateAnswer } from '../../src/model/request-gate.ts';

const answers = new WeakMap<Decision, GateAnswer>();

/** The one answer for a decision that changes no header and records nothing: decisions are made when policies are compiled, and so is this. */
export function plainAnswer(decision: Decision): GateAnswer {
  let answer = answers.get(decision);
  if (answer === undefined) {
    answer = Object.freeze({ decision, refusal: null, change: null, shadow: Object.freeze([]) });
    answers.set(decision, answer);
  }
  return answer;
}

/** Whatever went wrong, the answer is no. */
export const GATE_FAILED: Decision = Object.freeze({
  verdict: 'deny',
  policy: null,
  rule: null,
  reason: 'the policy could not be evaluated',
});
