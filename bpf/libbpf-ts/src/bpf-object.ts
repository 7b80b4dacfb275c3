/**
 * Object files: what is in one (spec, after `open`) and what it became in the kernel (`load`). Everything that depends on the
 * running kernel happens in `load`.
 */
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { BpfMap, type MapCodecs } from './bpf-map.ts';
import { type ElfSymbol, readElfVariables } from './elf-symbols.ts';
import { LibbpfError } from './errors.ts';
import { addressOf, copyIntoMemory, lastErrno, libbpf, libc, readByte, readCString } from './ffi.ts';
import { mapTypeName, programTypeName } from './kernel-types.ts';
import { captureLibbpfLog } from './libbpf-log.ts';
import { DirectAttachment, Link } from './link.ts';
import { requireMainThread } from './main-thread.ts';
import { NativeBuffer } from './native-buffer.ts';
import { mapInfo, type ProgramInfo, programInfo } from './object-info.ts';
import { duplicateFd, type OwnedFd } from './owned-fd.ts';
import { openPinnedDescriptor, type PinOptions, pinDescriptor } from './pin.ts';

/** A value for a global variable: its size and range are checked against the variable. */
export type GlobalValue = number | bigint | boolean | Uint8Array;

/** How to open an object file. */
export interface OpenOptions {
  /** Prefix of the kernel's names for its global data; the file's base name unless given. */
  readonly name?: string;
  /** Values for global variables by C name, set before the program is loaded: `const volatile` ones become constants to the verifier. */
  readonly rodata?: Readonly<Record<string, GlobalValue>>;
  /** Existing maps to use instead of new ones, by map name: objects of this package or descriptors. */
  readonly reuseMaps?: Readonly<Record<string, { readonly fd: number } | number>>;
  /** A directory of pinned maps: each map of the object whose name is there is used instead of a new one. */
  readonly reusePinnedMaps?: string;
  /** Other capacities than the object file says, by map name. */
  readonly mapMaxEntries?: Readonly<Record<string, number>>;
  /** Programs not to load, by function name: those that this kernel lacks a feature for. */
  readonly skipPrograms?: readonly string[];
}

/** A program in an object file. */
export interface ProgramSpec {
  /** The C function's name. */
  readonly name: string;
  /** The section, which says where it attaches, such as `cgroup/connect4`. */
  readonly section: string;
  readonly type: number;
  readonly typeName: string;
  /** The hook that its section names. */
  readonly attachType: number;
}

/** A map in an object file. */
export interface MapSpec {
  readonly name: string;
  readonly type: number;
  readonly typeName: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
}

const OPEN_OPTIONS_SIZE = 80;
const OPEN_OPTIONS_NAME = 8;
// Per program, mapped and not touched unless the verifier writes: kernels since 6.4 keep the tail of a longer log, older ones its head.
const VERIFIER_LOG_ROOM = 8 * 1024 * 1024;
const SUMMARY_LINES = 6;

/** An opened object file, not yet in the kernel. Main thread only. Ends with `load()` or when disposed. */
export class BpfObject implements Disposable {
  /** The programs in file order. */
  readonly programs: readonly ProgramSpec[];
  /** The maps in file order, without the compiler's own (.rodata, .bss, .data). */
  readonly maps: readonly MapSpec[];
  readonly #name: string;
  #pointer: bigint;
  readonly #skipped: ReadonlySet<string>;

  private constructor(pointer: bigint, name: string, skipped: readonly string[]) {
    this.#pointer = pointer;
    this.#name = name;
    this.#skipped = new Set(skipped);
    this.programs = [...eachProgram(pointer)].map(describeProgram);
    this.maps = [...eachMap(pointer)].filter((map) => libbpf().bpf_map__is_internal(map) === 0).map(describeMap);
  }

