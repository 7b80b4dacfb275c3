import { forwardedClient } from '../../../proxy/gate/forwarded-for.ts';
import { normalisationLevel, normalisePath } from '../../../proxy/http1/normalise-path.ts';
import { type ExplainedStep, explain } from '../../../proxy/policy/explain.ts';
import { strictModeDecision } from '../../../proxy/policy/mode-decision.ts';
import { type CompiledWorkloadPolicy, compileWorkloadPolicy, type WorkloadPolicyOptions } from '../../../proxy/policy/workload-policy.ts';
import type { ConnectionAttributes, Decision, JwtIdentity, RequestAttributes, ShadowDecision } from '../../model/policy.ts';
import type { JwtRule } from '../../model/resources.ts';
import type { MeshSnapshot, PolicyEntry, WorkloadEntry } from '../../model/snapshot.ts';
import { CliError } from '../cli-error.ts';
import type { AskedRequest, Question } from './question.ts';

/** The answer to a question. */
export interface Answer {
  readonly decision: Decision;
  readonly dryRun: readonly ShadowDecision[];
  /** What a reader should know to believe it: sentences. */
  readonly notes: readonly string[];
  readonly workload: WorkloadEntry;
  /** Of every rule whether it matched, and why or why not; none where no rule was asked. */
  readonly steps: () => readonly ExplainedStep[];
}

/** `weft policy explain --output json`, and each case of `weft policy test`. */
export interface AnswerJson {
  readonly decision: 'allow' | 'deny';
  readonly policy: string | null;
  readonly rule: number | null;
  readonly reason: string;
  readonly dryRun: readonly ShadowDecision[];
}

/** The fields that scripts read, and no others. */
export function answerJson({ decision, dryRun }: Answer): AnswerJson {
  const { verdict, policy, rule, reason } = decision;
  return {
    decision: verdict,
    policy,
    rule,
    reason,
    dryRun: dryRun.map((shadow) => ({ policy: shadow.policy, rule: shadow.rule, effect: shadow.effect, reason: shadow.reason })),
  };
}

/**
 * Decides questions as the proxy in front of a workload does, with the same code: mode, token, CUSTOM, DENY, ALLOW. What only a real
 * request can show is taken to be well: a token's signature and times, and the answer of a CUSTOM policy's provider.
 */
export class Decider {
  readonly snapshot: MeshSnapshot;
  readonly #policies = new Map<WorkloadEntry, CompiledWorkloadPolicy>();

  constructor(snapshot: MeshSnapshot) {
    this.snapshot = snapshot;
  }

  /** @throws CliError WEFT_CLI_NO_WORKLOAD */
  decide(question: Question): Answer {
    const workload = this.#workload(question);
    const notes: string[] = [];
    let steps = noSteps;
    const make = (decision: Decision, dryRun: readonly ShadowDecision[] = []): Answer => ({ decision, dryRun, notes, workload, steps });
    const mode = workload.portModes.find(([port]) => port === question.port)?.[1] ?? workload.mode;
    if (workload.mode === 'off') {
      notes.push(`its mode is off (${workload.modeSource}): it is not in the mesh, and no policy is enforced`);
      return make({ verdict: 'allow', policy: null, rule: null, reason: 'the mode of the workload is off: nothing is enforced' });
    }
    this.#noteTrustDomain(question, notes);
    const strict = strictModeDecision(mode, workload.modeSource, question.from !== null);
    if (strict !== null) return make(strict);
    const compiled = this.#policy(workload);
    for (const { message } of compiled.errors) notes.push(`${message}: it fails closed`);
    const connection = this.#connection(question, workload, notes);
    const bound = compiled.bind(connection);
    const { request } = question;
    if (request === null) {
      steps = () => explain(this.#policiesOf(workload), connection, null, this.#options()).steps;
      return make(bound.tcp, bound.tcpShadow);
    }
    // As at the gate: who can be allowed nothing has no token looked at.
    const token = bound.scope === 'deny' ? null : this.#token(request, workload, notes);
    if (token !== null && 'verdict' in token) return make(token);
    const asked = this.#request(request, question, token, notes);
    steps = () => explain(this.#policiesOf(workload), connection, asked, this.#options()).steps;
    const custom = bound.scope === 'deny' ? null : bound.custom(asked);
    const shadow = bound.shadow(asked);
    const decision = bound.request(asked);
    if (custom === null) return make(decision, shadow);
    const rule = `${custom.policy} rule ${custom.rule}`;
    if (custom.dryRun) {
      notes.push(`${rule} (CUSTOM, dry run) asks the provider "${custom.provider}" and records what it says`);
      return make(decision, shadow);
    }
    notes.push(`${rule} (CUSTOM) asks the provider "${custom.provider}" first, and what it denies is denied`);
    if (decision.verdict === 'deny') return make(decision, shadow);
    return make({ ...decision, reason: `${decision.reason}, if the provider "${custom.provider}" of ${rule} allows it` }, shadow);
  }

  #workload({ namespace, name }: Question): WorkloadEntry {
    const found = this.snapshot.workloads.find((workload) => workload.namespace === namespace && workload.name === name);
    if (found !== undefined) return found;
    throw new CliError('WEFT_CLI_NO_WORKLOAD', `there is no workload ${namespace}/${name}`, {
      nextStep: 'see `weft status` for the workloads here, or give the files with -f',
    });
  }

  #policy(workload: WorkloadEntry): CompiledWorkloadPolicy {
    let policy = this.#policies.get(workload);
    if (policy === undefined) {
      policy = compileWorkloadPolicy(this.#policiesOf(workload), this.#options());
      this.#policies.set(workload, policy);
    }
    return policy;
  }

  #policiesOf(workload: WorkloadEntry): PolicyEntry[] {
    const { policies } = this.snapshot;
    return workload.policies.map((index) => policies[index]).filter((entry): entry is PolicyEntry => entry !== undefined);
  }

