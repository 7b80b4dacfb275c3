import { Child, type ExecOptions, type ExecResult, type SpawnOptions, exec } from '../child.ts';

/**
 * Somewhere in the lab where a process can run: a network namespace and a cgroup. Mounts, pids and files are the host's own, so a
 * program finds what it finds on the host (`ip netns exec` would remount /sys and hide the cgroup and BPF file systems).
 */
export abstract class Place {
  /** As `ip netns` knows it. */
  readonly netnsName: string;
  readonly netnsPath: string;
  readonly cgroupPath: string;
  readonly #children: Set<Child>;

  protected constructor(netnsName: string, netnsPath: string, cgroupPath: string, children: Set<Child>) {
    this.netnsName = netnsName;
    this.netnsPath = netnsPath;
    this.cgroupPath = cgroupPath;
    this.#children = children;
  }

  /** The cgroup that processes of this place join. */
  protected abstract get processCgroup(): string;

  /**
   * Runs a command here to its end.
   * @throws LabError WEFT_LAB_SPAWN
   */
  async exec(command: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    return exec(command, options, this.commandPrefix());
  }

  /**
   * Starts a command here. The lab kills it at the latest when it is disposed.
   * @throws LabError WEFT_LAB_SPAWN
   */
  async spawn(command: readonly string[], options: SpawnOptions = {}): Promise<Child> {
    return this.start(command, options, this.commandPrefix());
  }

  /** The words that, put before a command, make it run here. The command keeps the pid of the first of them. */
  commandPrefix(cgroup: string = this.processCgroup): string[] {
    const script = 'echo 0 > "$1" && shift && exec nsenter "$@"';
    return ['sh', '-c', script, 'weft-lab', `${cgroup}/cgroup.procs`, `--net=${this.netnsPath}`, '--'];
  }

  protected async start(command: readonly string[], options: SpawnOptions, prefix: readonly string[]): Promise<Child> {
    const child = await Child.start(command, options, prefix);
    this.#children.add(child);
    void child.exited.then(() => this.#children.delete(child));
    return child;
  }
}
