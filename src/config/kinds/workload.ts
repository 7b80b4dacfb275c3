import type { WorkloadResource } from '../../model/resources.ts';
import { quote } from '../config-problem.ts';
import { canonicalIp } from '../ip-address.ts';
import type { Draft } from './draft.ts';
import { modeOf } from './draft.ts';

interface WorkloadSpec {
  readonly node: string;
  readonly serviceAccount?: string;
  readonly addresses?: readonly string[];
  readonly networkNamespace?: string;
  readonly cgroup?: string;
  readonly systemdUnit?: string;
}

const UNUSABLE = /^(?:0\.0\.0\.0|::|255\.255\.255\.255|22[4-9]\..*|23\d\..*|ff.*:.*)$/;
// '.' and '..' segments would make two spellings of one place.
const DOT_SEGMENT = /(?:^|\/)\.{1,2}(?:\/|$)/;

/** weft.dev/v1 Workload to the model. */
export function toWorkload(draft: Draft): WorkloadResource {
  const spec = draft.spec as unknown as WorkloadSpec;
  for (const field of ['networkNamespace', 'cgroup'] as const) {
    const path = spec[field];
    if (path !== undefined && (DOT_SEGMENT.test(path) || path.includes('\n'))) {
      draft.fail(['spec', field], `${quote(path)} has "." or ".." in it, or a line break`, 'write the path without them');
    }
  }
  if (spec.cgroup !== undefined && spec.systemdUnit !== undefined) {
    draft.fail(['spec', 'systemdUnit'], 'cgroup and systemdUnit both name its processes', 'leave one of the two out');
  }
  return {
    kind: 'Workload',
    metadata: draft.metadata,
    location: draft.location,
    spec: {
      node: spec.node,
      serviceAccount: spec.serviceAccount ?? 'default',
      addresses: addressesOf(draft, spec.addresses ?? []),
      networkNamespace: spec.networkNamespace ?? null,
      cgroup: spec.cgroup ?? null,
      systemdUnit: spec.systemdUnit ?? null,
      mode: modeOf(draft),
    },
  };
}

function addressesOf(draft: Draft, written: readonly string[]): string[] {
  const addresses: string[] = [];
  for (const [index, text] of written.entries()) {
    const path = ['spec', 'addresses', index];
    const address = canonicalIp(text);
    if (address === null)
      draft.fail(path, `${quote(text)} is not an IP address`, 'write it as 10.0.0.1 or fd00::1, without leading zeros or a prefix length');
    else if (UNUSABLE.test(address))
      draft.fail(path, `${quote(text)} is not the address of one workload`, 'write the address that clients dial');
    else if (addresses.includes(address)) draft.fail(path, `${quote(text)} is in the list already`, 'remove one of the two');
    else addresses.push(address);
  }
  return addresses;
}
