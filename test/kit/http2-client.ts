import { app, type Child, type LabPod } from './lab/index.ts';

interface Told {
  readonly id: number;
  readonly event: 'head' | 'data' | 'trailers' | 'close';
  readonly headers?: Readonly<Record<string, unknown>>;
  readonly bytes?: string;
  readonly code?: number;
}

/** A request under way from a pod: what came of it so far, and how to go on with it. */
export class Http2Call {
  head: Readonly<Record<string, unknown>> = {};
  trailers: Readonly<Record<string, unknown>> | null = null;
  body: Buffer = Buffer.alloc(0);
  /** The code of RST_STREAM, 0 for an orderly end; null while it is open. */
  code: number | null = null;
  readonly #id: number;
  readonly #command: (command: object) => void;
  #wake: (() => void)[] = [];

  constructor(id: number, command: (command: object) => void) {
    this.#id = id;
    this.#command = command;
  }

  /** 0 as long as there is none. */
  get status(): number {
    return Number(this.head[':status'] ?? 0);
  }

  write(bytes: Uint8Array | string): this {
    this.#command({ write: this.#id, bytes: Buffer.from(bytes).toString('base64') });
    return this;
  }

  end(): this {
    this.#command({ end: this.#id });
    return this;
  }

  /** Resolves when the condition holds. @throws Error with what came, when it does not in time */
  async until(what: string, condition: (call: this) => boolean, timeoutMs = 5_000): Promise<this> {
    const deadline = performance.now() + timeoutMs;
    while (!condition(this)) {
      const left = deadline - performance.now();
      if (left <= 0) {
        const { head, body, trailers, code } = this;
        throw new Error(`not ${what}: ${JSON.stringify({ head, body: body.toString().slice(0, 500), trailers, code })}`);
      }
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
        timer = setTimeout(resolve, left);
      });
      clearTimeout(timer);
    }
    return this;
  }

  /** Resolves when the stream has closed. */
  closed(timeoutMs?: number): Promise<this> {
    return this.until('closed', ({ code }) => code !== null, timeoutMs);
  }

  /** For Http2Client. */
  told({ event, headers, bytes, code }: Told): void {
    if (event === 'head') this.head = headers ?? {};
    else if (event === 'trailers') this.trailers = headers ?? {};
    else if (event === 'data') this.body = Buffer.concat([this.body, Buffer.from(bytes ?? '', 'base64')]);
    else this.code = code ?? 0;
    for (const wake of this.#wake.splice(0)) wake();
  }
}

/** An HTTP/2 client that runs in a pod and is captured like any application, in the hands of a test. One connection for each origin. */
export class Http2Client implements AsyncDisposable {
  readonly #process: Child;
  readonly #calls = new Map<number, Http2Call>();
  #next = 1;

  private constructor(process: Child) {
    this.#process = process;
    void this.#read();
  }

  static async start(pod: LabPod): Promise<Http2Client> {
    const process = await pod.spawn(app('http2-client'), { stdin: 'pipe' });
    await process.waitForLine(/^ready$/);
    return new Http2Client(process);
  }

  /** Begins a request; its body goes on until end(). */
  open(url: string, headers: Readonly<Record<string, string>> = {}): Http2Call {
    const { origin, host } = new URL(url);
    const id = this.#next++;
    const call = new Http2Call(id, (command) => this.#command(command));
    this.#calls.set(id, call);
    // The URL class would normalise the path, which is the mesh's to do. Node's own :authority has an IPv6 address without its brackets.
    const target = { ':authority': host, ':path': url.slice(origin.length) || '/' };
    this.#command({ open: id, to: origin, headers: { ...target, ...headers } });
    return call;
  }

  /** A whole request. */
  request(url: string, headers: Readonly<Record<string, string>> = {}, body: Uint8Array | string = ''): Promise<Http2Call> {
    const call = this.open(url, headers);
    if (body.length > 0) call.write(body);
    return call.end().closed();
  }

  #command(command: object): void {
    this.#process.input?.write(`${JSON.stringify(command)}\n`);
  }

  async #read(): Promise<void> {
    for await (const line of this.#process.lines()) {
      if (!line.startsWith('{')) continue;
      const told = JSON.parse(line) as Told;
      this.#calls.get(told.id)?.told(told);
      if (told.event === 'close') this.#calls.delete(told.id);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#process[Symbol.asyncDispose]();
  }
}
