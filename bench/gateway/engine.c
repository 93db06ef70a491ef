// A mock of vLLM's OpenAI server that costs next to nothing: one thread, epoll, answers made in advance.
//
//   engine PORT
//
// GET /ctl?chunks=100&interval=20000&first=0&delay=0&together=0   (microseconds)
//   chunks and interval: of a stream; first: until its first chunk; delay: until an answer in one piece;
//   together=1: all streams emit in the same tick, as the steps of an engine make them.
// GET /stats: counters, and when each aborted stream was seen to be aborted; GET /reset: zeroes them.
// Each chunk carries the time at which it left: " ts=<nanoseconds>".
#include "common.h"

enum state { READING, WAITING, STREAMING };

struct connection {
  int fd, waits_for_room;
  enum state state;
  struct buffer in, out;
  int shows_usage, shows_running_usage, shows_token_ids, chunks_sent, chunks;
  nanoseconds due;
  int place;  // in the heap of those that are due; -1: none
  char id[40];
};

static struct {
  int chunks;
  nanoseconds interval, first, delay;
  int together;
} control = {.chunks = 100, .interval = 20000 * MICROSECOND};

enum { MOST_ABORTS = 20000 };
static struct {
  long requests, streams, done, aborted, chunks, connections, active;
  nanoseconds aborts[MOST_ABORTS];
} stats;

static int epoll;
static char whole_answer[4096];
static size_t whole_length;

// ---- who is due: a binary heap

static struct connection **heap;
static int heap_size, heap_room;

static void swap(int a, int b) {
  struct connection *c = heap[a];
  heap[a] = heap[b];
  heap[b] = c;
  heap[a]->place = a;
  heap[b]->place = b;
}

static void rise(int i) {
  for (; i && heap[(i - 1) / 2]->due > heap[i]->due; i = (i - 1) / 2) swap(i, (i - 1) / 2);
}

static void sink(int i) {
  for (;;) {
    int least = i, left = 2 * i + 1, right = left + 1;
    if (left < heap_size && heap[left]->due < heap[least]->due) least = left;
    if (right < heap_size && heap[right]->due < heap[least]->due) least = right;
    if (least == i) return;
    swap(i, least);
    i = least;
  }
}

static void schedule(struct connection *c, nanoseconds due) {
  if (heap_size == heap_room) heap = realloc(heap, (heap_room = heap_room * 2 + 1024) * sizeof *heap);
  c->due = due;
  c->place = heap_size;
  heap[heap_size++] = c;
  rise(c->place);
}

static void unschedule(struct connection *c) {
  int i = c->place;
  if (i < 0) return;
  c->place = -1;
  if (i == --heap_size) return;
  heap[i] = heap[heap_size];
  heap[i]->place = i;
  rise(i);
  sink(heap[i]->place);
}

// ---- answers

static void finish(struct connection *c) {
  if (c->state != READING) {
    if (stats.aborted < MOST_ABORTS) stats.aborts[stats.aborted] = now();
    stats.aborted++;
    stats.active -= c->state == STREAMING;
  }
  unschedule(c);
  close(c->fd);
  free(c->in.data);
  free(c->out.data);
  free(c);
  stats.connections--;
}

static int push(struct connection *c) {
  int more = flush(c->fd, &c->out);
  if (more < 0) return 0;
  if (more != c->waits_for_room) watch(epoll, c->fd, c, c->waits_for_room = more, EPOLL_CTL_MOD);
  return 1;
}

static void add_chunk(struct connection *c, const char *data, int length) {
  char size[16];
  append(&c->out, size, sprintf(size, "%x\r\n", length));
  append(&c->out, data, length);
  append(&c->out, "\r\n", 2);
}

#define EVENT \
  "data: {\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion.chunk\",\"created\":1763798400,\"model\":\"gpt-oss-20b\","
#define USAGE "\"usage\":{\"prompt_tokens\":23,\"total_tokens\":%d,\"completion_tokens\":%d}"
#define PROMPT_TOKEN_IDS \
  "[200006,77944,200008,3575,553,261,10297,29186,13,200007,200006,1428,200008,13225,11,1495,553,481,30,200007,200006," \
  "173781,200005]"

