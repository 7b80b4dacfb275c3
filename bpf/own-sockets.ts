import { type BpfMap, NativeBuffer } from 'libbpf-ts';
import { AF_INET, AF_INET6, type OwnedFd, SOCK_STREAM, socket, withNetworkNamespace } from 'libbpf-ts/sys';
import { isIpv6 } from '../src/model/address.ts';
import { addressBytes } from './address-bytes.ts';
import { OWN_KIND } from './contract.ts';

/** The client address that an application shall see on a leg. */
export interface PresentedPeer {
  readonly address: string;
  readonly port: number;
}

const KIND = 0;
const PRESENTED_PORT = 4;
const PRESENTED_ADDRESS = 8;
const SIZE = 24;

/**
 * Marks sockets as the agent's own in their socket storage (weft_own). Only a process that holds the map can: no mark, uid or pid
 * that a pod could copy. One per thread.
 */
export class OwnSockets {
  readonly #map: BpfMap<number, unknown>;
  readonly #key = new NativeBuffer(4);
  readonly #value = new NativeBuffer(SIZE);

  constructor(map: BpfMap<number, unknown>) {
    this.#map = map;
  }

  /** @throws LibbpfError when the kernel has no memory for the mark: the socket must then not be used */
  mark(fd: number, kind: keyof typeof OWN_KIND, presented: PresentedPeer | null = null): void {
    const { view, bytes } = this.#value;
    view.setUint32(KIND, OWN_KIND[kind], true);
    view.setUint32(PRESENTED_PORT, presented?.port ?? 0, true);
    if (presented === null) bytes.fill(0, PRESENTED_ADDRESS);
    else bytes.set(addressBytes(presented.address), PRESENTED_ADDRESS);
    this.#key.view.setUint32(0, fd, true);
    this.#map.updateRaw(this.#key, this.#value);
  }

  /**
   * A marked TCP socket in a network namespace (null: the caller's own), in the family of `address`.
   * @throws LibbpfError
   */
  open(namespaceFd: number | null, address: string, presented: PresentedPeer | null): OwnedFd {
    const family = isIpv6(address) ? AF_INET6 : AF_INET;
    const made = namespaceFd === null ? socket(family, SOCK_STREAM) : withNetworkNamespace(namespaceFd, () => socket(family, SOCK_STREAM));
    try {
      this.mark(made.fd, 'upstream', presented);
      return made;
    } catch (error) {
      made.close();
      throw error;
    }
  }
}
