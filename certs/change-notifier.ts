/** Tells listeners that something changed, once per turn of the event loop however many changes there were. */
export class ChangeNotifier implements Disposable {
  readonly #listeners = new Set<() => void>();
  #pending: NodeJS.Immediate | null = null;

  subscribe(listener: () => void): () => void {
    // Wrapped, so that one function subscribed twice is two subscriptions.
    const entry = (): void => listener();
    this.#listeners.add(entry);
    return () => {
      this.#listeners.delete(entry);
    };
  }

  changed(): void {
    this.#pending ??= setImmediate(() => {
      this.#pending = null;
      for (const listener of this.#listeners) listener();
    });
  }

  [Symbol.dispose](): void {
    if (this.#pending !== null) clearImmediate(this.#pending);
    this.#pending = null;
    this.#listeners.clear();
  }
}
