const HEAD = 5;

/** One message as gRPC frames it: not compressed, four bytes of length, the bytes. */
export function grpcMessage(text: string): Buffer {
  const body = Buffer.from(text);
  const framed = Buffer.allocUnsafe(HEAD + body.length);
  framed[0] = 0;
  framed.writeUInt32BE(body.length, 1);
  body.copy(framed, HEAD);
  return framed;
}

/** Puts gRPC's messages together again from bytes that may be cut anywhere. */
export class GrpcMessages {
  #rest: Buffer = Buffer.alloc(0);

  /** The messages that are complete with these bytes. */
  push(chunk: Buffer): string[] {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    const messages: string[] = [];
    while (this.#rest.length >= HEAD) {
      const end = HEAD + this.#rest.readUInt32BE(1);
      if (this.#rest.length < end) break;
      messages.push(this.#rest.toString('utf8', HEAD, end));
      this.#rest = this.#rest.subarray(end);
    }
    return messages;
  }
}
