// A load generator for OpenAI-compatible servers: one thread, epoll; it prints one JSON object.
//
//   load MODE -p PORT -b BODY_FILE [-c CONNECTIONS] [-t SECONDS] [-n REQUESTS] [-r RATE] [-H 'Name: value'] ...
//
//   closed  each connection sends its next request when it has the answer
//   open    RATE requests a second, whether answered or not; latency counts from when a request was due
//   stream  as closed, for streams; -e CHUNKS is what a whole stream has
//   abort   when each of CONNECTIONS streams has had -a CHUNKS, all are closed at once
//   idle    one request on each of CONNECTIONS, which then stay open for SECONDS
// -T FILE: bearer tokens, one a line, used in turn. -s MICROSECONDS: between the starts of two connections.
#include "common.h"

enum mode { CLOSED, OPEN, STREAM, ABORT, IDLE };
static const char *const mode_names[] = {"closed", "open", "stream", "abort", "idle"};

static struct {
  enum mode mode;
  int port, connections, abort_after, expected_chunks;
  double seconds, rate;
  long requests;
  nanoseconds stagger;
  char fields[8192];
  char *body;
  size_t body_length;
  char **tokens;
  int token_count;
} option = {.port = 19000, .connections = 1, .abort_after = 10, .seconds = 5, .rate = 100};

enum state { FREE, HEAD, BODY };
enum part { SIZE, DATA, AFTER_DATA, TRAILER };

struct connection {
  int fd;  // -1: not open
  enum state state;
  struct buffer in, out, line;
  int status, chunked, closes, chunks, done, shows_usage;
  long left;  // of the body or the chunk; -1: until the connection closes
  enum part part;
  nanoseconds started, first, last;
};

// ---- figures

struct series {
  nanoseconds *values;
  long count, room;
};

static struct series latency, first_chunk, transit, gap;
static struct {
  long started, finished, ok, failed, lost, cut_short, with_usage, chunks, reconnects;
  long statuses[600];
} total;

static void note(struct series *s, nanoseconds value) {
  if (s->count == s->room) s->values = realloc(s->values, (s->room = s->room * 2 + 65536) * sizeof *s->values);
  s->values[s->count++] = value;
}

static int ascending(const void *a, const void *b) {
  nanoseconds x = *(const nanoseconds *)a, y = *(const nanoseconds *)b;
  return (x > y) - (x < y);
}

// Microseconds; null where nothing was measured.
static void report(const char *name, struct series *s) {
  static const struct {
    const char *name;
    double at;
  } points[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1}};
  double sum = 0;
  if (s->count) qsort(s->values, s->count, sizeof *s->values, ascending);
  for (long i = 0; i < s->count; i++) sum += s->values[i];
  printf(",\"%s\":{\"count\":%ld", name, s->count);
  if (s->count) {
    printf(",\"mean\":%.1f", sum / s->count / 1e3);
    for (int i = 0; i < 4; i++)
      printf(",\"%s\":%.1f", points[i].name, s->values[(long)(points[i].at * (s->count - 1) + 0.5)] / 1e3);
  }
  printf("}");
}

// ---- one connection

static int epoll;
static struct connection *connections;
static int connection_count, in_flight;

static void shut(struct connection *c) {
  if (c->fd >= 0) close(c->fd);
  c->fd = -1;
}

static void dial(struct connection *c) {
  struct sockaddr_in address = loopback(option.port);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) die("socket");
  no_delay(c->fd);
  if (connect(c->fd, (void *)&address, sizeof address) && errno != EINPROGRESS) die("connect");
  c->in.length = 0;
  watch(epoll, c->fd, c, 0, EPOLL_CTL_ADD);
}

static void send_request(struct connection *c, nanoseconds due) {
  char head[16384];
  if (c->fd < 0) dial(c);
  int length = sprintf(head,
                       "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: load\r\nAccept: */*\r\n"
                       "Content-Type: application/json\r\n%s",
                       option.fields);
  if (option.token_count)
    length += sprintf(head + length, "Authorization: Bearer %s\r\n", option.tokens[total.started % option.token_count]);
  length += sprintf(head + length, "Content-Length: %zu\r\n\r\n", option.body_length);
  c->out.length = c->out.sent = c->in.length = c->line.length = 0;
  append(&c->out, head, length);
  append(&c->out, option.body, option.body_length);
  c->started = due ? due : now();
  c->first = c->last = 0;
  c->chunks = c->done = c->shows_usage = c->status = 0;
  c->state = HEAD;
  total.started++;
  in_flight++;
  if (flush(c->fd, &c->out) == 1) watch(epoll, c->fd, c, 1, EPOLL_CTL_MOD);
}

static void end_request(struct connection *c, int whole) {
  int streamed = option.mode == STREAM || option.mode == ABORT, good = whole && c->status == 200;
  total.finished++;
  in_flight--;
  if (good) total.ok++;
  else total.failed++;
  if (c->status != 200 && c->status >= 0 && c->status < 600) total.statuses[c->status]++;
  if (streamed && !good) total.lost++;
  if (streamed && good && (!c->done || c->chunks < option.expected_chunks)) total.cut_short++;
  else if (good) note(&latency, now() - c->started);
  total.with_usage += c->shows_usage;
  c->state = FREE;
  if (!whole || c->closes) {
    total.reconnects++;
    shut(c);
  }
}

