import { isIP } from 'node:net';
import { normalisePath, normalisationLevel } from '../../../proxy/http1/normalise-path.ts';
import { canonicalIp } from '../../config/ip-address.ts';
import { errorText } from '../../model/errors.ts';
import { parseSpiffeId, type SpiffeId } from '../../model/identity.ts';
import { usageError } from '../cli-error.ts';
import { namespaceName, resourceName, wholeNumber } from '../flag-values.ts';

/** An HTTP request that somebody wants to know the fate of. */
export interface AskedRequest {
  readonly method: string;
  /** As sent: with dots, escapes and a query. It is normalised as the mesh is set to. */
  readonly target: string;
  readonly host: string;
  /** Names in lower case, in the order they are sent. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** Claims of a token that is valid; null: no token. */
  readonly claims: Readonly<Record<string, unknown>> | null;
}

/** What `weft policy` is asked: would this be let through? */
export interface Question {
  /** null: a plaintext peer, outside of the mesh. */
  readonly from: SpiffeId | null;
  readonly namespace: string;
  readonly name: string;
  /** null: those that the workload has. */
  readonly labels: Readonly<Record<string, string>> | null;
  /** The workload's own port. */
  readonly port: number;
  /** null: that of the workload whose identity `from` is, where there is exactly one; else not known. */
  readonly sourceAddress: string | null;
  /** Of TLS that is passed through. */
  readonly serverName: string | null;
  /** null: a connection that is not HTTP. */
  readonly request: AskedRequest | null;
}

/** A question as flags or a table have it: texts, not yet looked at. */
export interface WrittenQuestion {
  readonly from: string;
  readonly to: string;
  readonly labels?: readonly (readonly [key: string, value: string])[];
  readonly port: string;
  readonly method?: string;
  readonly path?: string;
  readonly host?: string;
  readonly headers?: readonly (readonly [name: string, value: string])[];
  readonly claims?: Readonly<Record<string, unknown>>;
  readonly sourceIp?: string;
  readonly serverName?: string;
}

/** How the parts of a question are called where it was asked: `--from`, or `from` in a table. */
export type Naming = (part: keyof WrittenQuestion) => string;

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$/;
// oxlint-disable-next-line no-control-regex
const FIELD_VALUE = /^[\u0020-\u007e\t\u0080-\uffff]*$/;
const LABEL_KEY = /^(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?\/)?[A-Za-z0-9](?:[-\w.]*[A-Za-z0-9])?$/;
const LABEL_VALUE = /^(?:[A-Za-z0-9](?:[-\w.]{0,61}[A-Za-z0-9])?)?$/;
const HOST = /^[^\s/?#@\\]{1,512}$/;
const HTTP_ONLY = ['path', 'host', 'headers', 'claims'] as const;

/**
 * Reads a question.
 * @throws CliError WEFT_CLI_USAGE naming the part that is wrong
 */
export function readQuestion(written: WrittenQuestion, naming: Naming): Question {
  const [namespace = '', name = '', ...more] = written.to.split('/');
  if (more.length > 0 || name === '') {
    throw usageError(`${naming('to')} cannot be ${quote(written.to)}`, 'write NAMESPACE/NAME of a workload, such as shop/web');
  }
  return {
    from: readFrom(written.from, naming('from')),
    namespace: namespaceName(naming('to'), namespace),
    name: resourceName(naming('to'), name),
    labels: written.labels === undefined ? null : readLabels(written.labels, naming('labels')),
    port: wholeNumber(naming('port'), written.port, 1, 65_535),
    sourceAddress: written.sourceIp === undefined ? null : readAddress(written.sourceIp, naming('sourceIp')),
    serverName: written.serverName ?? null,
    request: readRequest(written, naming, `${name}.${namespace}`),
  };
}

function readFrom(text: string, flag: string): SpiffeId | null {
  if (text === 'none') return null;
  try {
    return parseSpiffeId(text);
  } catch (cause) {
    throw usageError(
      `${flag}: ${errorText(cause)}`,
      'write spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or none for a peer outside of the mesh',
    );
  }
}

function readLabels(pairs: readonly (readonly [string, string])[], flag: string): Record<string, string> {
  const labels: Record<string, string> = Object.create(null) as Record<string, string>;
  for (const [key, value] of pairs) {
    if (key.length > 317 || !LABEL_KEY.test(key) || !LABEL_VALUE.test(value)) {
      throw usageError(`${flag} cannot have ${quote(`${key}=${value}`)}`, 'write labels as Kubernetes has them: app=web,version=v2');
    }
    if (Object.hasOwn(labels, key)) throw usageError(`${flag} has the label ${quote(key)} twice`, 'leave one of the two out');
    labels[key] = value;
  }
  return { ...labels };
}

function readAddress(text: string, flag: string): string {
  const address = isIP(text) === 0 ? null : canonicalIp(text);
  if (address === null) throw usageError(`${flag} cannot be ${quote(text)}`, 'write one IP address, such as 10.0.0.1 or fd00::1');
  return address;
}

function readRequest(written: WrittenQuestion, naming: Naming, defaultHost: string): AskedRequest | null {
  const { method, path = '/', host = defaultHost, headers = [], claims = null } = written;
  if (method === undefined) {
    const http = HTTP_ONLY.find((part) => written[part] !== undefined && (part !== 'headers' || headers.length > 0));
    if (http === undefined) return null;
    throw usageError(`${naming(http)} is part of an HTTP request, and there is no ${naming('method')}`, `add ${naming('method')}`);
  }
  if (written.serverName !== undefined) {
    throw usageError(`${naming('serverName')} is of TLS, in which no HTTP request can be seen`, `leave ${naming('method')} out`);
  }
  if (!TOKEN.test(method)) throw usageError(`${naming('method')} cannot be ${quote(method)}`, 'write a method, such as GET');
  const normal = normalisePath(path, normalisationLevel('BASE'));
  if (typeof normal === 'string') {
    throw usageError(
      `${naming('path')} cannot be ${quote(path)}: ${normal}; the proxy answers 400 before any policy`,
      'write a path as it is sent, such as /items?page=2',
    );
  }
  if (!HOST.test(host)) throw usageError(`${naming('host')} cannot be ${quote(host)}`, 'write a host, such as shop.example:8080');
  return { method, target: path, host: host.toLowerCase(), headers: readHeaders(headers, naming('headers')), claims };
}

function readHeaders(headers: readonly (readonly [string, string])[], flag: string): (readonly [string, string])[] {
  return headers.map(([name, value]) => {
    if (!TOKEN.test(name)) throw usageError(`${flag} cannot have the name ${quote(name)}`, 'write NAME=VALUE, such as x-version=2');
    if (!FIELD_VALUE.test(value)) throw usageError(`${flag}: the value of ${name} has control characters`, 'leave them out');
    if (name.toLowerCase() === 'host') throw usageError(`${flag} cannot have host`, 'say it with the host');
    return [name.toLowerCase(), value.trim()] as const;
  });
}

function quote(text: string): string {
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 120)}…` : text);
}
