import type { HeaderChange } from '../../src/model/request-gate.ts';

/** A HeaderChange while it is collected. A later `set` of a name replaces what came before; `add` does not. */
export class HeaderDraft implements HeaderChange {
  readonly remove: string[] = [];
  readonly set: (readonly [name: string, value: string])[] = [];

  /** Removes every field of that name, and those that were to be set. */
  drop(name: string): void {
    if (!this.remove.includes(name)) this.remove.push(name);
    for (let i = this.set.length - 1; i >= 0; i--) if (this.set[i]?.[0] === name) this.set.splice(i, 1);
  }

  /** One field of that name, in place of all others. */
  replace(name: string, value: string): void {
    this.drop(name);
    this.set.push([name, value]);
  }

  /** One more field of that name. */
  add(name: string, value: string): void {
    this.set.push([name, value]);
  }

  /** Takes in another's changes: its removals come before its fields, and after what is here. */
  merge(other: HeaderChange): void {
    for (const name of other.remove) this.drop(name);
    for (const [name, value] of other.set) this.add(name, value);
  }
}
