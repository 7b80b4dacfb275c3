import { LibbpfError } from './errors.ts';
import { libbpf } from './ffi.ts';
import { attachTypeName } from './kernel-types.ts';
import { NativeBuffer } from './native-buffer.ts';
import { type LinkInfo, linkInfo } from './object-info.ts';
import { OwnedFd } from './owned-fd.ts';
import { openPinnedDescriptor, type PinOptions, pinDescriptor, unpin } from './pin.ts';

const BPF_F_REPLACE = 4;

/** Something with the descriptor of a loaded program. */
export interface ProgramReference {
  readonly fd: number;
}

/**
 * An attachment of a program (a `bpf_link`). It lasts while this descriptor, another one or a pin holds it. Links of several
 * programs on one cgroup hook coexist, and none can take another's place by accident.
 */
export class Link implements Disposable {
  readonly #descriptor: OwnedFd;
  #pinPath: string | null;

  /** Takes ownership of a link's descriptor. Most callers get links from a program or {@link Link.openPinned}. */
  constructor(descriptor: OwnedFd, pinPath: string | null = null) {
    this.#descriptor = descriptor;
    this.#pinPath = pinPath;
  }

  /** Attaches. `targetFd` is a cgroup directory, a network namespace, or what else `attachType` asks for. Throws LIBBPF_ATTACH. */
  static create(program: ProgramReference, targetFd: number, attachType: number): Link {
    const fd = libbpf().bpf_link_create(program.fd, targetFd, attachType, null);
    if (fd < 0) throw new LibbpfError('LIBBPF_ATTACH', `cannot attach to ${attachTypeName(attachType)}`, { errno: -fd });
    return new Link(new OwnedFd(fd, `${attachTypeName(attachType)} link`));
  }

  /** Opens a pinned link. Throws LIBBPF_PIN (ENOENT if there is none). */
  static openPinned(path: string): Link {
    return new Link(openPinnedDescriptor(path), path);
  }

  /** Its descriptor, owned by this object. */
  get fd(): number {
    return this.#descriptor.fd;
  }

  /** Where this object pinned it or opened it from, or null. */
  get pinPath(): string | null {
    return this.#pinPath;
  }

  /** Pins it, so that the attachment outlives the process. Throws LIBBPF_PIN. */
  pin(path: string, options: PinOptions = {}): void {
    pinDescriptor(this.fd, path, options);
    this.#pinPath = path;
  }

  /** Removes the pin. The attachment then ends with the last descriptor. */
  unpin(): void {
    if (this.#pinPath === null) return;
    unpin(this.#pinPath);
    this.#pinPath = null;
  }

  /**
   * Puts another program in place at once, with no moment in which none is attached. With `expected`, only if that one is
   * attached now (cgroup and netns links: EPERM or EINVAL otherwise). Throws LIBBPF_ATTACH.
   */
  update(program: ProgramReference, expected?: ProgramReference): void {
    let options: NativeBuffer | null = null;
    if (expected !== undefined) {
      // struct bpf_link_update_opts: size_t sz, u32 flags, u32 old_prog_fd.
      options = new NativeBuffer(16);
      options.view.setBigUint64(0, 16n, true);
      options.view.setUint32(8, BPF_F_REPLACE, true);
      options.view.setUint32(12, expected.fd, true);
    }
    const result = libbpf().bpf_link_update(this.fd, program.fd, options?.pointer ?? null);
    if (result < 0) throw new LibbpfError('LIBBPF_ATTACH', 'cannot replace the program of the link', { errno: -result });
  }

  /** What it attaches, and where. Throws LIBBPF_SYSCALL. */
  info(): LinkInfo {
    return linkInfo(this.fd);
  }

  /** Ends the attachment now, whoever else holds the link. Throws LIBBPF_ATTACH. */
  detach(): void {
    const result = libbpf().bpf_link_detach(this.fd);
    if (result < 0) throw new LibbpfError('LIBBPF_ATTACH', 'cannot detach the link', { errno: -result });
  }

  /** Closes the descriptor: the attachment ends, unless it is pinned or held elsewhere. */
  close(): void {
    this.#descriptor.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * An attachment by the older `bpf_prog_attach`, for hooks without links on older kernels (sockmaps before Linux 6.10). It belongs
 * to the target, not to this object: it lasts until `detach()` or until the target is gone. `using` detaches.
 */
export class DirectAttachment implements Disposable {
  readonly #program: OwnedFd;
  readonly #target: OwnedFd;
  readonly #attachType: number;

  /** Takes ownership of both descriptors. Throws LIBBPF_ATTACH, and closes them then. */
  constructor(program: OwnedFd, target: OwnedFd, attachType: number, flags = 0) {
    this.#program = program;
    this.#target = target;
    this.#attachType = attachType;
    const result = libbpf().bpf_prog_attach(program.fd, target.fd, attachType, flags);
    if (result < 0) {
      this.#close();
      throw new LibbpfError('LIBBPF_ATTACH', `cannot attach to ${attachTypeName(attachType)}`, { errno: -result });
    }
  }

  /** Ends the attachment. A second call does nothing. Throws LIBBPF_ATTACH. */
  detach(): void {
    if (this.#program.closed) return;
    const result = libbpf().bpf_prog_detach2(this.#program.fd, this.#target.fd, this.#attachType);
    this.#close();
    if (result < 0) throw new LibbpfError('LIBBPF_ATTACH', `cannot detach from ${attachTypeName(this.#attachType)}`, { errno: -result });
  }

  [Symbol.dispose](): void {
    this.detach();
  }

  #close(): void {
    this.#program.close();
    this.#target.close();
  }
}
