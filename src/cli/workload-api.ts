import { ENDPOINT_VARIABLE, parseEndpointAddress } from '../../certs/workload-api/endpoint-address.ts';
import { WorkloadApiClient } from '../../certs/workload-api/workload-api-client.ts';
import { workloadApiFailure } from '../../certs/workload-api/workload-api-failure.ts';
import { DEFAULT_RUN_DIRECTORY, WORKLOAD_API_SOCKET_NAME } from '../model/admin-api.ts';
import { CliError } from './cli-error.ts';

/** Where commands look for the Workload API: the flag, else SPIFFE_ENDPOINT_SOCKET, else where an agent has it unless told otherwise. */
export function endpointAddress(flag: string | undefined, environment: NodeJS.ProcessEnv): string {
  const given = flag ?? environment[ENDPOINT_VARIABLE] ?? `${DEFAULT_RUN_DIRECTORY}/${WORKLOAD_API_SOCKET_NAME}`;
  return given.startsWith('/') ? `unix://${given}` : given;
}

/** Runs `use` with a client. @throws CliError WEFT_CLI_NO_IDENTITY, WEFT_CLI_WORKLOAD_API, and IdentityError WEFT_IDENTITY_ENDPOINT */
export async function withWorkloadApi<Result>(address: string, use: (client: WorkloadApiClient) => Promise<Result>): Promise<Result> {
  await using client = new WorkloadApiClient({ endpoint: parseEndpointAddress(address) });
  try {
    return await use(client);
  } catch (error) {
    throw explained(error, address);
  }
}

/** A failed call as an error of the command line; anything else as it is. */
export function explained(error: unknown, address: string): unknown {
  const failure = workloadApiFailure(error);
  if (failure === null) return error;
  if (failure.kind === 'denied') {
    return new CliError('WEFT_CLI_NO_IDENTITY', `this process has no identity: ${failure.message}`, {
      cause: error,
      nextStep: 'run it inside of an enrolled workload, such as with `weft run`; see `weft status`',
    });
  }
  return new CliError('WEFT_CLI_WORKLOAD_API', `the Workload API at ${address} gave nothing: ${failure.message}`, {
    cause: error,
    nextStep:
      failure.kind === 'unavailable'
        ? 'check that an agent runs and serves there (weft agent --workload-api), and try again'
        : 'correct what was asked for',
  });
}
