/** A process that is connected to the Workload API, as the kernel attests it: it says nothing of itself. */
export interface Caller {
  /** SPIFFE ID of the enrolled workload that it is part of, now; null when that is none, or it has exited. */
  identity(): string | null;
  /** Whom its calls count against: its workload. All processes that are part of none are one. */
  readonly account: string;
  /** Aborts when its process has exited. */
  readonly exited: AbortSignal;
}
