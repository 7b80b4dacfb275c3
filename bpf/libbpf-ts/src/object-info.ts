import { LibbpfError } from './errors.ts';
import { libbpf } from './ffi.ts';
import { attachTypeName, mapTypeName, programTypeName } from './kernel-types.ts';
import { NativeBuffer } from './native-buffer.ts';

/** What the kernel says of a map (`struct bpf_map_info`). */
export interface MapInfo {
  readonly id: number;
  /** At most 15 bytes: the kernel cuts longer names. */
  readonly name: string;
  /** A number of `MapType`. */
  readonly type: number;
  readonly typeName: string;
  readonly keySize: number;
  /** Of one value, also for per-CPU maps. */
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
}

/** What the kernel says of a program (`struct bpf_prog_info`). */
export interface ProgramInfo {
  readonly id: number;
  /** At most 15 bytes. */
  readonly name: string;
  /** A number of `ProgramType`. */
  readonly type: number;
  readonly typeName: string;
  /** The kernel's digest of the instructions, 16 hexadecimal digits. */
  readonly tag: string;
}

/** What the kernel says of a link (`struct bpf_link_info`). */
export interface LinkInfo {
  readonly id: number;
  readonly programId: number;
  readonly kind: 'cgroup' | 'netns' | 'sockmap' | 'other';
  /** A number of `AttachType`; null for a link of another kind. */
  readonly attachType: number | null;
  readonly attachTypeName: string | null;
  /** Of a cgroup link: the id of the cgroup (its inode number); 0 once the cgroup is gone. */
  readonly cgroupId: bigint | null;
  /** Of a netns link: the inode number of the namespace; 0 once it is gone. */
  readonly netnsInode: number | null;
  /** Of a sockmap link: the id of the map. */
  readonly mapId: number | null;
}

const BUFFER_SIZE = 256;
const LINK_TYPE_CGROUP = 3;
const LINK_TYPE_NETNS = 5;
const LINK_TYPE_SOCKMAP = 14;

let buffer: NativeBuffer | null = null;
let lengthBuffer: NativeBuffer | null = null;

function query(fd: number, what: string): DataView {
  buffer ??= new NativeBuffer(BUFFER_SIZE);
  lengthBuffer ??= new NativeBuffer(4);
  // Zeroed each time: the kernel reads the pointers that info structs hold as requests for more.
  buffer.bytes.fill(0);
  lengthBuffer.view.setUint32(0, BUFFER_SIZE, true);
  const result = libbpf().bpf_obj_get_info_by_fd(fd, buffer.pointer, lengthBuffer.pointer);
  if (result < 0) throw new LibbpfError('LIBBPF_SYSCALL', `descriptor ${fd} is not a ${what}, or cannot be asked`, { errno: -result });
  return buffer.view;
}

function text(view: DataView, offset: number): string {
  const bytes = new Uint8Array(view.buffer, view.byteOffset + offset, 16);
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(bytes.subarray(0, end < 0 ? 16 : end));
}

/** Asks about a map. Throws LIBBPF_SYSCALL. The descriptor must be of a map: the kernel cannot tell the caller otherwise. */
export function mapInfo(fd: number): MapInfo {
  const view = query(fd, 'map');
  const type = view.getUint32(0, true);
  return {
    id: view.getUint32(4, true),
    name: text(view, 24),
    type,
    typeName: mapTypeName(type),
    keySize: view.getUint32(8, true),
    valueSize: view.getUint32(12, true),
    maxEntries: view.getUint32(16, true),
    flags: view.getUint32(20, true),
  };
}

/** Asks about a program. Throws LIBBPF_SYSCALL. */
export function programInfo(fd: number): ProgramInfo {
  const view = query(fd, 'program');
  const type = view.getUint32(0, true);
  return {
    id: view.getUint32(4, true),
    name: text(view, 64),
    type,
    typeName: programTypeName(type),
    tag: Buffer.from(view.buffer, view.byteOffset + 8, 8).toString('hex'),
  };
}

/** Asks about a link. Throws LIBBPF_SYSCALL. */
export function linkInfo(fd: number): LinkInfo {
  const view = query(fd, 'link');
  const type = view.getUint32(0, true);
  const kind = type === LINK_TYPE_CGROUP ? 'cgroup' : type === LINK_TYPE_NETNS ? 'netns' : type === LINK_TYPE_SOCKMAP ? 'sockmap' : 'other';
  const attachType = kind === 'other' ? null : view.getUint32(kind === 'cgroup' ? 24 : 20, true);
  return {
    id: view.getUint32(4, true),
    programId: view.getUint32(8, true),
    kind,
    attachType,
    attachTypeName: attachType === null ? null : attachTypeName(attachType),
    cgroupId: kind === 'cgroup' ? view.getBigUint64(16, true) : null,
    netnsInode: kind === 'netns' ? view.getUint32(16, true) : null,
    mapId: kind === 'sockmap' ? view.getUint32(16, true) : null,
  };
}
