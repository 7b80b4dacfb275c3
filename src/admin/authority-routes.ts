import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { AUTHORITY_SOCKET_NAME, type AuthoritySource, type Material, type TokenRequest } from '../model/authority-api.ts';
import type { Log } from '../model/log.ts';
import { authorityMetrics } from '../metrics/authority-metrics.ts';
import { AdminError } from './admin-error.ts';
import { type Answer, json, noContent, notFound } from './answer.ts';
import type { Endpoint } from './endpoint.ts';
import { type Address, JsonServer, type Route } from './json-server.ts';
import { metricsAnswer } from './metrics-answer.ts';
import { isLabel, isName } from './names.ts';
import { pathOf, readJson } from './request.ts';

const AUTHORITY: Endpoint = {
  name: 'an authority',
  codes: { running: 'WEFT_CA_RUNNING', listen: 'WEFT_CA_LISTEN', request: 'WEFT_CA_REQUEST', internal: 'WEFT_CA_INTERNAL' },
  whenRunning: 'stop it first, or give this one its own --run-dir',
  statusOf: new Map(),
};

const METRICS = '/metrics';
const BASE = '/v1/authority';
const SHORTEST_TOKEN_SECONDS = 1;
const LONGEST_TOKEN_SECONDS = 30 * 24 * 3600;
const MAX_NAMESPACES = 64;

/**
 * Opens the authority's socket in the run directory.
 * @throws AdminError WEFT_CA_RUNNING when another authority answers there, WEFT_CA_LISTEN
 */
export function serveAuthoritySocket(source: AuthoritySource, runDirectory: string, log: Log): Promise<JsonServer> {
  return JsonServer.listen(AUTHORITY, { path: join(runDirectory, AUTHORITY_SOCKET_NAME) }, authorityRoutes(source), log);
}

/**
 * The authority's metrics alone, over TCP: for whoever can reach it.
 * @throws AdminError WEFT_CA_LISTEN
 */
export function serveAuthorityMetrics(source: AuthoritySource, address: Address, log: Log): Promise<JsonServer> {
  return JsonServer.listen(AUTHORITY, address, metricsRoute(source), log);
}

function metricsRoute(source: AuthoritySource): Route {
  return async (request) => {
    const path = pathOf(request);
    if (request.method !== 'GET' || path !== METRICS) return notFound(AUTHORITY, path);
    return metricsAnswer(authorityMetrics(await source.status(), Date.now()));
  };
}

/** The requests of src/model/authority-api.ts. */
function authorityRoutes(source: AuthoritySource): Route {
  return async (request) => {
    const path = pathOf(request);
    if (path === METRICS) return metricsRoute(source)(request);
    const answer = path.startsWith(BASE) ? await answerTo(source, request, path.slice(BASE.length)) : null;
    return answer ?? notFound(AUTHORITY, path);
  };
}

/** Null: there is nothing like it. */
async function answerTo(source: AuthoritySource, request: IncomingMessage, path: string): Promise<Answer | null> {
  switch (`${request.method} ${path}`) {
    case 'GET ':
      return json(200, await source.status());
    case 'GET /certificates':
      return json(200, source.certificates());
    case 'GET /tokens':
      return json(200, { tokens: await source.tokens() });
    case 'POST /tokens':
      return json(201, await source.createToken(tokenRequest(await readJson(AUTHORITY, request))));
    case 'POST /prepare':
      return json(200, await source.prepare(material(await readJson(AUTHORITY, request))));
    case 'POST /rotate':
      await source.rotate(material(await readJson(AUTHORITY, request)));
      return json(200, await source.status());
  }
  const [, kind, name = '', verb] = /^\/(slots|tokens|nodes)\/([A-Za-z0-9._-]{1,253})(?:\/(activate|taint|revoke))?$/.exec(path) ?? [];
  if (request.method === 'POST' && kind === 'slots' && verb !== undefined) {
    if (verb === 'activate') await source.activate(name, isForced(await readJson(AUTHORITY, request)));
    else if (verb === 'taint') await source.taint(name);
    else await source.revoke(name);
    return json(200, await source.status());
  }
  if (request.method !== 'DELETE' || verb !== undefined) return null;
  if (kind === 'tokens') await source.revokeToken(name);
  else if (kind === 'nodes') await source.evictNode(name);
  else return null;
  return noContent();
}

function tokenRequest(body: unknown): TokenRequest {
  const { node, ttlSeconds, reusable = false, allowedNamespaces = [] } = (body ?? {}) as Record<string, unknown>;
  if (!isName(node)) throw bad('node must be the name of a node');
  if (typeof ttlSeconds !== 'number' || !(ttlSeconds >= SHORTEST_TOKEN_SECONDS && ttlSeconds <= LONGEST_TOKEN_SECONDS)) {
    throw bad(`ttlSeconds must be a number from ${SHORTEST_TOKEN_SECONDS} to ${LONGEST_TOKEN_SECONDS}`);
  }
  if (typeof reusable !== 'boolean') throw bad('reusable must be true or false');
  if (!Array.isArray(allowedNamespaces) || allowedNamespaces.length > MAX_NAMESPACES || !allowedNamespaces.every(isLabel)) {
    throw bad(`allowedNamespaces must be a list of at most ${MAX_NAMESPACES} names of namespaces`);
  }
  return { node, ttlSeconds, reusable, allowedNamespaces };
}

function isForced(body: unknown): boolean {
  return ((body ?? {}) as { force?: unknown }).force === true;
}

/** The values themselves are the authority's to check; they never go into an error text. */
function material(body: unknown): Material | null {
  const given = ((body ?? {}) as { material?: unknown }).material ?? null;
  if (given === null) return null;
  const { certificate, key, passphrase = null } = given as Record<string, unknown>;
  if (typeof certificate === 'string' && typeof key === 'string' && (passphrase === null || typeof passphrase === 'string')) {
    return { certificate, key, passphrase };
  }
  throw bad('material must be {certificate, key, passphrase}');
}

function bad(message: string): AdminError {
  return new AdminError(AUTHORITY.codes.request, message, { nextStep: 'see src/model/authority-api.ts' });
}
