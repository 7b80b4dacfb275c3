import { resolve } from 'node:path';
import { usageError } from './cli-error.ts';

/** Reads the value of a numeric flag. @throws CliError WEFT_CLI_USAGE */
export function wholeNumber(flag: string, text: string, least: number, most: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= least && value <= most)) {
    throw usageError(`${flag} cannot be ${JSON.stringify(text)}`, `give ${flag} a whole number from ${least} to ${most}`);
  }
  return value;
}

/** Reads a time in seconds, fractions allowed, as milliseconds. @throws CliError WEFT_CLI_USAGE */
export function secondsAsMs(flag: string, text: string, mostSeconds: number): number {
  const value = /^\d{1,9}(\.\d{1,6})?$/.test(text) ? Number(text) : Number.NaN;
  if (!(value <= mostSeconds)) {
    throw usageError(`${flag} cannot be ${JSON.stringify(text)}`, `give ${flag} a number of seconds from 0 to ${mostSeconds}`);
  }
  return Math.round(value * 1000);
}

/** Reads `HOST:PORT`, where an IPv6 address stands in brackets. @throws CliError WEFT_CLI_USAGE */
export function hostAndPort(flag: string, text: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|([^\s:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port < 1 || port > 65_535) {
    const example = /^[^[\]]*:.*:/.test(text)
      ? 'put an IPv6 address in brackets, such as [::1]:9090'
      : 'write HOST:PORT, such as 127.0.0.1:9090';
    throw usageError(`${flag} cannot be ${JSON.stringify(text)}`, example);
  }
  return { host, port };
}

/** An absolute path. @throws CliError WEFT_CLI_USAGE when it is empty or holds a NUL */
export function absolutePath(flag: string, text: string, workingDirectory: string = process.cwd()): string {
  if (text === '' || text.includes('\0')) throw usageError(`${flag} cannot be empty`, `name a path with ${flag}`);
  return resolve(workingDirectory, text);
}

const LABEL = '[a-z0-9]([-a-z0-9]*[a-z0-9])?';
const DNS_LABEL = new RegExp(`^${LABEL}$`);
const DNS_NAME = new RegExp(`^${LABEL}(\\.${LABEL})*$`);

/** The name of a namespace (RFC 1123 label). @throws CliError WEFT_CLI_USAGE */
export function namespaceName(flag: string, text: string): string {
  if (text.length > 63 || !DNS_LABEL.test(text)) {
    throw usageError(
      `${flag} cannot be ${JSON.stringify(text)}`,
      `name a namespace: lower-case letters, digits and "-", at most 63, starting and ending with a letter or digit`,
    );
  }
  return text;
}

/** The name of another resource (RFC 1123 subdomain). @throws CliError WEFT_CLI_USAGE */
export function resourceName(flag: string, text: string): string {
  if (text.length > 253 || !DNS_NAME.test(text)) {
    throw usageError(
      `${flag} cannot be ${JSON.stringify(text)}`,
      `use lower-case letters, digits, "-" and ".", at most 253, each part starting and ending with a letter or digit`,
    );
  }
  return text;
}