static void read_event(struct connection *c) {
  const char *text = c->line.data, *sent;
  nanoseconds t = now();
  if (strncmp(text, "data:", 5)) return;
  if (strstr(text, "[DONE]")) c->done = 1;
  if (strstr(text, "\"completion_tokens\":")) c->shows_usage = 1;
  if (!(sent = strstr(text, " ts="))) return;
  c->chunks++;
  total.chunks++;
  note(&transit, t - strtoull(sent + 4, 0, 10));
  if (c->first) note(&gap, t - c->last);
  else note(&first_chunk, (c->first = t) - c->started);
  c->last = t;
}

static void read_body(struct connection *c, const char *data, size_t length) {
  if (option.mode != STREAM && option.mode != ABORT) return;
  while (length) {
    const char *end = memchr(data, '\n', length);
    size_t part = end ? (size_t)(end - data) : length;
    append(&c->line, data, part);
    if (end) {
      c->line.data[c->line.length] = 0;
      if (c->line.length) read_event(c);
      c->line.length = 0;
      part++;
    }
    data += part;
    length -= part;
  }
}

static int read_head(struct connection *c) {
  char *end = memmem(c->in.data, c->in.length, "\r\n\r\n", 4);
  if (!end) return 0;
  size_t head = end - c->in.data + 4;
  end[2] = 0;
  c->status = atoi(c->in.data + 9);
  char *length = strcasestr(c->in.data, "\ncontent-length:");
  c->chunked = strcasestr(c->in.data, "\ntransfer-encoding: chunked") != NULL;
  c->closes = strcasestr(c->in.data, "\nconnection: close") != NULL;
  c->left = length ? atol(length + 16) : -1;
  c->part = SIZE;
  c->state = BODY;
  drop_front(&c->in, head);
  return 1;
}

// Whether the body is whole.
static int read_chunks(struct connection *c) {
  size_t at = 0;
  int whole = 0;
  while (!whole) {
    char *data = c->in.data + at;
    size_t rest = c->in.length - at;
    if (c->part == DATA) {
      size_t part = rest < (size_t)c->left ? rest : (size_t)c->left;
      if (!part) break;
      read_body(c, data, part);
      at += part;
      if (!(c->left -= part)) c->part = AFTER_DATA;
    } else if (c->part == AFTER_DATA) {
      if (rest < 2) break;
      at += 2;
      c->part = SIZE;
    } else {
      char *end = memmem(data, rest, "\r\n", 2);
      if (!end) break;
      at += end - data + 2;
      if (c->part == TRAILER) whole = end == data;
      else c->part = (c->left = strtol(data, 0, 16)) ? DATA : TRAILER;
    }
  }
  drop_front(&c->in, at);
  return whole;
}

static int read_answer(struct connection *c) {
  if (c->state == HEAD && !read_head(c)) return 0;
  if (c->state != BODY) return 0;
  if (c->chunked) return read_chunks(c);
  size_t part = c->left < 0 || c->in.length < (size_t)c->left ? c->in.length : (size_t)c->left;
  read_body(c, c->in.data, part);
  drop_front(&c->in, part);
  return c->left >= 0 && !(c->left -= part);
}

// ---- the run

static nanoseconds begun, end_of_sending;

static int wants_more(void) { return option.requests ? total.started < option.requests : now() < end_of_sending; }

static void abort_all(void) {
  nanoseconds from = now();
  long chunks = 0;
  for (int i = 0; i < connection_count; i++) {
    chunks += connections[i].chunks;
    shut(&connections[i]);
  }
  printf("{\"aborted_from\":%llu,\"aborted_until\":%llu,\"chunks\":%ld,\"failed\":%ld}\n", (unsigned long long)from,
         (unsigned long long)now(), chunks, total.failed);
  exit(0);
}

static int all_have_chunks(void) {
  for (int i = 0; i < connection_count; i++)
    if (connections[i].state != FREE && connections[i].chunks < option.abort_after) return 0;
  return 1;
}

static struct connection *free_connection(void) {
  static int from;
  for (int i = 0; i < connection_count; i++) {
    struct connection *c = &connections[(from + i) % connection_count];
    if (c->state == FREE) {
      from = (c - connections) % connection_count;
      return c;
    }
  }
  return NULL;
}

// Returns when it wants to be called again; 0: the run is over.
static nanoseconds start_due(void) {
  static int begun_connections;
  nanoseconds t = now(), again = t + SECOND / 20;
  if (option.mode == OPEN) {
    long planned = option.seconds * option.rate;
    nanoseconds due = 0;
    while (total.started < planned) {
      due = begun + total.started * SECOND / option.rate;
      struct connection *c = due <= t ? free_connection() : NULL;
      if (!c) break;
      send_request(c, due);
    }
    if (total.started == planned) return in_flight ? again : 0;
    return due > t && due < again ? due : again;
  }
  for (; begun_connections < connection_count; begun_connections++) {
    nanoseconds due = begun + begun_connections * option.stagger;
    if (due > t) return due < again ? due : again;
    if (wants_more()) send_request(&connections[begun_connections], 0);
  }
  if (option.mode == ABORT && all_have_chunks()) abort_all();
  if (option.mode == IDLE) return t < end_of_sending ? again : 0;
  return in_flight ? again : 0;
}

