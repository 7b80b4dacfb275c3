import type { Decision } from '../../src/model/policy.ts';
import type { CompiledRule, OpenOperation } from './compiled-rule.ts';
import type { ConnectionFacts } from './connection-facts.ts';

/** What a connection leaves of the rules of one action. */
export interface Remainder {
  /** Of the first rule that matches whatever is requested. */
  readonly decided: Decision | null;
  /** Of the first rule that matches a connection that is not HTTP. */
  readonly tcp: Decision | null;
  /** The operations that each request has to be asked about, in the author's order. */
  readonly open: readonly OpenOperation[];
}

/** A decision for every connection, in place of a rule that could not be compiled. */
interface Blanket {
  readonly blanket: Decision;
}

type Member = CompiledRule | Blanket;

function isBlanket(member: Member): member is Blanket {
  return 'blanket' in member;
}

function addTo(lists: Map<string, number[]>, key: string, index: number): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [index]);
  else if (list.at(-1) !== index) list.push(index);
}

/** Rules of one action in the order of policies and rules, found by the peer's identity where they name it. */
export class RuleSet {
  readonly #members: Member[] = [];
  readonly #byKey = new Map<string, number[]>();
  /** Those that any peer may match. */
  readonly #byNone: number[] = [];

  get isEmpty(): boolean {
    return this.#members.length === 0;
  }

  add(rule: CompiledRule): void {
    const index = this.#members.push(rule) - 1;
    const keys = rule.sources.map((source) => source.keys);
    if (keys.length === 0 || keys.includes(null)) {
      this.#byNone.push(index);
      return;
    }
    for (const key of keys) {
      for (const value of key?.values ?? []) addTo(this.#byKey, `${key?.field}:${value}`, index);
    }
  }

  /** Adds a decision that every connection gets, for what could not be compiled. */
  addBlanket(decision: Decision): void {
    this.#byNone.push(this.#members.push({ blanket: decision }) - 1);
  }

  *rules(): IterableIterator<CompiledRule> {
    for (const member of this.#members) {
      if (!isBlanket(member)) yield member;
    }
  }

  evaluate(connection: ConnectionFacts): Remainder {
    let decided: Decision | null = null;
    let tcp: Decision | null = null;
    const open: OpenOperation[] = [];
    for (const index of this.#candidates(connection)) {
      if (decided !== null && tcp !== null) break;
      const member = this.#members[index] as Member;
      if (isBlanket(member)) {
        decided ??= member.blanket;
        tcp ??= member.blanket;
        continue;
      }
      tcp ??= member.tcp(connection);
      if (decided !== null) continue;
      const outcome = member.bind(connection);
      if (outcome === 'always') decided = member.decision;
      else if (outcome !== 'never') {
        for (const operation of outcome) open.push(operation);
      }
    }
    return { decided, tcp, open };
  }

  #candidates(connection: ConnectionFacts): readonly number[] {
    const found: (readonly number[])[] = [];
    for (const field of ['principals', 'namespaces', 'serviceAccounts'] as const) {
      const text = connection[SINGULAR[field]];
      const list = text === '' ? undefined : this.#byKey.get(`${field}:${text}`);
      if (list !== undefined) found.push(list);
    }
    if (found.length === 0) return this.#byNone;
    return [...new Set([...found.flat(), ...this.#byNone])].toSorted((a, b) => a - b);
  }
}

const SINGULAR = { principals: 'principal', namespaces: 'namespace', serviceAccounts: 'serviceAccount' } as const;
