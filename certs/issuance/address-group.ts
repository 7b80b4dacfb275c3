import { isIpv6 } from '../../src/model/address.ts';

/** What counts as one caller among those who show no SVID: an IPv4 address, or an IPv6 /64, which a host has to itself, as a rule. */
export function addressGroup(address: string): string {
  if (!isIpv6(address)) return address;
  const [head = '', tail] = address.split('::', 2);
  const left = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    const right = tail === '' ? [] : tail.split(':');
    while (left.length + right.length < 8) left.push('0');
    left.push(...right);
  }
  return left.slice(0, 4).join(':');
}