static void react(struct connection *c, uint32_t what) {
  int whole = 0, alive = 1;
  if (c->fd < 0) return;
  if (what & EPOLLOUT && flush(c->fd, &c->out) == 0) watch(epoll, c->fd, c, 0, EPOLL_CTL_MOD);
  if (what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
    alive = receive(c->fd, &c->in);
    if (c->state != FREE && c->in.length) whole = read_answer(c);
  }
  if (whole) {
    end_request(c, 1);
  } else if (!alive && c->state != FREE) {
    c->closes = 1;
    end_request(c, c->state == BODY && !c->chunked && c->left < 0);
  } else if (!alive) {
    shut(c);
  } else {
    return;
  }
  if ((option.mode == CLOSED || option.mode == STREAM) && total.failed < 1000 && wants_more()) send_request(c, 0);
}

static char *read_file(const char *name, size_t *length) {
  FILE *file = fopen(name, "r");
  if (!file) die(name);
  struct buffer content = {0};
  size_t got;
  while ((got = fread(reserve(&content, 65536), 1, 65536, file))) content.length += got;
  fclose(file);
  *length = content.length;
  content.data[content.length] = 0;
  return content.data;
}

static void read_tokens(const char *name) {
  size_t length;
  char *text = read_file(name, &length);
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
    option.tokens = realloc(option.tokens, (option.token_count + 1) * sizeof *option.tokens);
    option.tokens[option.token_count++] = line;
  }
}

static void read_options(int count, char **arguments) {
  int mode = 0;
  while (count > 1 && mode <= IDLE && strcmp(arguments[1], mode_names[mode])) mode++;
  if (count < 2 || mode > IDLE) {
    fprintf(stderr, "load closed|open|stream|abort|idle OPTIONS\n");
    exit(2);
  }
  option.mode = mode;
  optind = 2;
  for (int c; (c = getopt(count, arguments, "p:c:t:n:r:H:b:T:a:e:s:")) > 0;) {
    switch (c) {
      case 'p': option.port = atoi(optarg); break;
      case 'c': option.connections = atoi(optarg); break;
      case 't': option.seconds = atof(optarg); break;
      case 'n': option.requests = atol(optarg); break;
      case 'r': option.rate = atof(optarg); break;
      case 'H': strcat(strcat(option.fields, optarg), "\r\n"); break;
      case 'b': option.body = read_file(optarg, &option.body_length); break;
      case 'T': read_tokens(optarg); break;
      case 'a': option.abort_after = atoi(optarg); break;
      case 'e': option.expected_chunks = atoi(optarg); break;
      case 's': option.stagger = atol(optarg) * MICROSECOND; break;
      default: exit(2);
    }
  }
  if (!option.body) die("load: -b is needed");
  if (option.mode == IDLE) option.requests = option.connections;
}

int main(int count, char **arguments) {
  signal(SIGPIPE, SIG_IGN);
  read_options(count, arguments);
  epoll = epoll_create1(0);
  connection_count = option.mode == OPEN ? 4096 : option.connections;
  connections = calloc(connection_count, sizeof *connections);
  for (int i = 0; i < connection_count; i++) connections[i].fd = -1;
  for (int i = 0; i < connection_count && option.mode != OPEN; i++) dial(&connections[i]);
  begun = now();
  end_of_sending = begun + (nanoseconds)(option.seconds * SECOND);
  nanoseconds give_up = end_of_sending + 60 * SECOND, again;
  while ((again = start_due()) && now() < give_up) {
    static struct epoll_event events[1024];
    int ready = wait_until(epoll, events, 1024, again);
    for (int i = 0; i < ready; i++) react(events[i].data.ptr, events[i].events);
  }
  double seconds = (now() - begun) / 1e9;
  total.lost += in_flight;
  printf("{\"seconds\":%.3f,\"started\":%ld,\"ok\":%ld,\"failed\":%ld,\"lost\":%ld,\"cut_short\":%ld,\"chunks\":%ld,"
         "\"with_usage\":%ld,\"reconnects\":%ld,\"per_second\":%.1f",
         seconds, total.started, total.ok, total.failed, total.lost, total.cut_short, total.chunks, total.with_usage,
         total.reconnects, total.ok / seconds);
  report("latency", &latency);
  report("first_chunk", &first_chunk);
  report("transit", &transit);
  report("gap", &gap);
  printf(",\"statuses\":{");
  for (int i = 0, some = 0; i < 600; i++)
    if (total.statuses[i]) printf("%s\"%d\":%ld", some++ ? "," : "", i, total.statuses[i]);
  printf("}}\n");
}
