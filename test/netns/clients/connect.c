/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client that opens TCP connections in every way that Linux knows, and a server that says what it saw. Compiled by capture.test.ts.
 *
 *   connect dial [options] ADDRESS PORT    one connection: sends a text, half-closes, reads to the end; prints a JSON object
 *     --send TEXT            what to send; default "hello"
 *     --timeout MS           how long connecting, sending and receiving may take; default 8000
 *     --read-first           waits for the server to speak before it sends
 *     --bind ADDRESS PORT    binds first
 *     --nonblock             non-blocking connect, then poll
 *     --fastopen sendto|connect    TCP Fast Open: MSG_FASTOPEN, or TCP_FASTOPEN_CONNECT
 *     --uring inline|async|sqpoll  connects through io_uring, without liburing
 *     --mptcp                IPPROTO_MPTCP
 *     --mapped               an AF_INET6 socket to the IPv4-mapped form of ADDRESS
 *     --family 4|6           the family of the socket, whatever ADDRESS is: Linux refuses what does not fit
 *     --mark N               SO_MARK
 *     --device NAME          SO_BINDTODEVICE
 *     --transparent          IP_TRANSPARENT
 *     --repair               TCP_REPAIR around the connect
 *     --source-route ADDRESS IP_OPTIONS with a loose source route over ADDRESS, or IPV6_RTHDR with a segment routing header
 *     --only-capability N    keeps this capability and no other; -1: none
 *     --keep-open            leaves its own direction open, and reads until the server ends
 *     --fork                 a child made after the connect does the talking
 *     --then ADDRESS PORT    afterwards dissolves the association (AF_UNSPEC) and dials this with the same socket; may be repeated
 *   connect transfer ADDRESS PORT BYTES PAUSE_MS   sends and gets back BYTES, without reading for the first PAUSE_MS
 *   connect ping ADDRESS PORT              sends PING, keeps its direction open, prints the first answer
 *   connect hold ADDRESS PORT              connects, then sends each line of standard input and prints what comes back
 *   connect serve [--mptcp] [--family 4|6] [--reuseport] ADDRESS PORT   echoes; prints what accept, getpeername and getsockname say
 *   connect bind [--reuseport] ADDRESS PORT        binds and listens, prints how that went
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define TIMEOUT_MS 8000
#define MAX_DESTINATIONS 8
#define ANSWER_ROOM 4096

struct destination {
  const char *address;
  int port;
};

struct options {
  const char *send, *fastopen, *uring, *device, *source_route;
  struct destination bound, destinations[MAX_DESTINATIONS];
  int count, family, capability, timeout;
  long mark;
  bool nonblock, mptcp, mapped, transparent, repair, fork, reuseport, read_first, keep_open, drop_capabilities;
};

static void fail(const char *what)
{
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  exit(2);
}

static long milliseconds(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The length is 0 when it is not an address. */
static socklen_t resolve(struct sockaddr_storage *into, const char *address, int port, bool mapped)
{
  struct sockaddr_in *v4 = (struct sockaddr_in *)into;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)into;
  char text[INET6_ADDRSTRLEN + 8];
  memset(into, 0, sizeof(*into));
  if (!mapped && inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    return sizeof(*v4);
  }
  snprintf(text, sizeof(text), mapped && !strchr(address, ':') ? "::ffff:%s" : "%s", address);
  if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
    return 0;
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(port);
  return sizeof(*v6);
}

static void print_address(const struct sockaddr_storage *address)
{
  char text[INET6_ADDRSTRLEN];
  if (address->ss_family == AF_INET) {
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    printf("{\"address\":\"%s\",\"port\":%d}", inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text)), ntohs(v4->sin_port));
  } else {
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
    printf("{\"address\":\"%s\",\"port\":%d}", inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text)), ntohs(v6->sin6_port));
  }
}

static void print_name(const char *key, int fd, bool of_peer)
{
  struct sockaddr_storage address;
  socklen_t length = sizeof(address);
  int failed = of_peer ? getpeername(fd, (struct sockaddr *)&address, &length) : getsockname(fd, (struct sockaddr *)&address, &length);
  printf("\"%s\":", key);
  if (failed)
    printf("\"%s\"", strerrorname_np(errno));
  else
    print_address(&address);
}