static int emit(struct connection *c) {
  char event[1024], usage[128] = "", ids[16] = "null";
  int first = !c->chunks_sent, last = ++c->chunks_sent == c->chunks;
  if (c->shows_running_usage) sprintf(usage, "," USAGE, 23 + c->chunks_sent, c->chunks_sent);
  if (c->shows_token_ids) sprintf(ids, "[%d]", 10000 + c->chunks_sent);
  int length = sprintf(event,
                       EVENT "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" ts=%016llu\"},\"logprobs\":null,"
                             "\"finish_reason\":%s,\"token_ids\":%s}]%s%s}\n\n",
                       c->id, (unsigned long long)now(), last ? "\"stop\"" : "null", ids, usage,
                       first && c->shows_token_ids ? ",\"prompt_token_ids\":" PROMPT_TOKEN_IDS ",\"prompt_text\":null" : "");
  add_chunk(c, event, length);
  stats.chunks++;
  if (last) {
    if (c->shows_usage)
      add_chunk(c, event, sprintf(event, EVENT "\"choices\":[]," USAGE "}\n\n", c->id, 23 + c->chunks, c->chunks));
    add_chunk(c, "data: [DONE]\n\n", 14);
    append(&c->out, "0\r\n\r\n", 5);
    unschedule(c);
    c->state = READING;
    stats.active--;
    stats.done++;
  }
  return push(c);
}

static void begin_stream(struct connection *c) {
  static uint64_t sequence;
  static const char head[] =
      "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 08:00:00 GMT\r\nserver: uvicorn\r\n"
      "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
  stats.streams++;
  stats.active++;
  sequence++;
  snprintf(c->id, sizeof c->id, "%016llx%016llx", (unsigned long long)(sequence * 0x9E3779B97F4A7C15ull),
           (unsigned long long)(sequence * 0xBF58476D1CE4E5B9ull));
  c->state = STREAMING;
  c->chunks_sent = 0;
  c->chunks = control.chunks;
  append(&c->out, head, sizeof head - 1);
  nanoseconds due = now() + control.first;
  if (control.together && control.interval) due = (due / control.interval + 1) * control.interval;
  schedule(c, due);
}

