import { Ajv } from 'ajv';
import type { ErrorObject, ValidateFunction } from 'ajv';
import type { ConfigProblemCode } from './config-problem.ts';
import { quote } from './config-problem.ts';
import type { JsonSchema } from './schema/json-schema.ts';

/** What a schema found, in the words of a ConfigProblem. */
export interface SchemaFinding {
  readonly path: readonly (string | number)[];
  readonly code: ConfigProblemCode;
  readonly message: string;
  readonly nextStep: string;
}

const ANNOTATIONS = ['weftForm', 'weftUnsupportedValues', 'weftIgnored'];

/** Checks values against one schema. Compiled on first use, which takes some milliseconds. */
export class SchemaValidator {
  readonly #schema: JsonSchema;
  #first: ValidateFunction | null = null;
  #all: ValidateFunction | null = null;

  constructor(schema: JsonSchema) {
    this.#schema = schema;
  }

  /**
   * What is wrong with a value; empty when nothing is. Up to `limit` findings of a small value, one of a large one: a list of a million bad
   * entries must not become a million errors.
   */
  check(value: unknown, limit: number): SchemaFinding[] {
    this.#first ??= compile(this.#schema, false);
    if (this.#first(value)) return [];
    if (isLarge(value)) return toFindings(this.#first.errors, value);
    this.#all ??= compile(this.#schema, true);
    this.#all(value);
    return toFindings(this.#all.errors, value).slice(0, limit);
  }
}

function compile(schema: JsonSchema, allErrors: boolean): ValidateFunction {
  const ajv = new Ajv({ allErrors, verbose: true, strict: true, allowUnionTypes: true, logger: false });
  ajv.addVocabulary(ANNOTATIONS);
  ajv.addKeyword({ keyword: 'weftUnsupported', schemaType: 'string', validate: () => false, errors: false });
  return ajv.compile(schema);
}

const LARGE = 10_000;

function isLarge(root: unknown): boolean {
  let left = LARGE;
  const visit = (value: unknown): void => {
    left -= 1;
    if (left < 0 || typeof value !== 'object' || value === null) return;
    for (const item of Object.values(value)) {
      visit(item);
      if (left < 0) return;
    }
  };
  visit(root);
  return left < 0;
}

function toFindings(errors: readonly ErrorObject[] | null | undefined, root: unknown): SchemaFinding[] {
  // 'propertyNames' only repeats what the error of the name itself says.
  return (errors ?? []).filter((error) => error.keyword !== 'propertyNames').map((error) => toFinding(error, root));
}

/** JSON pointer of an error as a field path: list indexes become numbers, by what the value really is there. */
function pathOf(error: ErrorObject, root: unknown): (string | number)[] {
  const path: (string | number)[] = [];
  let value = root;
  for (const escaped of error.instancePath.split('/').slice(1)) {
    const segment = escaped.replaceAll('~1', '/').replaceAll('~0', '~');
    path.push(Array.isArray(value) ? Number(segment) : segment);
    value = (value as Record<string, unknown>)[segment];
  }
  if (error.propertyName !== undefined) path.push(error.propertyName);
  return path;
}

function toFinding(error: ErrorObject, root: unknown): SchemaFinding {
  const path = pathOf(error, root);
  const schema = error.parentSchema as JsonSchema;
  const invalid = (message: string, nextStep: string): SchemaFinding => ({ path, code: 'WEFT_CONFIG_INVALID_VALUE', message, nextStep });
  const form = schema.weftForm === undefined ? null : `must be ${schema.weftForm}`;
  switch (error.keyword) {
    case 'additionalProperties': {
      const field = String(error.params['additionalProperty']);
      const known = Object.keys(schema.properties ?? {});
      return {
        path: [...path, field],
        code: 'WEFT_CONFIG_UNKNOWN_FIELD',
        message: `there is no field ${quote(field)} here`,
        nextStep: suggest(field, known, schema),
      };
    }
    case 'required': {
      const field = String(error.params['missingProperty']);
      return { path: [...path, field], code: 'WEFT_CONFIG_MISSING_FIELD', message: 'is required', nextStep: `add ${field}` };
    }
    case 'weftUnsupported':
      return {
        path,
        code: 'WEFT_CONFIG_UNSUPPORTED',
        message: `is not supported yet: ${schema.weftUnsupported}`,
        nextStep: 'remove the field, or the resource if it depends on it',
      };
    case 'enum': {
      const why =
        typeof error.data === 'string' &&
        schema.weftUnsupportedValues !== undefined &&
        Object.hasOwn(schema.weftUnsupportedValues, error.data)
          ? schema.weftUnsupportedValues[error.data]
          : undefined;
      const allowed = (schema.enum ?? []).join(', ');
      if (why !== undefined) {
        return {
          path,
          code: 'WEFT_CONFIG_UNSUPPORTED',
          message: `${quote(error.data)} is not supported yet: ${why}`,
          nextStep: `use one of ${allowed}`,
        };
      }
      return invalid(`${quote(error.data)} is not one of ${allowed}`, `use one of ${allowed}`);
    }
    case 'type':
      return wrongType(error, schema, invalid);
    case 'pattern':
      return invalid(
        form === null ? `${quote(error.data)} has the wrong form` : `${quote(error.data)} ${form}`.replace(' must be ', ' is not '),
        'correct the value',
      );
    case 'minimum':
    case 'maximum':
      return invalid(
        form === null ? `${quote(error.data)} is out of range` : `${quote(error.data)} is not ${schema.weftForm}`,
        'correct the value',
      );
    case 'minItems':
      return invalid('must not be an empty list', 'add a value, or leave the field out');
    case 'minLength':
      return invalid('must not be empty', 'add a value, or leave the field out');
    case 'minProperties':
      return invalid('must not be empty', 'add a field, or leave it out');
    case 'maxItems':
      return invalid(`has more than ${schema.maxItems} entries`, 'split it into several');
    case 'maxLength':
      return invalid(`is longer than ${schema.maxLength} characters`, 'shorten it');
    default:
      return invalid(error.message ?? error.keyword, 'correct the value');
  }
}

function wrongType(error: ErrorObject, schema: JsonSchema, invalid: (message: string, nextStep: string) => SchemaFinding): SchemaFinding {
  const wanted = typeof schema.type === 'string' ? [schema.type] : (schema.type ?? []);
  const { data } = error;
  const names = wanted.filter((type) => type !== 'null').map(typeName);
  const message = `must be ${names.join(' or ')}, but is ${typeName(typeOf(data))}`;
  if (data === null) return invalid(message, 'add a value, or leave the field out');
  if (wanted.includes('string') && (typeof data === 'number' || typeof data === 'boolean')) {
    return invalid(message, `put it in quotes: "${String(data)}"`);
  }
  if (schema.weftForm !== undefined) return invalid(message, `write ${schema.weftForm}`);
  if (wanted.includes('integer') && typeof data === 'string') return invalid(message, 'write the number without quotes');
  return invalid(message, 'correct the value');
}

function typeOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  return typeof value;
}

function typeName(type: string): string {
  switch (type) {
    case 'object':
      return 'a mapping';
    case 'array':
      return 'a list';
    case 'null':
      return 'nothing';
    case 'integer':
      return 'a whole number';
    default:
      return `a ${type}`;
  }
}

/** The next step for an unknown field: the known field it resembles, or the list of them. */
function suggest(field: string, known: readonly string[], schema: JsonSchema): string {
  const usable = known.filter(
    (name) => schema.properties?.[name]?.weftIgnored === undefined && schema.properties?.[name]?.weftUnsupported === undefined,
  );
  const close = usable.find((name) => resembles(field, name));
  if (close !== undefined) return `did you mean ${close}?`;
  return usable.length === 0 ? 'remove it' : `remove it; the fields here are ${usable.join(', ')}`;
}

/** True when at most two edits apart, without regard to case. Both are short: unknown fields over 40 characters resemble nothing. */
function resembles(left: string, right: string): boolean {
  if (left.length > 40) return false;
  const a = left.toLowerCase();
  const b = right.toLowerCase();
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let row = 1; row <= a.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= b.length; column += 1) {
      const replace = (previous[column - 1] ?? 0) + (a[row - 1] === b[column - 1] ? 0 : 1);
      current.push(Math.min(replace, (previous[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1));
    }
    previous = current;
  }
  return (previous[b.length] ?? Infinity) <= 2;
}
