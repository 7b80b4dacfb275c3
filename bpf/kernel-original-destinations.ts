import type { Socket } from 'node:net';
import { type BpfMap, NativeBuffer } from 'libbpf-ts';
import { canonicalAddress } from '../src/model/address.ts';
import type { OriginalDestination, OriginalDestinations } from '../src/model/data-plane.ts';
import { addressBytes, addressText } from './address-bytes.ts';
import { endpointCodec, originalCodec } from './contract.ts';

/** More addresses than a namespace's clients use; past it the cache starts anew. */
const MAX_CACHED_ADDRESSES = 1_024;

/** Reads weft_original_destinations. One per thread. */
export class KernelOriginalDestinations implements OriginalDestinations {
  readonly #map: BpfMap<unknown, unknown>;
  readonly #cookieOf: (workloadId: number) => bigint | undefined;
  readonly #key = new NativeBuffer(endpointCodec.size);
  readonly #value = new NativeBuffer(originalCodec.size);
  readonly #addresses = new Map<string, Uint8Array>();

  /** @param cookieOf the namespace cookie of a workload's listener */
  constructor(map: BpfMap<unknown, unknown>, cookieOf: (workloadId: number) => bigint | undefined) {
    this.#map = map;
    this.#cookieOf = cookieOf;
  }

  find(leg: Socket, workloadId: number): OriginalDestination | null {
    const cookie = this.#cookieOf(workloadId);
    const { remoteAddress, remotePort } = leg;
    // A leg that was reset before it was accepted has no remote end any more.
    if (cookie === undefined || remoteAddress === undefined || remotePort === undefined) return null;
    const { view, bytes } = this.#key;
    view.setBigUint64(0, cookie, true);
    bytes.set(this.#bytesOf(remoteAddress), 8);
    view.setUint32(24, remotePort, true);
    if (!this.#map.lookupRaw(this.#key, this.#value)) return null;
    const found = this.#value;
    return {
      address: canonicalAddress(addressText(found.bytes.subarray(0, 16))),
      port: found.view.getUint32(16, true),
      workloadId: found.view.getUint32(20, true),
    };
  }

  #bytesOf(address: string): Uint8Array {
    let bytes = this.#addresses.get(address);
    if (bytes === undefined) {
      if (this.#addresses.size >= MAX_CACHED_ADDRESSES) this.#addresses.clear();
      bytes = addressBytes(address);
      this.#addresses.set(address, bytes);
    }
    return bytes;
  }
}