  /**
   * Opens an object file given as bytes or path. Nothing is in the kernel yet.
   *
   * Throws LIBBPF_OPEN (libbpf refuses the file), LIBBPF_OBJECT_FORMAT (it is no ELF file), LIBBPF_NOT_FOUND (an option names a
   * program, map or variable that is not in it), LIBBPF_GLOBAL (a value does not fit its variable), LIBBPF_MAP_INCOMPATIBLE (a map to
   * reuse differs from the definition; the message says in what), LIBBPF_MAIN_THREAD_ONLY.
   */
  static open(bytesOrPath: Uint8Array | string, options: OpenOptions = {}): BpfObject {
    requireMainThread('BpfObject', 'libbpf has one print function for the whole process');
    const image = typeof bytesOrPath === 'string' ? readObjectFile(bytesOrPath) : bytesOrPath;
    const name = options.name ?? (typeof bytesOrPath === 'string' ? basename(bytesOrPath).replace(/(\.bpf)?\.o$/, '') : 'object');
    const variables = readElfVariables(image);
    const pointer = openImage(image, name);
    try {
      for (const program of options.skipPrograms ?? []) libbpf().bpf_program__set_autoload(findProgram(pointer, program), 0);
      for (const [map, entries] of Object.entries(options.mapMaxEntries ?? {})) setMaxEntries(pointer, map, entries);
      for (const [variable, value] of Object.entries(options.rodata ?? {})) setGlobal(pointer, variables, variable, value);
      for (const [map, source] of Object.entries(options.reuseMaps ?? {})) {
        reuseMap(pointer, map, typeof source === 'number' ? source : source.fd);
      }
      const object = new BpfObject(pointer, name, options.skipPrograms ?? []);
      if (options.reusePinnedMaps !== undefined) object.#reusePinned(options.reusePinnedMaps, options.reuseMaps ?? {});
      return object;
    } catch (error) {
      libbpf().bpf_object__close(pointer);
      throw error;
    }
  }

  /**
   * Loads maps and programs into the kernel. This object is used up, whether it works or not.
   *
   * Throws LIBBPF_VERIFIER (the kernel refused a program: `.verifierLog` has all it said, the message its last lines), LIBBPF_LOAD
   * (anything else, such as a map that could not be made: `.libbpfLog` has libbpf's words), LIBBPF_CLOSED.
   */
  load(): LoadedObject {
    const pointer = this.#requireOpen();
    const programs = [...eachProgram(pointer)];
    const logSize = VERIFIER_LOG_ROOM;
    const logs = new LogMemory(programs.length * logSize);
    try {
      const functions = libbpf();
      for (const [index, program] of programs.entries()) {
        functions.bpf_program__set_log_buf(program, logs.pointer + BigInt(index * logSize), BigInt(logSize));
      }
      const { result, log } = captureLibbpfLog(() => functions.bpf_object__load(pointer));
      if (result < 0) throw this.#loadError(-result, log, programs, logs.pointer, logSize);
      return this.#takeDescriptors(pointer, programs);
    } finally {
      logs.free();
      this.close();
    }
  }

  #takeDescriptors(pointer: bigint, programs: readonly bigint[]): LoadedObject {
    // Descriptors of our own, so that libbpf's copy of the file, its BTF and relocations can be freed at once.
    const functions = libbpf();
    const loadedPrograms = new Map<string, LoadedProgram>();
    const maps = new Map<string, OwnedFd>();
    try {
      for (const [index, program] of programs.entries()) {
        const spec = this.programs[index];
        if (spec === undefined || this.#skipped.has(spec.name)) continue;
        const fd = functions.bpf_program__fd(program);
        if (fd >= 0) loadedPrograms.set(spec.name, new LoadedProgram(duplicateFd(fd, `program ${spec.name}`), spec));
      }
      for (const map of eachMap(pointer)) {
        const name = readCString(functions.bpf_map__name(map));
        const fd = functions.bpf_map__fd(map);
        if (fd >= 0) maps.set(name, duplicateFd(fd, `map ${name}`));
      }
      return new LoadedObject(this.#name, loadedPrograms, maps, new Set(this.maps.map((map) => map.name)));
    } catch (error) {
      for (const program of loadedPrograms.values()) program.close();
      for (const map of maps.values()) map.close();
      throw error;
    }
  }

  #loadError(errno: number, libbpfLog: string, programs: readonly bigint[], logs: bigint, logSize: number): LibbpfError {
    // libbpf stops at the first program that is refused; the others' logs are empty.
    for (const index of programs.keys()) {
      const start = logs + BigInt(index * logSize);
      if (readByte(start) === 0) continue;
      const verifierLog = readCString(start);
      const program = this.programs[index]?.name ?? `number ${index}`;
      return new LibbpfError('LIBBPF_VERIFIER', `the kernel refused the program ${program} of ${this.#name}`, {
        errno,
        verifierLog,
        libbpfLog,
        excerpt: summariseVerifierLog(verifierLog),
      });
    }
    return new LibbpfError('LIBBPF_LOAD', `cannot load ${this.#name}`, { errno, libbpfLog, excerpt: lastLines(libbpfLog, SUMMARY_LINES) });
  }

