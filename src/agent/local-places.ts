/** A workload that is enrolled on this node. */
export interface LocalPlace {
  /** `<namespace>/<name>`. */
  readonly workload: string;
  /** SPIFFE ID text. */
  readonly identity: string;
}

/** The enrolled workloads of this node by what the kernel knows them by. */
export interface LocalPlaces {
  /** Device and inode of the network namespace, `<dev>:<ino>`. The enrolment holds it open, so that no other gets its inode. */
  readonly networkNamespaces: ReadonlyMap<string, LocalPlace>;
  /** By cgroup id. */
  readonly cgroups: ReadonlyMap<bigint, LocalPlace>;
}
