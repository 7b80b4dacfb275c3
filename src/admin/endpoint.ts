/** Whose endpoint it is: how its answers and errors speak of it. */
export interface Endpoint {
  /** As in `${name} answers on … already`: 'an agent'. */
  readonly name: string;
  readonly codes: {
    /** Another process answers on the socket. */
    readonly running: string;
    /** The address cannot be listened on. */
    readonly listen: string;
    /** A request that is unknown or malformed. */
    readonly request: string;
    /** A failure that is not the caller's. */
    readonly internal: string;
  };
  /** What to do when another one is running. */
  readonly whenRunning: string;
  /** Statuses of error codes that are not answered with 400. */
  readonly statusOf: ReadonlyMap<string, number>;
}