  #reusePinned(directory: string, already: Readonly<Record<string, unknown>>): void {
    for (const map of this.maps) {
      const path = join(directory, map.name);
      if (Object.hasOwn(already, map.name) || !existsSync(path)) continue;
      using pinned = openPinnedDescriptor(path);
      reuseMap(this.#requireOpen(), map.name, pinned.fd);
    }
  }

  #requireOpen(): bigint {
    if (this.#pointer === 0n) throw new LibbpfError('LIBBPF_CLOSED', `the object ${this.#name} is closed or has been loaded`);
    return this.#pointer;
  }

  /** Frees it without loading. A second call does nothing. */
  close(): void {
    if (this.#pointer === 0n) return;
    libbpf().bpf_object__close(this.#pointer);
    this.#pointer = 0n;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A program in the kernel. It belongs to its {@link LoadedObject}; links keep it alive in the kernel afterwards. */
export class LoadedProgram {
  readonly spec: ProgramSpec;
  readonly #descriptor: OwnedFd;

  /** Takes ownership of the descriptor. */
  constructor(descriptor: OwnedFd, spec: ProgramSpec) {
    this.#descriptor = descriptor;
    this.spec = spec;
  }

  /** The C function's name. */
  get name(): string {
    return this.spec.name;
  }

  /** Its descriptor. Throws LIBBPF_CLOSED once the object is closed. */
  get fd(): number {
    return this.#descriptor.fd;
  }

  /** Id, kernel name, type and tag. */
  info(): ProgramInfo {
    return programInfo(this.fd);
  }

  /**
   * Attaches to a cgroup v2 directory (an open descriptor of it) and all below, at the hook its section names or `attachType`.
   * Other programs on the same hook stay. Throws LIBBPF_ATTACH.
   */
  attachCgroup(cgroupFd: number, attachType: number = this.spec.attachType): Link {
    return Link.create(this, cgroupFd, attachType);
  }

  /** Attaches to a network namespace (an open descriptor of it): for `sk_lookup` programs. Throws LIBBPF_ATTACH. */
  attachNetns(netnsFd: number, attachType: number = this.spec.attachType): Link {
    return Link.create(this, netnsFd, attachType);
  }

  /** Attaches by a link to any target that takes one, such as a sockmap since Linux 6.10. Throws LIBBPF_ATTACH. */
  attach(targetFd: number, attachType: number = this.spec.attachType): Link {
    return Link.create(this, targetFd, attachType);
  }

  /**
   * Attaches without a link (`bpf_prog_attach`), for targets that take none: an `sk_msg` program to a sockmap or sockhash before
   * Linux 6.10. It stays attached after the process, as long as the target exists, unless detached. Throws LIBBPF_ATTACH.
   */
  attachDirect(targetFd: number, attachType: number = this.spec.attachType): DirectAttachment {
    const program = duplicateFd(this.fd, `program ${this.name}`);
    try {
      return new DirectAttachment(program, duplicateFd(targetFd, 'attach target'), attachType);
    } catch (error) {
      program.close();
      throw error;
    }
  }

  /** Pins it. Throws LIBBPF_PIN. */
  pin(path: string, options: PinOptions = {}): void {
    pinDescriptor(this.fd, path, options);
  }

  /** Closes the descriptor; its object does this. */
  close(): void {
    this.#descriptor.close();
  }
}

/** A pinned program, opened again: enough to attach it or to put it into a link. */
export class PinnedProgram implements Disposable {
  readonly #descriptor: OwnedFd;

  private constructor(descriptor: OwnedFd) {
    this.#descriptor = descriptor;
  }

  /** Opens a pinned program. Throws LIBBPF_PIN (ENOENT if there is none). */
  static openPinned(path: string): PinnedProgram {
    return new PinnedProgram(openPinnedDescriptor(path));
  }

  /** Its descriptor. Throws LIBBPF_CLOSED. */
  get fd(): number {
    return this.#descriptor.fd;
  }

  /** Id, kernel name, type and tag. */
  info(): ProgramInfo {
    return programInfo(this.fd);
  }

  /** Attaches by a link; see `AttachType`. Throws LIBBPF_ATTACH. */
  attach(targetFd: number, attachType: number): Link {
    return Link.create(this, targetFd, attachType);
  }

  /** Closes the descriptor. */
  close(): void {
    this.#descriptor.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** The programs and maps of an object in the kernel, by name. Closing it ends what no link and no pin holds. */
export class LoadedObject implements Disposable {
  readonly name: string;
  readonly #programs: ReadonlyMap<string, LoadedProgram>;
  readonly #maps: ReadonlyMap<string, OwnedFd>;
  readonly #ownMaps: ReadonlySet<string>;
  readonly #typed: BpfMap<never, never>[] = [];

  /** Made by {@link BpfObject.load}. */
  constructor(
    name: string,
    programs: ReadonlyMap<string, LoadedProgram>,
    maps: ReadonlyMap<string, OwnedFd>,
    ownMaps: ReadonlySet<string>,
  ) {
    this.name = name;
    this.#programs = programs;
    this.#maps = maps;
    this.#ownMaps = ownMaps;
  }

  /** Names of the programs that were loaded. */
  get programNames(): readonly string[] {
    return [...this.#programs.keys()];
  }

  /** Names of the maps that its source declares. */
  get mapNames(): readonly string[] {
    return [...this.#ownMaps];
  }

  /** A program by the name of its C function. Throws LIBBPF_NOT_FOUND. */
  program(name: string): LoadedProgram {
    const program = this.#programs.get(name);
    if (program === undefined) throw notFound(this.name, 'loaded program', name, this.#programs.keys());
    return program;
  }

  /** True if the program was loaded (not skipped). */
  hasProgram(name: string): boolean {
    return this.#programs.has(name);
  }

  /**
   * A map by its C name, with the codecs of its keys and values (bytes unless given). It is usable until this object is closed;
   * `duplicate()` makes one that lives longer. Throws LIBBPF_NOT_FOUND, LIBBPF_CODEC (sizes differ).
   */
  map<K = Uint8Array, V = Uint8Array>(name: string, codecs?: MapCodecs<K, V>): BpfMap<K, V> {
    const descriptor = this.#maps.get(name);
    if (descriptor === undefined) throw notFound(this.name, 'map', name, this.#maps.keys());
    const map = BpfMap.fromFd<K, V>(descriptor.fd, codecs);
    this.#typed.push(map as unknown as BpfMap<never, never>);
    return map;
  }

  /**
   * Pins the maps that the source declares (or those named) as `directory/NAME`. A map that is pinned there already is left
   * alone if it is the same one, and otherwise replaced. Throws LIBBPF_PIN.
   */
  pinMaps(directory: string, names: readonly string[] = this.mapNames): void {
    for (const name of names) {
      const descriptor = this.#maps.get(name);
      if (descriptor === undefined) throw notFound(this.name, 'map', name, this.#maps.keys());
      const path = join(directory, name);
      if (existsSync(path)) {
        using pinned = openPinnedDescriptor(path);
        if (mapInfo(pinned.fd).id === mapInfo(descriptor.fd).id) continue;
      }
      pinDescriptor(descriptor.fd, path, { replace: true });
    }
  }

  /** Pins the loaded programs (or those named) as `directory/NAME`, replacing what is there. Throws LIBBPF_PIN. */
  pinPrograms(directory: string, names: readonly string[] = this.programNames): void {
    for (const name of names) this.program(name).pin(join(directory, name), { replace: true });
  }

  /** Pins everything: programs under `directory/programs`, maps under `directory/maps`. Throws LIBBPF_PIN. */
  pin(directory: string): void {
    this.pinPrograms(join(directory, 'programs'));
    this.pinMaps(join(directory, 'maps'));
  }

  /** Closes programs and maps, and the map objects it has handed out. A second call does nothing. */
  close(): void {
    for (const map of this.#typed.splice(0)) map.close();
    for (const program of this.#programs.values()) program.close();
    for (const map of this.#maps.values()) map.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Memory for verifier logs, outside the JavaScript heap so that untouched pages cost nothing. */
class LogMemory {
  readonly pointer: bigint;
  readonly #size: bigint;

  constructor(size: number) {
    const PROT_READ_WRITE = 3;
    const MAP_PRIVATE_ANONYMOUS_NORESERVE = 0x4022;
    this.#size = BigInt(Math.max(size, 4096));
    this.pointer = libc.mmap(null, this.#size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_NORESERVE, -1, 0n);
    if (BigInt.asIntN(64, this.pointer) === -1n) {
      throw new LibbpfError('LIBBPF_LOAD', 'no memory for the verifier log', { errno: lastErrno() });
    }
  }

  free(): void {
    libc.munmap(this.pointer, this.#size);
  }
}

function readObjectFile(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new LibbpfError('LIBBPF_OPEN', `cannot read the object file ${path}`, { cause: error });
  }
}

function openImage(image: Uint8Array, name: string): bigint {
  const options = new NativeBuffer(OPEN_OPTIONS_SIZE);
  const encodedName = new TextEncoder().encode(`${name}\0`);
  const nameBuffer = new NativeBuffer(encodedName.length);
  nameBuffer.bytes.set(encodedName);
  options.view.setBigUint64(0, BigInt(OPEN_OPTIONS_SIZE), true);
  options.view.setBigUint64(OPEN_OPTIONS_NAME, nameBuffer.pointer, true);
  let errno = 0;
  const { result, log } = captureLibbpfLog(() => {
    const pointer = libbpf().bpf_object__open_mem(addressOf(image), BigInt(image.byteLength), options.pointer);
    if (pointer === 0n) errno = lastErrno();
    return pointer;
  });
  if (result === 0n) {
    throw new LibbpfError('LIBBPF_OPEN', `libbpf refuses the object file ${name}`, {
      errno,
      libbpfLog: log,
      excerpt: lastLines(log, SUMMARY_LINES),
    });
  }
  return result;
}

function* eachProgram(object: bigint): Generator<bigint, void, undefined> {
  let program = libbpf().bpf_object__next_program(object, null);
  for (; program !== 0n; program = libbpf().bpf_object__next_program(object, program)) yield program;
}

function* eachMap(object: bigint): Generator<bigint, void, undefined> {
  let map = libbpf().bpf_object__next_map(object, null);
  for (; map !== 0n; map = libbpf().bpf_object__next_map(object, map)) yield map;
}

function describeProgram(program: bigint): ProgramSpec {
  const functions = libbpf();
  const type = functions.bpf_program__type(program);
  return {
    name: readCString(functions.bpf_program__name(program)),
    section: readCString(functions.bpf_program__section_name(program)),
    type,
    typeName: programTypeName(type),
    attachType: functions.bpf_program__expected_attach_type(program),
  };
}

function describeMap(map: bigint): MapSpec {
  const functions = libbpf();
  const type = functions.bpf_map__type(map);
  return {
    name: readCString(functions.bpf_map__name(map)),
    type,
    typeName: mapTypeName(type),
    keySize: functions.bpf_map__key_size(map),
    valueSize: functions.bpf_map__value_size(map),
    maxEntries: functions.bpf_map__max_entries(map),
    flags: functions.bpf_map__map_flags(map),
  };
}

function notFound(object: string, kind: string, name: string, known: Iterable<string>): LibbpfError {
  return new LibbpfError('LIBBPF_NOT_FOUND', `${object} has no ${kind} ${JSON.stringify(name)}; it has ${[...known].join(', ') || 'none'}`);
}

function findProgram(object: bigint, name: string): bigint {
  const program = libbpf().bpf_object__find_program_by_name(object, name);
  if (program !== 0n) return program;
  throw notFound(
    'the object',
    'program',
    name,
    [...eachProgram(object)].map((other) => describeProgram(other).name),
  );
}

function findMap(object: bigint, name: string): bigint {
  const map = libbpf().bpf_object__find_map_by_name(object, name);
  if (map !== 0n) return map;
  throw notFound(
    'the object',
    'map',
    name,
    [...eachMap(object)].map((other) => describeMap(other).name),
  );
}

function setMaxEntries(object: bigint, name: string, entries: number): void {
  const result = libbpf().bpf_map__set_max_entries(findMap(object, name), entries);
  if (result < 0) throw new LibbpfError('LIBBPF_OPEN', `cannot set the capacity of the map ${name} to ${entries}`, { errno: -result });
}

/** Refuses a map that the program would misread, naming every field that differs. */
function reuseMap(object: bigint, name: string, fd: number): void {
  const map = findMap(object, name);
  const wanted = describeMap(map);
  const found = mapInfo(fd);
  const differences = (['type', 'keySize', 'valueSize', 'maxEntries', 'flags'] as const)
    .filter((field) => wanted[field] !== found[field])
    .map((field) =>
      field === 'type' ? `type ${found.typeName} instead of ${wanted.typeName}` : `${field} ${found[field]} instead of ${wanted[field]}`,
    );
  if (differences.length > 0) {
    throw new LibbpfError('LIBBPF_MAP_INCOMPATIBLE', `the map to reuse as ${name} has ${differences.join(', ')}`);
  }
  const result = libbpf().bpf_map__reuse_fd(map, fd);
  if (result < 0) throw new LibbpfError('LIBBPF_OPEN', `cannot reuse a map as ${name}`, { errno: -result });
}

function setGlobal(object: bigint, variables: ReadonlyMap<string, ElfSymbol>, name: string, value: GlobalValue): void {
  const symbol = variables.get(name);
  if (symbol === undefined) throw notFound('the object', 'variable', name, variables.keys());
  const map = libbpf().bpf_object__find_map_by_name(object, symbol.section);
  const sizeBuffer = new NativeBuffer(8);
  const start = map === 0n ? 0n : libbpf().bpf_map__initial_value(map, sizeBuffer.pointer);
  const room = Number(sizeBuffer.view.getBigUint64(0, true));
  if (start === 0n || symbol.offset + symbol.size > room) {
    throw new LibbpfError('LIBBPF_GLOBAL', `the variable ${name} in ${symbol.section} cannot be set before load`);
  }
  copyIntoMemory(start + BigInt(symbol.offset), encodeGlobal(symbol, value));
}

/** The bytes of `value` as the variable has it. Throws LIBBPF_GLOBAL if it does not fit. Exported for tests. */
export function encodeGlobal(symbol: ElfSymbol, value: GlobalValue): Uint8Array {
  const { name, size } = symbol;
  if (value instanceof Uint8Array) {
    if (value.length !== size) throw new LibbpfError('LIBBPF_GLOBAL', `the variable ${name} has ${size} bytes, the value ${value.length}`);
    return value;
  }
  if (typeof value === 'number' && !Number.isSafeInteger(value)) {
    throw new LibbpfError('LIBBPF_GLOBAL', `${value} for the variable ${name} is not a safe integer`);
  }
  const integer = BigInt(value);
  const bits = size * 8;
  if (![1, 2, 4, 8].includes(size) || (BigInt.asUintN(bits, integer) !== integer && BigInt.asIntN(bits, integer) !== integer)) {
    throw new LibbpfError('LIBBPF_GLOBAL', `${value} does not fit the variable ${name} of ${size} bytes`);
  }
  const encoded = new DataView(new ArrayBuffer(8));
  encoded.setBigUint64(0, BigInt.asUintN(64, integer), true);
  return new Uint8Array(encoded.buffer, 0, size);
}

/** The end of a log: where libbpf and the verifier say what is wrong. */
function lastLines(log: string, count: number): string {
  return log
    .split('\n')
    .filter((line) => line.trim() !== '')
    .slice(-count)
    .join('\n');
}

/** The last lines of a verifier log that mean something: without the statistics at its end. Exported for tests. */
export function summariseVerifierLog(log: string): string {
  const lines = log
    .split('\n')
    .filter(
      (line) => line.trim() !== '' && !/^(processed \d+ insns|verification time|stack depth|-- (BEGIN|END) PROG LOAD LOG)/.test(line),
    );
  return lastLines(lines.join('\n'), SUMMARY_LINES);
}