static void print_names(int fd)
{
  print_name("peer", fd, true);
  printf(",");
  print_name("local", fd, false);
}

static void print_text(const char *text, size_t length)
{
  putchar('"');
  for (size_t i = 0; i < length; i++) {
    unsigned char byte = text[i];
    if (byte < 0x20 || byte >= 0x7f || byte == '"' || byte == '\\')
      printf("\\u%04x", byte);
    else
      putchar(byte);
  }
  putchar('"');
}

static void keep_only(int capability)
{
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2] = {};
  if (capability >= 0)
    data[capability / 32].effective = data[capability / 32].permitted = 1u << capability % 32;
  if (syscall(SYS_capset, &header, data))
    fail("capset");
}

static void set_option(int fd, int level, int option, const void *value, socklen_t length, const char *name)
{
  if (setsockopt(fd, level, option, value, length))
    fail(name);
}

static void set_flag(int fd, int level, int option, const char *name)
{
  int on = 1;
  set_option(fd, level, option, &on, sizeof(on), name);
}

/* ---- connecting ------------------------------------------------------------------------------------------------------------- */

/* connect() as an io_uring operation. Returns 0 or an errno. Where the kernel has no io_uring, or forbids it, it says so and ends. */
static int uring_connect(int fd, const struct sockaddr *address, socklen_t length, const char *how)
{
  struct io_uring_params parameters = {.flags = strcmp(how, "sqpoll") == 0 ? IORING_SETUP_SQPOLL : 0, .sq_thread_idle = 1000};
  int ring = syscall(__NR_io_uring_setup, 4, &parameters);
  if (ring < 0) {
    printf("{\"connect\":\"io_uring_setup %s\"}]\n", strerrorname_np(errno));
    exit(0);
  }
  size_t submission_size = parameters.sq_off.array + parameters.sq_entries * sizeof(unsigned);
  size_t completion_size = parameters.cq_off.cqes + parameters.cq_entries * sizeof(struct io_uring_cqe);
  int protection = PROT_READ | PROT_WRITE;
  char *submissions = mmap(NULL, submission_size, protection, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
  char *completions = mmap(NULL, completion_size, protection, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
  struct io_uring_sqe *entries =
      mmap(NULL, parameters.sq_entries * sizeof(*entries), protection, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
  if (submissions == MAP_FAILED || completions == MAP_FAILED || entries == MAP_FAILED)
    fail("mmap of a ring");
  memset(entries, 0, sizeof(*entries));
  entries[0].opcode = IORING_OP_CONNECT;
  entries[0].fd = fd;
  entries[0].addr = (uint64_t)(uintptr_t)address;
  entries[0].off = length;
  entries[0].flags = strcmp(how, "async") == 0 ? IOSQE_ASYNC : 0;
  unsigned *tail = (unsigned *)(submissions + parameters.sq_off.tail);
  ((unsigned *)(submissions + parameters.sq_off.array))[*tail & *(unsigned *)(submissions + parameters.sq_off.ring_mask)] = 0;
  __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
  if (syscall(__NR_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP, NULL, 0) < 0)
    return errno;
  unsigned head = *(unsigned *)(completions + parameters.cq_off.head);
  struct io_uring_cqe *done = (struct io_uring_cqe *)(completions + parameters.cq_off.cqes) + (head & *(unsigned *)(completions + parameters.cq_off.ring_mask));
  int result = -done->res;
  close(ring);
  return result;
}

static int wait_connected(int fd, int timeout)
{
  struct pollfd wait = {.fd = fd, .events = POLLOUT};
  int error = 0;
  socklen_t length = sizeof(error);
  if (poll(&wait, 1, timeout) == 0)
    return ETIMEDOUT;
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

/* Returns 0 or an errno. *sent tells how much of the text is on its way already. */
static int start(int fd, const struct options *options, const struct sockaddr_storage *address, socklen_t length, size_t *sent)
{
  const struct sockaddr *to = (const struct sockaddr *)address;
  if (options->uring)
    return uring_connect(fd, to, length, options->uring);
  if (options->fastopen && strcmp(options->fastopen, "sendto") == 0) {
    ssize_t count = sendto(fd, options->send, strlen(options->send), MSG_FASTOPEN, to, length);
    if (count < 0)
      return errno;
    *sent = count;
    return 0;
  }
  if (connect(fd, to, length) == 0)
    return 0;
  if (errno == EINPROGRESS && options->nonblock)
    return wait_connected(fd, options->timeout);
  return errno;
}

static int make_socket(const struct options *options, int family)
{
  int fd = socket(family, SOCK_STREAM, options->mptcp ? IPPROTO_MPTCP : IPPROTO_TCP);
  if (fd < 0)
    fail("socket");
  struct timeval timeout = {.tv_sec = options->timeout / 1000, .tv_usec = options->timeout % 1000 * 1000};
  set_option(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout), "SO_RCVTIMEO");
  set_option(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout), "SO_SNDTIMEO");
  if (options->mark >= 0) {
    unsigned mark = options->mark;
    set_option(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark), "SO_MARK");
  }
  if (options->transparent) {
    if (family == AF_INET)
      set_flag(fd, IPPROTO_IP, IP_TRANSPARENT, "IP_TRANSPARENT");
    else
      set_flag(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, "IPV6_TRANSPARENT");
  }
  if (options->source_route && family == AF_INET) {
    /* RFC 791: loose source and record route, one hop, padded to 8 bytes. */
    unsigned char route[8] = {IPOPT_LSRR, 7, 4};
    inet_pton(AF_INET, options->source_route, route + 3);
    set_option(fd, IPPROTO_IP, IP_OPTIONS, route, sizeof(route), "IP_OPTIONS");
  } else if (options->source_route) {
    /* RFC 8754: two segments, the last of which is the destination. */
    unsigned char route[40] = {0, 4, 4, 1, 1};
    inet_pton(AF_INET6, options->source_route, route + 24);
    set_option(fd, IPPROTO_IPV6, IPV6_RTHDR, route, sizeof(route), "IPV6_RTHDR");
  }
  if (options->fastopen && strcmp(options->fastopen, "connect") == 0)
    set_flag(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, "TCP_FASTOPEN_CONNECT");
  if (options->device)
    set_option(fd, SOL_SOCKET, SO_BINDTODEVICE, options->device, strlen(options->device), "SO_BINDTODEVICE");
  if (options->bound.address) {
    struct sockaddr_storage address;
    socklen_t length = resolve(&address, options->bound.address, options->bound.port, options->mapped);
    set_flag(fd, SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR");
    if (bind(fd, (struct sockaddr *)&address, length))
      fail("bind");
  }
  if (options->repair)
    set_flag(fd, IPPROTO_TCP, TCP_REPAIR, "TCP_REPAIR");
  if (options->nonblock)
    fcntl(fd, F_SETFL, O_NONBLOCK);
  return fd;
}

static void finish_connect(int fd, const struct options *options)
{
  int off = 0;
  if (options->nonblock)
    fcntl(fd, F_SETFL, 0);
  if (options->repair)
    set_option(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off), "TCP_REPAIR");
}

/* Sends the rest of the text, half-closes, reads to the end; prints answer and end. */
static void talk(int fd, const struct options *options, size_t sent)
{
  char answer[ANSWER_ROOM];
  size_t have = 0;
  const char *end = "eof";
  if (options->read_first) {
    ssize_t count = recv(fd, answer, sizeof(answer), 0);
    have = count > 0 ? count : 0;
  }
  if (send(fd, options->send + sent, strlen(options->send) - sent, MSG_NOSIGNAL) < 0)
    end = strerrorname_np(errno);
  if (!options->keep_open)
    shutdown(fd, SHUT_WR);
  for (;;) {
    ssize_t count = recv(fd, answer + have, sizeof(answer) - have, 0);
    if (count < 0)
      end = strerrorname_np(errno);
    if (count <= 0)
      break;
    have += count;
  }
  printf(",\"answer\":");
  print_text(answer, have);
  printf(",\"end\":\"%s\"", end);
}

/* One destination after the other on one socket. */
static void visit(int fd, const struct options *options, const struct destination *destination)
{
  struct sockaddr_storage address;
  size_t sent = 0;
  socklen_t length = resolve(&address, destination->address, destination->port, options->mapped);
  if (length == 0)
    fail(destination->address);
  int error = start(fd, options, &address, length, &sent);
  printf("{\"connect\":\"%s\"", error ? strerrorname_np(error) : "ok");
  if (error) {
    printf("}");
    return;
  }
  finish_connect(fd, options);
  /* A Fast Open that waits for its first bytes is not connected before them. */
  bool deferred = options->fastopen && strcmp(options->fastopen, "connect") == 0;
  if (deferred && send(fd, options->send, strlen(options->send), MSG_NOSIGNAL) > 0)
    sent = strlen(options->send);
  if (options->fastopen)
    wait_connected(fd, options->timeout);
  printf(",");
  print_names(fd);
  fflush(stdout);
  if (options->fork) {
    if (fork() == 0) {
      printf(",\"child\":{");
      print_names(fd);
      printf("}");
      talk(fd, options, sent);
      fflush(stdout);
      _exit(0);
    }
    wait(NULL);
  } else {
    talk(fd, options, sent);
  }
  printf(",\"after\":{");
  print_names(fd);
  printf("}}");
}

static int dial(const struct options *options)
{
  struct sockaddr_storage address;
  if (options->drop_capabilities)
    keep_only(options->capability);
  if (!resolve(&address, options->destinations[0].address, options->destinations[0].port, options->mapped))
    fail("not an address");
  int fd = make_socket(options, options->family ? options->family : address.ss_family);
  printf("[");
  for (int i = 0; i < options->count; i++) {
    if (i > 0) {
      struct sockaddr none = {.sa_family = AF_UNSPEC};
      if (connect(fd, &none, sizeof(none)))
        fail("connect(AF_UNSPEC)");
      printf(",{\"dissolved\":true,");
      print_names(fd);
      printf("},");
    }
    visit(fd, options, &options->destinations[i]);
  }
  printf("]\n");
  return 0;
}

static int connected(const struct options *options, int flags)
{
  struct sockaddr_storage address;
  socklen_t length = resolve(&address, options->destinations[0].address, options->destinations[0].port, false);
  int fd = make_socket(options, address.ss_family);
  if (connect(fd, (struct sockaddr *)&address, length))
    fail("connect");
  fcntl(fd, F_SETFL, flags);
  return fd;
}

/* ---- transfer --------------------------------------------------------------------------------------------------------------- */

/* The 8 bytes at position 8 * index of the stream (splitmix64). */
static uint64_t pattern(uint64_t index)
{
  uint64_t value = index * 0x9e3779b97f4a7c15u + 0x1234567;
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
  value = (value ^ value >> 27) * 0x94d049bb133111ebu;
  return value ^ value >> 31;
}

static void fill(unsigned char *into, uint64_t from, size_t count)
{
  uint64_t word = 0;
  for (size_t i = 0; i < count; i++) {
    uint64_t position = from + i;
    if (i == 0 || position % 8 == 0)
      word = pattern(position / 8);
    into[i] = word >> (position % 8 * 8);
  }
}

static int transfer(const struct options *options, uint64_t bytes, long pause_ms)
{
  static unsigned char out[65536], in[65536], wanted[65536];
  int fd = connected(options, O_NONBLOCK);
  uint64_t sent = 0, received = 0, stalled_at = 0;
  size_t ready = 0, taken = 0;
  bool exact = true, ended = false, reading = false;
  long begin = milliseconds();
  while (!ended) {
    if (!reading && milliseconds() - begin >= pause_ms) {
      reading = true;
      stalled_at = sent;
      printf("{\"reading\":true,\"sent\":%llu}\n", (unsigned long long)sent);
      fflush(stdout);
    }
    struct pollfd wait = {.fd = fd, .events = (sent < bytes ? POLLOUT : 0) | (reading ? POLLIN : 0)};
    int polled = poll(&wait, 1, reading ? TIMEOUT_MS : 20);
    if (polled == 0 && reading) {
      fprintf(stderr, "nothing moves at %llu sent, %llu received\n", (unsigned long long)sent, (unsigned long long)received);
      return 1;
    }
    if (wait.revents & POLLOUT && sent < bytes) {
      if (taken == ready) {
        ready = bytes - sent < sizeof(out) ? bytes - sent : sizeof(out);
        fill(out, sent, ready);
        taken = 0;
      }
      ssize_t count = send(fd, out + taken, ready - taken, MSG_NOSIGNAL);
      if (count < 0 && errno != EAGAIN)
        fail("send");
      if (count > 0) {
        taken += count;
        sent += count;
        if (sent == bytes)
          shutdown(fd, SHUT_WR);
      }
    }
    if (reading && wait.revents & (POLLIN | POLLHUP | POLLERR)) {
      ssize_t count = recv(fd, in, sizeof(in), 0);
      if (count < 0 && errno != EAGAIN)
        fail("recv");
      if (count == 0)
        ended = true;
      if (count > 0) {
        fill(wanted, received, count);
        exact = exact && memcmp(in, wanted, count) == 0;
        received += count;
      }
    }
  }
  printf("{\"sent\":%llu,\"received\":%llu,\"exact\":%s,\"stalledAt\":%llu}\n", (unsigned long long)sent, (unsigned long long)received,
         exact ? "true" : "false", (unsigned long long)stalled_at);
  return 0;
}

static int ping(const struct options *options)
{
  char answer[ANSWER_ROOM];
  int fd = connected(options, 0);
  if (send(fd, "PING", 4, MSG_NOSIGNAL) < 0)
    fail("send");
  ssize_t count = recv(fd, answer, sizeof(answer), 0);
  if (count < 0)
    fail("recv");
  printf("{\"answer\":");
  print_text(answer, count);
  printf("}\n");
  return 0;
}

static int hold(const struct options *options)
{
  char line[ANSWER_ROOM], answer[ANSWER_ROOM];
  int fd = connected(options, 0);
  printf("{");
  print_names(fd);
  printf("}\n");
  fflush(stdout);
  while (fgets(line, sizeof(line), stdin)) {
    size_t length = strlen(line), have = 0;
    if (send(fd, line, length, MSG_NOSIGNAL) < 0)
      fail("send");
    while (have < length) {
      ssize_t count = recv(fd, answer + have, sizeof(answer) - have, 0);
      if (count <= 0)
        fail("recv");
      have += count;
    }
    printf("{\"answer\":");
    print_text(answer, have);
    printf(",");
    print_names(fd);
    printf("}\n");
    fflush(stdout);
  }
  return 0;
}

/* ---- server ----------------------------------------------------------------------------------------------------------------- */

static int listening(const struct options *options)
{
  struct sockaddr_storage address;
  struct destination at = options->destinations[0];
  socklen_t length = resolve(&address, at.address, at.port, false);
  int fd = socket(address.ss_family, SOCK_STREAM, options->mptcp ? IPPROTO_MPTCP : IPPROTO_TCP);
  set_flag(fd, SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR");
  if (options->reuseport)
    set_flag(fd, SOL_SOCKET, SO_REUSEPORT, "SO_REUSEPORT");
  if (options->family == AF_INET6)
    set_flag(fd, IPPROTO_IPV6, IPV6_V6ONLY, "IPV6_V6ONLY");
  if (bind(fd, (struct sockaddr *)&address, length) || listen(fd, 128))
    return -1;
  return fd;
}

static void echo(int fd, const struct sockaddr_storage *accepted)
{
  static char buffer[65536];
  unsigned long long bytes = 0;
  printf("{\"event\":\"accept\",\"accept\":");
  print_address(accepted);
  printf(",");
  print_names(fd);
  printf("}\n");
  fflush(stdout);
  for (;;) {
    ssize_t count = recv(fd, buffer, sizeof(buffer), 0);
    if (count <= 0)
      break;
    bytes += count;
    for (ssize_t done = 0; done < count;) {
      ssize_t written = send(fd, buffer + done, count - done, MSG_NOSIGNAL);
      if (written < 0)
        _exit(1);
      done += written;
    }
  }
  printf("{\"event\":\"end\",\"bytes\":%llu,", bytes);
  print_names(fd);
  printf("}\n");
  fflush(stdout);
  _exit(0);
}

static int serve(const struct options *options)
{
  signal(SIGCHLD, SIG_IGN);
  int fd = listening(options);
  if (fd < 0)
    fail("listen");
  printf("{\"event\":\"listening\",\"port\":%d}\n", options->destinations[0].port);
  fflush(stdout);
  for (;;) {
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    int accepted = accept(fd, (struct sockaddr *)&address, &length);
    if (accepted < 0)
      continue;
    if (fork() == 0) {
      close(fd);
      echo(accepted, &address);
    }
    close(accepted);
  }
}

/* ---- command line ----------------------------------------------------------------------------------------------------------- */

static const char *next(char ***words)
{
  if (!**words) {
    fprintf(stderr, "connect: an argument is missing\n");
    exit(2);
  }
  return *(*words)++;
}

static int family_named(const char *name)
{
  return strcmp(name, "4") == 0 ? AF_INET : AF_INET6;
}

int main(int argc, char **argv)
{
  (void)argc;
  struct options options = {.send = "hello", .mark = -1, .timeout = TIMEOUT_MS};
  char **words = argv + 1;
  const char *command = next(&words);
  while (*words && strncmp(*words, "--", 2) == 0) {
    const char *option = next(&words) + 2;
    if (strcmp(option, "send") == 0)
      options.send = next(&words);
    else if (strcmp(option, "timeout") == 0)
      options.timeout = atoi(next(&words));
    else if (strcmp(option, "keep-open") == 0)
      options.keep_open = true;
    else if (strcmp(option, "read-first") == 0)
      options.read_first = true;
    else if (strcmp(option, "bind") == 0) {
      options.bound.address = next(&words);
      options.bound.port = atoi(next(&words));
    } else if (strcmp(option, "nonblock") == 0)
      options.nonblock = true;
    else if (strcmp(option, "fastopen") == 0)
      options.fastopen = next(&words);
    else if (strcmp(option, "uring") == 0)
      options.uring = next(&words);
    else if (strcmp(option, "mptcp") == 0)
      options.mptcp = true;
    else if (strcmp(option, "mapped") == 0)
      options.mapped = true;
    else if (strcmp(option, "family") == 0)
      options.family = family_named(next(&words));
    else if (strcmp(option, "mark") == 0)
      options.mark = strtol(next(&words), NULL, 0);
    else if (strcmp(option, "device") == 0)
      options.device = next(&words);
    else if (strcmp(option, "transparent") == 0)
      options.transparent = true;
    else if (strcmp(option, "repair") == 0)
      options.repair = true;
    else if (strcmp(option, "source-route") == 0)
      options.source_route = next(&words);
    else if (strcmp(option, "reuseport") == 0)
      options.reuseport = true;
    else if (strcmp(option, "only-capability") == 0) {
      options.drop_capabilities = true;
      options.capability = atoi(next(&words));
    } else if (strcmp(option, "fork") == 0)
      options.fork = true;
    else if (strcmp(option, "then") == 0 && options.count + 1 < MAX_DESTINATIONS) {
      /* The first one comes last on the command line. */
      options.count++;
      options.destinations[options.count].address = next(&words);
      options.destinations[options.count].port = atoi(next(&words));
    } else {
      fprintf(stderr, "connect: unknown option --%s\n", option);
      return 2;
    }
  }
  options.destinations[0].address = next(&words);
  options.destinations[0].port = atoi(next(&words));
  options.count++;
  if (strcmp(command, "dial") == 0)
    return dial(&options);
  if (strcmp(command, "transfer") == 0) {
    uint64_t bytes = strtoull(next(&words), NULL, 10);
    return transfer(&options, bytes, atol(next(&words)));
  }
  if (strcmp(command, "ping") == 0)
    return ping(&options);
  if (strcmp(command, "hold") == 0)
    return hold(&options);
  if (strcmp(command, "serve") == 0)
    return serve(&options);
  if (strcmp(command, "bind") == 0) {
    printf("{\"bind\":\"%s\"}\n", listening(&options) < 0 ? strerrorname_np(errno) : "ok");
    return 0;
  }
  fprintf(stderr, "connect: unknown command %s\n", command);
  return 2;
}
