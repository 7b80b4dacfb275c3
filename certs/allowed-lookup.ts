import { lookup as resolveName } from 'node:dns';
import type { LookupFunction } from 'node:net';

/**
 * A lookup of names that gives the addresses that may be dialled alone. An address is to be checked here, as it is dialled: a name can
 * resolve to another one the next time.
 * @param refusal the error when a name has none
 */
export function allowedLookup(allows: (address: string) => boolean, refusal: (name: string) => Error): LookupFunction {
  return (name, options, callback) => {
    resolveName(name, { ...options, all: true }, (error, found) => {
      if (error !== null) return callback(error, '', 0);
      const allowed = found.filter(({ address }) => allows(address));
      const [first] = allowed;
      if (first === undefined) return callback(refusal(name), '', 0);
      return options.all ? callback(null, allowed) : callback(null, first.address, first.family);
    });
  };
}
