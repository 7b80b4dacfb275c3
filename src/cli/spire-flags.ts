import { errorText } from '../model/errors.ts';
import { parseSpiffeId } from '../model/identity.ts';
import { usageError } from './cli-error.ts';

/** The flags that name a SPIRE agent, as they were typed. */
export interface SpireFlags {
  readonly spireSocket?: string;
  readonly spireBrokerSocket?: string;
  readonly spireBrokerId?: readonly string[];
}

/** As in src/agent/agent-options.ts. */
interface SpireAgent {
  readonly kind: 'spire';
  readonly socketPath: string;
  readonly broker: { readonly socketPath: string; readonly servers: readonly string[] } | null;
}

/** Those that name another source of identities. */
const AUTHORITY_FLAGS = ['caDir', 'caCert', 'caKey', 'caPassphraseFile', 'caListen', 'caServer', 'caTokenFile'] as const;

/**
 * The SPIRE agent that the flags name, or null when they name none.
 * @param path makes a path absolute
 * @throws CliError WEFT_CLI_USAGE for flags that make no sense together
 */
export function spireAgent(
  flags: SpireFlags & { readonly [flag in (typeof AUTHORITY_FLAGS)[number]]?: string },
  path: (flag: string, text: string) => string,
): SpireAgent | null {
  const { spireSocket, spireBrokerSocket, spireBrokerId } = flags;
  if (spireSocket === undefined) {
    if (spireBrokerSocket === undefined && spireBrokerId === undefined) return null;
    throw usageError('the Broker API needs an identity of the agent itself', 'give --spire-socket, too: that of the Workload API');
  }
  if (AUTHORITY_FLAGS.some((flag) => flags[flag] !== undefined)) {
    throw usageError('identities come from SPIRE or from an authority', 'give --spire-socket, or the flags that begin with --ca');
  }
  if (spireBrokerSocket === undefined && spireBrokerId !== undefined) {
    throw usageError('--spire-broker-id says who may serve the Broker API', 'give --spire-broker-socket, too');
  }
  const broker =
    spireBrokerSocket === undefined
      ? null
      : { socketPath: path('--spire-broker-socket', spireBrokerSocket), servers: (spireBrokerId ?? []).map(brokerId) };
  return { kind: 'spire', socketPath: path('--spire-socket', spireSocket), broker };
}

function brokerId(text: string): string {
  try {
    return parseSpiffeId(text).text;
  } catch (error) {
    throw usageError(
      `--spire-broker-id cannot be ${JSON.stringify(text.slice(0, 120))}: ${errorText(error)}`,
      'give the SPIFFE ID of the SPIRE agent',
    );
  }
}
