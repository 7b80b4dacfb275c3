import { AttachType, ProgramType } from './kernel-types.ts';
import { NativeBuffer } from './native-buffer.ts';
import { OwnedFd } from './owned-fd.ts';
import { bpf } from './sys.ts';

const BPF_PROG_LOAD = 5;
const LOG_ROOM = 4096;
const INSTRUCTION_SIZE = 8;
const OPCODE_CALL = 0x85;
const OPCODE_EXIT = 0x95;

/** Program types whose load names the hook; for the others it is 0. */
const ATTACH_TYPES: ReadonlyMap<number, number> = new Map([
  [ProgramType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT],
  [ProgramType.CGROUP_SOCKOPT, AttachType.CGROUP_GETSOCKOPT],
  [ProgramType.SK_LOOKUP, AttachType.SK_LOOKUP],
]);

/**
 * True if programs of `programType` (`ProgramType`) may call `helper` (its number in `enum bpf_func_id`; see `Helper`).
 *
 * It loads a program of one call, and reads what the verifier says. libbpf's own probe is not used: 1.1 does not know the words of
 * kernels since 6.12 ("program of this type cannot use helper") and says yes to everything there.
 * Throws LIBBPF_SYSCALL if the verifier was not reached, as without privileges.
 */
export function hasHelper(programType: number, helper: number): boolean {
  const instructions = new NativeBuffer(2 * INSTRUCTION_SIZE);
  instructions.view.setUint8(0, OPCODE_CALL);
  instructions.view.setInt32(4, helper, true);
  instructions.view.setUint8(INSTRUCTION_SIZE, OPCODE_EXIT);
  const license = new NativeBuffer(4);
  license.bytes.set(new TextEncoder().encode('GPL'));
  const log = new NativeBuffer(LOG_ROOM);
  // union bpf_attr for BPF_PROG_LOAD, up to expected_attach_type.
  const attributes = new NativeBuffer(72);
  attributes.view.setUint32(0, programType, true);
  attributes.view.setUint32(4, 2, true);
  attributes.view.setBigUint64(8, instructions.pointer, true);
  attributes.view.setBigUint64(16, license.pointer, true);
  attributes.view.setUint32(24, 1, true);
  attributes.view.setUint32(28, LOG_ROOM, true);
  attributes.view.setBigUint64(32, log.pointer, true);
  attributes.view.setUint32(68, ATTACH_TYPES.get(programType) ?? 0, true);
  try {
    new OwnedFd(bpf(BPF_PROG_LOAD, attributes.bytes), 'probe program').close();
    return true;
  } catch (error) {
    const end = log.bytes.indexOf(0);
    const text = new TextDecoder().decode(log.bytes.subarray(0, end < 0 ? LOG_ROOM : end));
    // The call is refused for other reasons too, as its arguments are not set up; those mean that the helper is there.
    if (text !== '') return !/invalid func|unknown func|cannot use helper/.test(text);
    throw error;
  }
}
