import { mkdirSync, writeFileSync } from 'node:fs';
import type { Child, LabNode, LabPod } from '../test/kit/lab/index.ts';

/** The port of the server in its pod. */
export const SERVER_PORT = 8080;

/** The port of the gRPC service in the same pod: HTTP/2 without TLS, by prior knowledge. */
export const GRPC_PORT = 8081;

/** A method of the gRPC service, which answers any. */
export const GRPC_METHOD = '/bench.Echo/Unary';

/** A gRPC message of 13 bytes with its prefix (not compressed, length), as both sides send it: protobuf's string in field 1. */
export const GRPC_MESSAGE = '\0\0\0\0\u000d\n\u000bhello world';

/**
 * Starts nginx in a pod: one worker, a small fixed body, connections kept, no access log. The gRPC service answers every call with one
 * message and `grpc-status: 0` in trailers, from nginx too: no gRPC server would load the machine less. Files are under the node's directory.
 */
export async function startNginx(node: LabNode, pod: LabPod): Promise<Child> {
  const directory = `${node.directory}/nginx`;
  mkdirSync(directory, { mode: 0o700 });
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${directory}/${name};`)
    .join('\n  ');
  writeFileSync(
    `${directory}/nginx.conf`,
    `
user root;
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid ${directory}/nginx.pid;
error_log stderr error;
events { worker_connections 32768; }
http {
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  ${temporary}
  server {
    listen ${SERVER_PORT} backlog=4096;
    listen [::]:${SERVER_PORT} backlog=4096;
    default_type text/plain;
    location / { return 200 "The quick brown fox jumps over the lazy dog.\\n"; }
  }
  server {
    listen ${GRPC_PORT} http2 backlog=4096;
    listen [::]:${GRPC_PORT} http2 backlog=4096;
    default_type application/grpc;
    add_trailer grpc-status 0;
    location / { return 200 "${GRPC_MESSAGE}"; }
  }
}
`,
  );
  const nginx = await pod.spawn(['nginx', '-p', directory, '-c', `${directory}/nginx.conf`, '-e', 'stderr']);
  for (let attempt = 0; ; attempt++) {
    const answer = await pod.exec(['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', `http://127.0.0.1:${SERVER_PORT}/`]);
    if (answer.stdout === '200') return nginx;
    if (attempt === 100 || nginx.status !== null) throw new Error(`nginx does not answer: ${nginx.stderr}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
