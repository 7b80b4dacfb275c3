import { PolicyError } from './policy-error.ts';

/** Every field of a type by name: the compiler refuses a table that misses one. */
export type FieldNames<Type> = Readonly<Record<keyof Required<Type>, true>>;

/**
 * Refuses what this evaluator does not know, and what constrains nothing: ignoring a field would widen an ALLOW.
 * @throws PolicyError WEFT_POLICY_FIELD
 */
export function checkFields(what: string, value: object, known: Readonly<Record<string, true>>): void {
  if (typeof value !== 'object' || value === null) {
    throw new PolicyError('WEFT_POLICY_FIELD', `a ${what} is not an object`, { nextStep: `write the ${what} as a mapping` });
  }
  const record = value as Readonly<Record<string, unknown>>;
  const names = Object.keys(record).filter((name) => record[name] !== undefined);
  if (names.length === 0) {
    throw new PolicyError('WEFT_POLICY_FIELD', `a ${what} has no fields`, {
      nextStep: `name what the ${what} must match, or leave the list out`,
    });
  }
  for (const name of names) {
    if (!Object.hasOwn(known, name)) {
      throw new PolicyError('WEFT_POLICY_FIELD', `a ${what} has a field that cannot be evaluated: ${JSON.stringify(name.slice(0, 80))}`, {
        nextStep: 'remove the field; fields are refused rather than ignored',
      });
    }
  }
}
