import type { ConnectionPolicy, Decision } from '../../src/model/policy.ts';
import type { Mode } from '../../src/model/resources.ts';

/** The refusal of a plaintext peer under strict mode. `modeSource` is what made the mode (WorkloadEntry.modeSource): it is named as the policy. */
export function modeDenied(modeSource: string): Decision {
  return Object.freeze({
    verdict: 'deny',
    policy: modeSource,
    rule: null,
    reason: 'strict mode requires mTLS or a local peer that the kernel attests',
  });
}

/** The same as the policy of a connection: nothing on it is allowed, whatever it carries. */
export function modeDeniedPolicy(modeSource: string): ConnectionPolicy {
  const denied = modeDenied(modeSource);
  return {
    scope: 'deny',
    tcp: denied,
    request: () => denied,
    hasShadow: false,
    shadow: () => [],
    hasCustom: false,
    custom: () => null,
  };
}

/**
 * What the mode of a workload's port says before any policy: null when it lets the peer on to policy, else the refusal.
 * `proven` is true for a peer with mTLS or attested by the kernel.
 */
export function strictModeDecision(mode: Mode, modeSource: string, proven: boolean): Decision | null {
  return mode === 'strict' && !proven ? modeDenied(modeSource) : null;
}
