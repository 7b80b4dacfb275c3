/** Changes that any number of streams wait on. However many there were while a stream was busy, it sees one. */
export class Changes {
  readonly #waiting = new Set<() => void>();
  #version = 0;

  /** Grows with each change. */
  get version(): number {
    return this.#version;
  }

  changed(): void {
    this.#version++;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const wake of waiting) wake();
  }

  /** Resolves once the version is another than `seen`, or the signal aborts. Never rejects. */
  after(seen: number, signal: AbortSignal): Promise<void> {
    if (this.#version !== seen || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener('abort', wake);
    });
  }
}
