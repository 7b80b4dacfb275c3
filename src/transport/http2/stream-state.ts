/** The states of a stream, RFC 9113 section 5.1. The reserved states are missing: nobody pushes. */
export const StreamState = { idle: 0, open: 1, halfClosedLocal: 2, halfClosedRemote: 3, closed: 4 } as const;
export type StreamState = (typeof StreamState)[keyof typeof StreamState];

/** What moves a stream. Sending or receiving DATA moves nothing; its end does. */
export const StreamEvent = { sendHeaders: 0, receiveHeaders: 1, sendEnd: 2, receiveEnd: 3, sendReset: 4, receiveReset: 5 } as const;
export type StreamEvent = (typeof StreamEvent)[keyof typeof StreamEvent];

const { open, halfClosedLocal, halfClosedRemote, closed } = StreamState;
const NEVER = -1;

/** One row for each state, one column for each event. */
const TABLE: readonly (readonly (StreamState | typeof NEVER)[])[] = [
  // sendHeaders, receiveHeaders, sendEnd, receiveEnd, sendReset, receiveReset
  [open, open, NEVER, NEVER, NEVER, NEVER],
  [open, open, halfClosedLocal, halfClosedRemote, closed, closed],
  [NEVER, halfClosedLocal, NEVER, closed, closed, closed],
  [halfClosedRemote, NEVER, closed, NEVER, closed, closed],
  [NEVER, NEVER, NEVER, NEVER, closed, closed],
];

/**
 * The one transition function of streams. Invariant: a state is never left backwards, and nothing leaves `closed`.
 * @returns the next state, or -1 if the event may not happen in this state
 */
export function nextStreamState(state: StreamState, event: StreamEvent): StreamState | -1 {
  return (TABLE[state] as readonly (StreamState | -1)[])[event] as StreamState | -1;
}
