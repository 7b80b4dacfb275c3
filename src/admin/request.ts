import type { IncomingMessage } from 'node:http';
import { AdminError } from './admin-error.ts';
import type { Endpoint } from './endpoint.ts';

const MAX_BODY_BYTES = 64 * 1024;

/** The path of a request, without the query. Not parsed as a URL, which throws for some (`//`): whoever can scrape metrics could fill the log. */
export function pathOf(request: IncomingMessage): string {
  return (request.url ?? '/').split('?', 1)[0] as string;
}

/**
 * The JSON body of a request.
 * @throws AdminError the endpoint's `request` code, when it is larger than 64 KiB or no JSON
 */
export async function readJson(endpoint: Endpoint, request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new AdminError(endpoint.codes.request, 'the request body is too large');
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    // Without the cause, which quotes the body: there may be a key in it.
    throw new AdminError(endpoint.codes.request, 'the request body is not JSON');
  }
}
