import { bytes, type Codec } from './codec.ts';
import { Errno } from './errno.ts';
import { LibbpfError } from './errors.ts';
import { type LibbpfFunctions, libbpf } from './ffi.ts';
import { isPerCpuMap, MapType, UpdateFlag } from './kernel-types.ts';
import { NativeBuffer } from './native-buffer.ts';
import { type MapInfo, mapInfo } from './object-info.ts';
import { duplicateFd, OwnedFd } from './owned-fd.ts';
import { openPinnedDescriptor, type PinOptions, pinDescriptor } from './pin.ts';
import { possibleCpuCount } from './possible-cpus.ts';

/** How keys and values of a map lie in memory. */
export interface MapCodecs<K, V> {
  readonly key: Codec<K>;
  readonly value: Codec<V>;
}

/** A map to make without an object file. Types that need BTF, such as socket storage, come from an object only. */
export interface MapDefinition {
  /** A number of `MapType`. */
  readonly type: number;
  /** At most 15 bytes. */
  readonly name?: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags?: number;
}

/**
 * A BPF map with typed keys and values.
 *
 * Special keys and values: a socket storage map is keyed by the descriptor of a socket (`u32`); a sockmap or sockhash takes a
 * socket's descriptor as value (`u32`, or `u64` if its value has 8 bytes) and gives back the socket's cookie (8 bytes only).
 *
 * Operations are synchronous system calls (1-2 us). Map descriptors are shared by all threads of the process: a worker opens
 * `BpfMap.fromFd(fd, codecs)` on a number it was sent. The owner must outlive it.
 */
export class BpfMap<K = Uint8Array, V = Uint8Array> implements Disposable {
  /** Bytes of a key. */
  readonly keySize: number;
  /** Bytes of a value as the kernel copies it: for a per-CPU map, one value for each possible CPU, each rounded up to 8 bytes. */
  readonly valueSize: number;
  readonly #owner: OwnedFd | null;
  #fd: number;
  readonly #info: MapInfo;
  readonly #codecs: MapCodecs<K, V>;
  readonly #slotSize: number;
  readonly #key: NativeBuffer;
  readonly #nextKey: NativeBuffer;
  readonly #value: NativeBuffer;
  // Held here so that a hot lookup costs no search.
  readonly #lookup: LibbpfFunctions['bpf_map_lookup_elem'];
  readonly #update: LibbpfFunctions['bpf_map_update_elem'];
  readonly #delete: LibbpfFunctions['bpf_map_delete_elem'];

  private constructor(descriptor: OwnedFd | number, codecs: MapCodecs<K, V> | undefined) {
    this.#owner = typeof descriptor === 'number' ? null : descriptor;
    this.#fd = typeof descriptor === 'number' ? descriptor : descriptor.fd;
    try {
      this.#info = mapInfo(this.#fd);
      const { keySize, valueSize, type } = this.#info;
      this.#codecs = codecs ?? ({ key: bytes(keySize), value: bytes(valueSize) } as unknown as MapCodecs<K, V>);
      this.#checkCodecs();
      this.#slotSize = isPerCpuMap(type) ? Math.ceil(valueSize / 8) * 8 : valueSize;
    } catch (error) {
      this.#owner?.close();
      throw error;
    }
    this.keySize = this.#info.keySize;
    this.valueSize = this.perCpu ? this.#slotSize * possibleCpuCount() : this.#slotSize;
    this.#key = new NativeBuffer(this.keySize);
    this.#nextKey = new NativeBuffer(this.keySize);
    this.#value = new NativeBuffer(this.valueSize);
    const functions = libbpf();
    this.#lookup = functions.bpf_map_lookup_elem;
    this.#update = functions.bpf_map_update_elem;
    this.#delete = functions.bpf_map_delete_elem;
  }

  /**
   * Uses a descriptor that somebody else owns and keeps open, such as one made by another thread. Without codecs, keys and values
   * are bytes. Throws LIBBPF_CODEC if the codecs' sizes are not the map's, LIBBPF_SYSCALL if it is not a map.
   */
  static fromFd<K = Uint8Array, V = Uint8Array>(fd: number, codecs?: MapCodecs<K, V>): BpfMap<K, V> {
    return new BpfMap<K, V>(fd, codecs);
  }

  /** Takes ownership of a map's descriptor; closes it if this throws, as {@link fromFd} does. */
  static adopt<K = Uint8Array, V = Uint8Array>(descriptor: OwnedFd, codecs?: MapCodecs<K, V>): BpfMap<K, V> {
    return new BpfMap<K, V>(descriptor, codecs);
  }

  /** Opens a pinned map. Throws LIBBPF_PIN (ENOENT if there is none), LIBBPF_CODEC. */
  static openPinned<K = Uint8Array, V = Uint8Array>(path: string, codecs?: MapCodecs<K, V>): BpfMap<K, V> {
    return new BpfMap<K, V>(openPinnedDescriptor(path), codecs);
  }

