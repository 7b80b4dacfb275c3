/**
 * The client's side of a stream where only the newest message matters: what was not taken yet is replaced. Ends when told to.
 */
export class RequestQueue<Message extends object> implements AsyncIterable<Message> {
  #newest: Message | null = null;
  #ended = false;
  #wake: () => void = () => {};

  push(message: Message): void {
    this.#newest = message;
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Message> {
    while (!this.#ended) {
      const message = this.#newest;
      if (message !== null) {
        this.#newest = null;
        yield message;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}
