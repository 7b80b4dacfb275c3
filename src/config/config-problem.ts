/** Why a piece of configuration was refused. Stable: scripts may match it; docs/errors.md has a line for each. */
export type ConfigProblemCode =
  /** The text is not YAML 1.2, or uses a part of it that Weft does not read (tags, other versions). */
  | 'WEFT_CONFIG_YAML'
  /** Not UTF-8, or it has characters that no YAML file has (NUL and other control characters). */
  | 'WEFT_CONFIG_ENCODING'
  /** Over a limit of limits.ts: size, nesting, count. */
  | 'WEFT_CONFIG_TOO_LARGE'
  /** An alias that contains itself, names no anchor, or expands too far. */
  | 'WEFT_CONFIG_ALIAS'
  /** One key twice in one mapping. */
  | 'WEFT_CONFIG_DUPLICATE_KEY'
  /** One resource (kind, namespace, name) twice. */
  | 'WEFT_CONFIG_DUPLICATE_RESOURCE'
  /** A kind or apiVersion that Weft does not know. */
  | 'WEFT_CONFIG_UNKNOWN_KIND'
  /** A field that this kind does not have. */
  | 'WEFT_CONFIG_UNKNOWN_FIELD'
  /** A kind, field or value that exists in Kubernetes or Istio and that Weft does not support yet. */
  | 'WEFT_CONFIG_UNSUPPORTED'
  /** A field that must be there is not. */
  | 'WEFT_CONFIG_MISSING_FIELD'
  /** A value of the wrong type, form or range, or one that contradicts another. */
  | 'WEFT_CONFIG_INVALID_VALUE'
  /** The file cannot be read, or is not a regular file. */
  | 'WEFT_CONFIG_UNREADABLE'
  /** The file has no bytes: a torn or failed write. */
  | 'WEFT_CONFIG_EMPTY_FILE'
  /** The file is broken since before the agent started: what was kept of it is in force. Beside the problem itself. */
  | 'WEFT_CONFIG_LAST_GOOD'
  /** The watched directory is gone or cannot be listed. */
  | 'WEFT_CONFIG_DIRECTORY';

/** One thing that is wrong in one file, and what its author should do. */
export interface ConfigProblem {
  readonly file: string;
  /** Counts from 1; 0 when the problem is the file itself, not a place in it. */
  readonly line: number;
  /** Counts from 1, in UTF-16 units; 0 with line 0. */
  readonly column: number;
  /** Such as `spec.rules[0].from[0].source.principals[1]`; empty for the document or the file as a whole. */
  readonly field: string;
  readonly message: string;
  /** What to do, as one imperative sentence. */
  readonly nextStep: string;
  readonly code: ConfigProblemCode;
  /**
   * What is in force in place of what was refused, where that is less than the resource: `the rule denies everything`. Absent: the whole
   * resource is refused.
   */
  readonly consequence?: string;
}

/** Where a value sits in a document: mapping keys and sequence indexes from its root. */
export type FieldPath = readonly (string | number)[];

const PLAIN_KEY = /^[A-Za-z_$][A-Za-z0-9_$-]*$/;

/** Writes a path as Kubernetes does: `spec.rules[0].to`, and `metadata.labels["weft.dev/mode"]` where a key needs quotes. */
export function fieldText(path: FieldPath): string {
  let text = '';
  for (const segment of path) {
    if (typeof segment === 'number') text += `[${segment}]`;
    else if (PLAIN_KEY.test(segment)) text += text === '' ? segment : `.${segment}`;
    else text += `[${quote(segment)}]`;
  }
  return text;
}

const QUOTED_LENGTH = 80;

/** A piece of the author's text for a message: quoted, escaped and cut, so that no file can flood or forge a log line. */
export function quote(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value));
  const cut = text.length > QUOTED_LENGTH ? `${text.slice(0, QUOTED_LENGTH)}…` : text;
  return typeof value === 'string' ? JSON.stringify(cut) : cut;
}
