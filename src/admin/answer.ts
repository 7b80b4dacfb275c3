import type { ServerResponse } from 'node:http';
import type { ErrorAnswer } from '../model/admin-api.ts';
import { WeftError } from '../model/errors.ts';
import type { Log } from '../model/log.ts';
import type { Endpoint } from './endpoint.ts';

/** What is sent back. */
export interface Answer {
  readonly status: number;
  readonly body: string;
  /** The media type. */
  readonly type: string;
}

/** A value as JSON. */
export function json(status: number, value: unknown): Answer {
  return { status, body: `${JSON.stringify(value)}\n`, type: 'application/json' };
}

/** Done, and nothing to say. */
export function noContent(): Answer {
  return { status: 204, body: '', type: 'application/json' };
}

/** There is nothing at this path. */
export function notFound(endpoint: Endpoint, path: string): Answer {
  const body: ErrorAnswer = { code: endpoint.codes.request, message: `there is nothing at ${path}`, nextStep: null };
  return json(404, body);
}

/** Why there is no other answer: an error of ours as it is; of anything else only that it happened, with the rest in the log. */
export function failure(endpoint: Endpoint, error: unknown, log: Log): Answer {
  if (error instanceof WeftError) {
    const body: ErrorAnswer = { code: error.code, message: error.message, nextStep: error.nextStep };
    return json(endpoint.statusOf.get(error.code) ?? 400, body);
  }
  log.error({ err: error }, 'the admin endpoint failed');
  const body: ErrorAnswer = { code: endpoint.codes.internal, message: `${endpoint.name} failed to answer`, nextStep: 'see its log' };
  return json(500, body);
}

/** Writes an answer. */
export function send(response: ServerResponse, answer: Answer): void {
  response.writeHead(answer.status, { 'content-type': answer.type });
  response.end(answer.body);
}
