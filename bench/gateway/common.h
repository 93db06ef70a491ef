// What the mock engine and the load generator share: a clock, a growing buffer, sockets.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define MICROSECOND 1000ull

typedef uint64_t nanoseconds;

// CLOCK_MONOTONIC: the same for all processes of a host, so that a chunk can carry the time it left.
static nanoseconds now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (nanoseconds)t.tv_sec * SECOND + t.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

struct buffer {
  char *data;
  size_t length, sent, room;
};

static char *reserve(struct buffer *b, size_t more) {
  if (b->length + more + 1 > b->room) {
    b->room = (b->length + more) * 2 + 4096;
    b->data = realloc(b->data, b->room);
    if (!b->data) die("memory");
  }
  return b->data + b->length;
}

static void append(struct buffer *b, const void *data, size_t length) {
  memcpy(reserve(b, length), data, length);
  b->length += length;
}

static void drop_front(struct buffer *b, size_t length) {
  memmove(b->data, b->data + length, b->length - length);
  b->length -= length;
}

// Read what is there. 0: the other side has closed or failed.
static int receive(int fd, struct buffer *b) {
  for (;;) {
    size_t want = 32768;
    ssize_t got = recv(fd, reserve(b, want), want, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return 0;
    if (got < 0) break;
    b->length += got;
    if ((size_t)got < want) break;
  }
  b->data[b->length] = 0;
  return 1;
}

// Write what can be written. -1: the other side is gone; 1: there is more.
static int flush(int fd, struct buffer *b) {
  while (b->sent < b->length) {
    ssize_t put = send(fd, b->data + b->sent, b->length - b->sent, MSG_NOSIGNAL);
    if (put < 0) return errno == EAGAIN || errno == ENOTCONN ? 1 : -1;
    b->sent += put;
  }
  b->length = b->sent = 0;
  return 0;
}

static void watch(int poll, int fd, void *who, int writable, int operation) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | (writable ? EPOLLOUT : 0), .data.ptr = who};
  epoll_ctl(poll, operation, fd, &event);
}

static int wait_until(int poll, struct epoll_event *events, int most, nanoseconds due) {
  nanoseconds t = now(), left = due > t ? due - t : 0;
  struct timespec timeout = {left / SECOND, left % SECOND};
  return epoll_pwait2(poll, events, most, due ? &timeout : NULL, NULL);
}

static void no_delay(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static struct sockaddr_in loopback(int port) {
  return (struct sockaddr_in){
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}
