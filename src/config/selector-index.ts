type Labels = Readonly<Record<string, string>>;

interface Entry<Value> {
  readonly labels: readonly (readonly [key: string, value: string])[];
  readonly value: Value;
}

/**
 * Finds the selectors that match a set of labels without trying each: a selector is filed under one of its labels. Finding costs the labels
 * asked with, plus the selectors that share one with them.
 */
export class SelectorIndex<Value> {
  readonly #everything: Value[] = [];
  readonly #byLabel = new Map<string, Entry<Value>[]>();

  /** Adds a selector; null or empty matches everything. */
  add(selector: Labels | null, value: Value): void {
    const labels = Object.entries(selector ?? {});
    const [first] = labels;
    if (first === undefined) {
      this.#everything.push(value);
      return;
    }
    const key = filedUnder(first[0], first[1]);
    const entries = this.#byLabel.get(key);
    if (entries === undefined) this.#byLabel.set(key, [{ labels, value }]);
    else entries.push({ labels, value });
  }

  /** Values of the selectors that match, in no particular order. */
  find(labels: Labels): Value[] {
    const found = [...this.#everything];
    for (const key of Object.keys(labels)) {
      for (const entry of this.#byLabel.get(filedUnder(key, labels[key] ?? '')) ?? []) {
        if (entry.labels.every(([name, value]) => labels[name] === value)) found.push(entry.value);
      }
    }
    return found;
  }
}

/** A label key has no '=' in it, so that two labels never share a place. */
function filedUnder(key: string, value: string): string {
  return `${key}=${value}`;
}