  #options(): WorkloadPolicyOptions {
    const { settings, trustDomain } = this.snapshot;
    return {
      trustDomain,
      trustDomainAliases: settings.trustDomainAliases,
      providers: settings.extensionProviders.map(({ name }) => name),
      // A table is for many requests; here is one.
      tables: false,
    };
  }

  #noteTrustDomain({ from }: Question, notes: string[]): void {
    const { trustDomain, settings } = this.snapshot;
    if (from === null || from.trustDomain === trustDomain || settings.trustDomainAliases.includes(from.trustDomain)) return;
    notes.push(`${from.trustDomain} is not the trust domain of this mesh (${trustDomain}): such a peer cannot prove its identity here`);
  }

  #connection(question: Question, workload: WorkloadEntry, notes: string[]): ConnectionAttributes {
    return {
      sourceIdentity: question.from,
      sourceAddress: question.sourceAddress ?? this.#addressOf(question, notes),
      destinationAddress: workload.addresses[0] ?? '',
      destinationPort: question.port,
      ...(question.request === null ? { serverName: question.serverName } : {}),
    };
  }

  /** An empty address is one that nobody knows: no rule about addresses then decides in the peer's favour. */
  #addressOf({ from }: Question, notes: string[]): string {
    const peers = from === null ? [] : this.snapshot.workloads.filter(({ identity }) => identity === from.text);
    const address = peers.length === 1 ? (peers[0]?.addresses[0] ?? '') : '';
    if (address === '' && this.#asksAddresses()) {
      notes.push('the address of the peer is not known: rules about addresses count against it; say it with --source-ip (sourceIp)');
    }
    return address;
  }

  #asksAddresses(): boolean {
    const fields = ['ipBlocks', 'notIpBlocks', 'remoteIpBlocks', 'notRemoteIpBlocks'] as const;
    return this.snapshot.policies.some(({ rules }) =>
      rules.some(
        ({ from, when }) =>
          from.some((source) => fields.some((field) => source[field] !== undefined)) ||
          when.some(({ key }) => key === 'source.ip' || key === 'remote.ip'),
      ),
    );
  }

  /** The token's identity, null when nobody looks at it, or the refusal of one that no RequestAuthentication takes. */
  #token({ claims }: AskedRequest, workload: WorkloadEntry, notes: string[]): JwtIdentity | Decision | null {
    if (claims === null) return null;
    const authentications = workload.authentications
      .map((index) => this.snapshot.authentications[index])
      .filter((one) => one !== undefined);
    if (authentications.every(({ rules }) => rules.length === 0)) {
      notes.push('no RequestAuthentication applies to the workload: nobody looks at the token, and its claims count for nothing');
      return null;
    }
    const identity = identityOf(claims);
    const ofIssuer: { readonly name: string; readonly rule: JwtRule }[] = authentications.flatMap(({ name, rules }) =>
      rules.filter(({ issuer }) => issuer === identity.issuer).map((rule) => ({ name, rule })),
    );
    const [first] = ofIssuer;
    if (first === undefined) return refused(null, 'the issuer of the token is not accepted here');
    const accepted = ofIssuer.some(
      ({ rule }) => rule.audiences.length === 0 || rule.audiences.some((audience) => identity.audiences.includes(audience)),
    );
    if (!accepted) return refused(first.name, 'the token is for another audience');
    notes.push('the token is taken to be valid: signature and times are not looked at');
    return identity;
  }

  #request(request: AskedRequest, question: Question, jwt: JwtIdentity | null, notes: string[]): RequestAttributes {
    const { pathNormalisation, trustedForwardedHops } = this.snapshot.settings;
    const normal = normalisePath(request.target, normalisationLevel(pathNormalisation));
    // It was checked when the question was read: no level refuses more than another.
    const path = typeof normal === 'string' ? request.target : normal.path;
    if (path !== request.target) notes.push(`the path is compared, and forwarded, as ${path}`);
    const header = (name: string): readonly string[] => request.headers.filter(([own]) => own === name).map(([, value]) => value);
    const peer = question.sourceAddress ?? this.#addressOf(question, []);
    const forwarded = trustedForwardedHops > 0 ? forwardedClient(header('x-forwarded-for'), trustedForwardedHops) : null;
    return { method: request.method, path, host: request.host, header, remoteAddress: forwarded ?? peer, jwt };
  }
}

function noSteps(): readonly ExplainedStep[] {
  return [];
}

function refused(policy: string | null, reason: string): Decision {
  return { verdict: 'deny', policy, rule: null, reason };
}

function identityOf(claims: Readonly<Record<string, unknown>>): JwtIdentity {
  const { iss, sub, aud, azp } = claims;
  const issuer = typeof iss === 'string' ? iss : '';
  const subject = typeof sub === 'string' ? sub : null;
  return {
    issuer,
    subject,
    principal: `${issuer}/${subject ?? ''}`,
    audiences: typeof aud === 'string' ? [aud] : Array.isArray(aud) ? aud.filter((one) => typeof one === 'string') : [],
    presenter: typeof azp === 'string' ? azp : null,
    claims,
  };
}
