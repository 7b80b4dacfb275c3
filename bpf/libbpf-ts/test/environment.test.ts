import assert from 'node:assert/strict';
import { test } from 'node:test';
import { summariseVerifierLog } from '../src/bpf-object.ts';
import { errnoName, findBpfFilesystems, findCgroup2, LibbpfError, parseMountInfo } from '../src/index.ts';
import { parseCpuList } from '../src/possible-cpus.ts';

const HYBRID = `
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
41 30 0:37 /kubepods /mnt/part rw - cgroup2 cgroup2 rw
40 30 0:37 / /sys/fs/cgroup/unified rw,relatime master:9 - cgroup2 cgroup2 rw
50 22 0:40 / /var/lib/with\\040space rw - bpf bpf rw
`;

test('cgroup v2 is found on a hybrid host, and the whole hierarchy is preferred to a part', () => {
  assert.equal(findCgroup2(parseMountInfo(HYBRID)), '/sys/fs/cgroup/unified');
  assert.equal(findCgroup2(parseMountInfo('30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw')), '/sys/fs/cgroup');
  assert.equal(findCgroup2(parseMountInfo('30 22 0:26 / / rw - ext4 /dev/root rw\nnonsense\n')), null);
});

test('escapes in mount paths are undone', () => {
  assert.deepEqual(findBpfFilesystems(parseMountInfo(HYBRID)), ['/var/lib/with space']);
});

test('CPU lists are counted', () => {
  assert.equal(parseCpuList('0\n'), 1);
  assert.equal(parseCpuList('0-3,8,10-11\n'), 7);
  assert.throws(() => parseCpuList(''), LibbpfError);
});

test('errors have the names of the kernel and of libbpf', () => {
  assert.equal(errnoName(1), 'EPERM');
  assert.equal(errnoName(11), 'EAGAIN');
  assert.equal(errnoName(524), 'ENOTSUPP');
  assert.equal(errnoName(4005), 'LIBBPF_ERRNO__RELOC');
  assert.equal(errnoName(99999), 'errno 99999');
  const error = new LibbpfError('LIBBPF_SYSCALL', 'it failed', { errno: 13, excerpt: 'why' });
  assert.deepEqual([error.message, error.errno, error.errnoName], ['it failed: EACCES\nwhy', 13, 'EACCES']);
});

test('the summary of a verifier log is its last lines without statistics', () => {
  const log = `${Array.from({ length: 500 }, (_, i) => `${i}: (b7) r0 = 0`).join('\n')}\nR0 invalid mem access\nprocessed 9 insns (limit 1000000)\nverification time 9 usec\nstack depth 4\n\n`;
  const lines = summariseVerifierLog(log).split('\n');
  assert.equal(lines.at(-1), 'R0 invalid mem access');
  assert.equal(lines.length, 6);
});
