import { WeftError } from '../model/errors.ts';

/** Raised by the node agent. Codes: WEFT_AGENT_*. */
export class AgentError extends WeftError {
  override readonly name = 'AgentError';
}