static void answer_control(struct connection *c, char *head) {
  static char body[MOST_ABORTS * 24 + 1024];
  static const struct {
    const char *name;
    nanoseconds *value;
  } durations[] = {{"interval=", &control.interval}, {"first=", &control.first}, {"delay=", &control.delay}};
  char *found;
  int length;
  if (!strncmp(head, "GET /ctl", 8)) {
    if ((found = strstr(head, "chunks="))) control.chunks = atoi(found + 7);
    if ((found = strstr(head, "together="))) control.together = atoi(found + 9);
    for (int i = 0; i < 3; i++)
      if ((found = strstr(head, durations[i].name)))
        *durations[i].value = atoll(found + strlen(durations[i].name)) * MICROSECOND;
  }
  if (!strncmp(head, "GET /reset", 10)) stats.requests = stats.streams = stats.done = stats.aborted = stats.chunks = 0;
  if (!strncmp(head, "GET /stats", 10)) {
    length = sprintf(body,
                     "{\"requests\":%ld,\"streams\":%ld,\"done\":%ld,\"aborted\":%ld,\"chunks\":%ld,\"active\":%ld,"
                     "\"connections\":%ld,\"aborts\":[",
                     stats.requests, stats.streams, stats.done, stats.aborted, stats.chunks, stats.active,
                     stats.connections);
    for (int i = 0; i < stats.aborted && i < MOST_ABORTS; i++)
      length += sprintf(body + length, "%s%llu", i ? "," : "", (unsigned long long)stats.aborts[i]);
    length += sprintf(body + length, "]}");
  } else if (!strncmp(head, "GET /metrics", 12)) {
    length = sprintf(body, "vllm:num_requests_running %ld.0\nvllm:num_requests_waiting 0.0\n", stats.active);
  } else {
    length = sprintf(body, "{\"status\":\"ok\",\"data\":[{\"id\":\"gpt-oss-20b\",\"object\":\"model\"}]}");
  }
  char fields[128];
  append(&c->out, fields,
         sprintf(fields, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n", length));
  append(&c->out, body, length);
}

static int is_true(const char *body, size_t length, const char *name) {
  const char *at = memmem(body, length, name, strlen(name));
  if (!at) return 0;
  for (at += strlen(name); *at == ' ' || *at == ':' || *at == '"';) at++;
  return !strncmp(at, "true", 4);
}

static void answer(struct connection *c, char *head, const char *body, size_t length) {
  if (!strncmp(head, "GET ", 4)) {
    answer_control(c, head);
    return;
  }
  stats.requests++;
  if (is_true(body, length, "\"stream\"")) {
    c->shows_usage = is_true(body, length, "\"include_usage\"");
    c->shows_running_usage = is_true(body, length, "\"continuous_usage_stats\"");
    c->shows_token_ids = is_true(body, length, "\"return_token_ids\"");
    begin_stream(c);
  } else if (control.delay) {
    c->state = WAITING;
    schedule(c, now() + control.delay);
  } else {
    append(&c->out, whole_answer, whole_length);
  }
}

// Requests have a Content-Length: that is what gateways send to engines, and all that is understood here.
static int serve(struct connection *c) {
  while (c->state == READING && c->in.length) {
    char *end = memmem(c->in.data, c->in.length, "\r\n\r\n", 4);
    if (!end) break;
    size_t head = end - c->in.data + 4, body = 0;
    *end = 0;
    char *field = strcasestr(c->in.data, "\ncontent-length:");
    if (strcasestr(c->in.data, "\ntransfer-encoding:")) {
      fprintf(stderr, "engine: a chunked request\n");
      return 0;
    }
    if (field) body = atol(field + 16);
    if (c->in.length < head + body) {
      *end = '\r';
      break;
    }
    answer(c, c->in.data, c->in.data + head, body);
    drop_front(&c->in, head + body);
  }
  return push(c);
}

static void prepare_whole_answer(void) {
  char text[700] = "", body[2048];
  while (strlen(text) < 560) strcat(text, "The quick brown fox jumps over the lazy dog while the gateway counts. ");
  int length = sprintf(
      body,
      "{\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1763798400,"
      "\"model\":\"gpt-oss-20b\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\","
      "\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,\"tool_calls\":[],"
      "\"reasoning_content\":null},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null,"
      "\"token_ids\":null}],\"service_tier\":null,\"system_fingerprint\":null,\"usage\":{\"prompt_tokens\":23,"
      "\"total_tokens\":151,\"completion_tokens\":128,\"prompt_tokens_details\":null},\"prompt_logprobs\":null,"
      "\"prompt_token_ids\":null,\"kv_transfer_params\":null}",
      text);
  whole_length = sprintf(whole_answer,
                         "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 08:00:00 GMT\r\nserver: uvicorn\r\n"
                         "content-length: %d\r\ncontent-type: application/json\r\n\r\n%s",
                         length, body);
}

static void accept_all(int listener) {
  for (int fd; (fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0;) {
    struct connection *c = calloc(1, sizeof *c);
    no_delay(fd);
    c->fd = fd;
    c->place = -1;
    watch(epoll, fd, c, 0, EPOLL_CTL_ADD);
    stats.connections++;
  }
}

static void serve_due(void) {
  nanoseconds t = now();
  for (int most = heap_size; most && heap_size && heap[0]->due <= t; most--) {
    struct connection *c = heap[0];
    if (c->state == WAITING) {
      unschedule(c);
      c->state = READING;
      append(&c->out, whole_answer, whole_length);
      if (!serve(c)) finish(c);
      continue;
    }
    if (c->out.length) {  // who reads does not keep up: look again soon
      c->due = t + 200 * MICROSECOND;
    } else if (!emit(c)) {
      finish(c);
      continue;
    } else if (c->state == READING) {
      if (!serve(c)) finish(c);
      continue;
    } else {
      c->due += control.interval ? control.interval : 1;
      if (c->due + 50 * control.interval < t) c->due = t;  // hopelessly late: do not try to catch up
    }
    sink(c->place);
  }
}

int main(int count, char **arguments) {
  struct sockaddr_in address = loopback(count > 1 ? atoi(arguments[1]) : 19000);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  signal(SIGPIPE, SIG_IGN);
  prepare_whole_answer();
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) die("listen");
  epoll = epoll_create1(0);
  watch(epoll, listener, NULL, 0, EPOLL_CTL_ADD);
  for (;;) {
    static struct epoll_event events[512];
    int ready = wait_until(epoll, events, 512, heap_size ? heap[0]->due : 0);
    for (int i = 0; i < ready; i++) {
      struct connection *c = events[i].data.ptr;
      if (!c) {
        accept_all(listener);
        continue;
      }
      int alive = 1;
      if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        alive = receive(c->fd, &c->in) && !(events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) && serve(c);
      if (alive && events[i].events & EPOLLOUT) alive = push(c);
      if (!alive) finish(c);
    }
    serve_due();
  }
}
