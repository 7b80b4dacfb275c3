import type { Metadata, Mode, SourceLocation } from '../../model/resources.ts';
import type { ConfigProblemCode, FieldPath } from '../config-problem.ts';
import { quote } from '../config-problem.ts';

/** A resource whose fields have passed the schema of its kind, on the way to the model. What a schema cannot say is checked here. */
export interface Draft {
  readonly apiVersion: string;
  readonly metadata: Metadata;
  readonly location: SourceLocation;
  /** The spec as written; an empty object when there is none. */
  readonly spec: Readonly<Record<string, unknown>>;
  /** Where the kind admits the items of a list one by one: those its schema refused, which are reported. In `spec` `{}` stands in their place. */
  readonly refusedItems: ReadonlySet<number>;
  /** Reports a problem; the resource is then not used. `path` starts at the resource. */
  fail(path: FieldPath, message: string, nextStep: string, code?: ConfigProblemCode): void;
  /** Reports a problem that costs less than the resource, which is used: `consequence` says what is in force instead. */
  contain(consequence: string, path: FieldPath, message: string, nextStep: string, code?: ConfigProblemCode): void;
}

const MODES: readonly string[] = ['off', 'permissive', 'strict'];
const MODE_LABEL = 'weft.dev/mode';
const ISTIO_LABEL = 'istio.io/dataplane-mode';

/** The mode that the labels of a Namespace or Workload ask for; null when they do not say. `weft.dev/mode` wins over Istio's label. */
export function modeOf(draft: Draft): Mode | null {
  const { labels } = draft.metadata;
  const mode = labels[MODE_LABEL];
  const istio = labels[ISTIO_LABEL];
  if (mode !== undefined && !MODES.includes(mode)) {
    draft.fail(['metadata', 'labels', MODE_LABEL], `${quote(mode)} is not one of ${MODES.join(', ')}`, `use one of ${MODES.join(', ')}`);
  }
  if (istio !== undefined && istio !== 'ambient' && istio !== 'none') {
    draft.fail(
      ['metadata', 'labels', ISTIO_LABEL],
      `${quote(istio)} is not one of ambient, none`,
      `use ambient or none, or the label ${MODE_LABEL}`,
    );
  }
  if (mode !== undefined) return mode as Mode;
  if (istio === undefined) return null;
  return istio === 'ambient' ? 'permissive' : 'off';
}

/** `spec.selector` of a policy: null selects everything, which an empty selector does too. */
export function selectorOf(draft: Draft): Readonly<Record<string, string>> | null {
  const selector = draft.spec['selector'] as { matchLabels?: Record<string, string> } | undefined;
  const labels = selector?.matchLabels ?? {};
  return Object.keys(labels).length === 0 ? null : { ...labels };
}
