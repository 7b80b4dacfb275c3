/** For lab.test.ts: makes a lab with a process in it, says so, and waits to be ended. SIGUSR2 makes it fail. */
import { Lab } from '../kit/lab/index.ts';

const lab = await Lab.create({ name: 'owner' });
const node = await lab.node('node-a');
const pod = await node.pod('web');
const sleeper = await pod.spawn(['sleep', '1000']);
process.on('SIGUSR2', () => {
  throw new Error('asked to fail');
});
console.log(`lab ${lab.id} ${sleeper.pid}`);
setInterval(() => {}, 1_000_000);