  /** Makes a map. Throws LIBBPF_MAP_OPERATION. */
  static create<K = Uint8Array, V = Uint8Array>(definition: MapDefinition, codecs?: MapCodecs<K, V>): BpfMap<K, V> {
    // struct bpf_map_create_opts: size_t sz, then map_flags at 28.
    const options = new NativeBuffer(48);
    options.view.setBigUint64(0, 48n, true);
    options.view.setUint32(28, definition.flags ?? 0, true);
    const name = definition.name ?? '';
    const fd = libbpf().bpf_map_create(
      definition.type,
      name,
      definition.keySize,
      definition.valueSize,
      definition.maxEntries,
      options.pointer,
    );
    if (fd < 0) throw new LibbpfError('LIBBPF_MAP_OPERATION', `cannot create the map ${JSON.stringify(name)}`, { errno: -fd });
    return new BpfMap<K, V>(new OwnedFd(fd, `map ${name}`), codecs);
  }

  #checkCodecs(): void {
    const { name, typeName, keySize, valueSize } = this.#info;
    const { key, value } = this.#codecs;
    if (key.size !== keySize || value.size !== valueSize) {
      throw new LibbpfError(
        'LIBBPF_CODEC',
        `the ${typeName} map ${name} has keys of ${keySize} bytes and values of ${valueSize}, the codecs have ${key.size} and ${value.size}`,
      );
    }
  }

  /** Its descriptor. Throws LIBBPF_CLOSED. */
  get fd(): number {
    if (this.#fd < 0) throw new LibbpfError('LIBBPF_CLOSED', `the map ${this.#info.name} is closed`);
    return this.#fd;
  }

  /** True if each entry holds one value per CPU. */
  get perCpu(): boolean {
    return isPerCpuMap(this.#info.type);
  }

  /** Type, sizes, id and name, as they were when this object was made (they never change). */
  info(): MapInfo {
    return this.#info;
  }

  /** The same map with other codecs and a descriptor of its own. Throws LIBBPF_CODEC. */
  duplicate<K2 = K, V2 = V>(codecs?: MapCodecs<K2, V2>): BpfMap<K2, V2> {
    const own = codecs ?? (this.#codecs as unknown as MapCodecs<K2, V2>);
    return BpfMap.adopt<K2, V2>(duplicateFd(this.fd, `map ${this.#info.name}`), own);
  }

  /** The value of `key`, or undefined. Throws LIBBPF_MAP_OPERATION, and for a per-CPU map: see {@link lookupPerCpu}. */
  lookup(key: K): V | undefined {
    this.#requirePlain('lookup');
    return this.#read(key) ? this.#codecs.value.decode(this.#value.view, 0) : undefined;
  }

  /** True if `key` is there. */
  has(key: K): boolean {
    return this.#read(key);
  }

  /** The values of `key` on each possible CPU, or undefined. */
  lookupPerCpu(key: K): V[] | undefined {
    if (!this.perCpu) throw this.#misuse('lookupPerCpu needs a per-CPU map');
    return this.#read(key) ? this.#decodeSlots() : undefined;
  }

  /** The sum over all CPUs of a numeric value, or undefined. On a plain map, the value itself. */
  sum(key: K): bigint | undefined {
    if (!this.#read(key)) return undefined;
    let total = 0n;
    for (const value of this.#decodeSlots()) {
      if (typeof value !== 'number' && typeof value !== 'bigint') throw this.#misuse('sum needs a map of numbers');
      total += BigInt(value);
    }
    return total;
  }

  /**
   * Writes. On a per-CPU map every CPU gets the value. Throws LIBBPF_MAP_OPERATION: E2BIG if the map is full, EEXIST and ENOENT
   * as `flags` (`UpdateFlag`) ask for.
   */
  update(key: K, value: V, flags: bigint = UpdateFlag.ANY): void {
    this.#codecs.key.encode(key, this.#key.view, 0);
    for (let offset = 0; offset < this.valueSize; offset += this.#slotSize) this.#codecs.value.encode(value, this.#value.view, offset);
    const result = this.#update(this.#fd, this.#key.pointer, this.#value.pointer, flags);
    if (result < 0) throw this.#failure('update', result);
  }

  /** Removes `key`. True if it was there. Throws LIBBPF_MAP_OPERATION. */
  delete(key: K): boolean {
    this.#codecs.key.encode(key, this.#key.view, 0);
    return this.#remove(this.#key);
  }

  /**
   * All keys. Not a snapshot: an entry that others write or remove meanwhile may be missed or seen twice, but the walk ends.
   * The caller may delete the key it was given.
   */
  *keys(): Generator<K, void, undefined> {
    const walk = new NativeBuffer(this.keySize);
    let more = this.#next(null, walk);
    // If the last key vanishes, the kernel starts over: bound the walk.
    for (let left = Math.max(this.#info.maxEntries, 1); more && left > 0; left--) {
      const key = this.#codecs.key.decode(walk.view, 0);
      more = this.#next(walk, this.#nextKey);
      walk.bytes.set(this.#nextKey.bytes);
      yield key;
    }
  }

  /** All entries; see {@link keys} for what concurrent changes do. */
  *entries(): Generator<[K, V], void, undefined> {
    this.#requirePlain('entries');
    for (const key of this.keys()) {
      if (this.#read(key)) yield [key, this.#codecs.value.decode(this.#value.view, 0)];
    }
  }

  /** All entries of a per-CPU map, with the values of every CPU. */
  *entriesPerCpu(): Generator<[K, V[]], void, undefined> {
    if (!this.perCpu) throw this.#misuse('entriesPerCpu needs a per-CPU map');
    for (const key of this.keys()) {
      if (this.#read(key)) yield [key, this.#decodeSlots()];
    }
  }

  /** Removes every entry; of an array, sets every value to zero. Throws LIBBPF_MAP_OPERATION. */
  clear(): void {
    if (this.#info.type === MapType.ARRAY || this.#info.type === MapType.PERCPU_ARRAY) {
      this.#value.bytes.fill(0);
      for (let index = 0; index < this.#info.maxEntries; index++) {
        this.#key.view.setUint32(0, index, true);
        const result = this.#update(this.#fd, this.#key.pointer, this.#value.pointer, UpdateFlag.ANY);
        if (result < 0) throw this.#failure('update', result);
      }
      return;
    }
    // Deleting while walking: each next key is fetched before its predecessor is removed.
    for (const key of this.keys()) this.delete(key);
  }

  /**
   * For hot code: looks up the key bytes in `key` into `value`, both made once with {@link allocateKey} and {@link allocateValue}.
   * Makes no garbage. False if the key is not there.
   */
  lookupRaw(key: NativeBuffer, value: NativeBuffer): boolean {
    if (key.size < this.keySize || value.size < this.valueSize) throw this.#misuse('a raw buffer is too small');
    const result = this.#lookup(this.#fd, key.pointer, value.pointer);
    if (result === 0) return true;
    if (result === -Errno.ENOENT) return false;
    throw this.#failure('lookup', result);
  }

  /** For hot code: writes the bytes in `value` under the key bytes in `key`. Throws as {@link update} does. */
  updateRaw(key: NativeBuffer, value: NativeBuffer, flags: bigint = UpdateFlag.ANY): void {
    if (key.size < this.keySize || value.size < this.valueSize) throw this.#misuse('a raw buffer is too small');
    const result = this.#update(this.#fd, key.pointer, value.pointer, flags);
    if (result < 0) throw this.#failure('update', result);
  }

  /** For hot code: removes the key bytes in `key`. True if it was there. */
  deleteRaw(key: NativeBuffer): boolean {
    if (key.size < this.keySize) throw this.#misuse('a raw buffer is too small');
    return this.#remove(key);
  }

  /** A buffer for {@link lookupRaw}'s key. */
  allocateKey(): NativeBuffer {
    return new NativeBuffer(this.keySize);
  }

  /** A buffer for {@link lookupRaw}'s value. */
  allocateValue(): NativeBuffer {
    return new NativeBuffer(this.valueSize);
  }

  /** Pins it. Throws LIBBPF_PIN. */
  pin(path: string, options: PinOptions = {}): void {
    pinDescriptor(this.fd, path, options);
  }

  /** Closes the descriptor if this object owns it; in any case the object cannot be used afterwards. */
  close(): void {
    this.#fd = -1;
    this.#owner?.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #read(key: K): boolean {
    this.#codecs.key.encode(key, this.#key.view, 0);
    return this.lookupRaw(this.#key, this.#value);
  }

  #decodeSlots(): V[] {
    const values: V[] = [];
    for (let offset = 0; offset < this.valueSize; offset += this.#slotSize)
      values.push(this.#codecs.value.decode(this.#value.view, offset));
    return values;
  }

  #remove(key: NativeBuffer): boolean {
    const result = this.#delete(this.#fd, key.pointer);
    if (result === 0) return true;
    // A sockmap says EINVAL for an index without a socket.
    if (result === -Errno.ENOENT || (result === -Errno.EINVAL && this.#info.type === MapType.SOCKMAP)) return false;
    throw this.#failure('delete', result);
  }

  #next(key: NativeBuffer | null, next: NativeBuffer): boolean {
    const result = libbpf().bpf_map_get_next_key(this.#fd, key?.pointer ?? null, next.pointer);
    if (result === 0) return true;
    if (result === -Errno.ENOENT) return false;
    throw this.#failure('next key', result);
  }

  #requirePlain(operation: string): void {
    if (this.perCpu) throw this.#misuse(`${operation} cannot read a per-CPU map; use the PerCpu form or sum`);
  }

  #misuse(reason: string): LibbpfError {
    return new LibbpfError('LIBBPF_MAP_OPERATION', `the ${this.#info.typeName} map ${this.#info.name}: ${reason}`);
  }

  #failure(operation: string, result: number): LibbpfError {
    if (this.#fd < 0) return new LibbpfError('LIBBPF_CLOSED', `the map ${this.#info.name} is closed`);
    return new LibbpfError('LIBBPF_MAP_OPERATION', `${operation} on the ${this.#info.typeName} map ${this.#info.name} failed`, {
      errno: -result,
    });
  }
}
