/* The one load generator: N connections, each with one request under way, for HTTP, Redis (RESP) and NATS alike.
 *
 *   load PROTOCOL PORT CONNECTIONS SECONDS RATE ANSWERS REQUESTS [HELLO]
 *
 * PROTOCOL     http, resp or nats, spoken to 127.0.0.1:PORT.
 * RATE         0: closed loop, each connection sends again once it is answered; a request starts when it is sent.
 *              Else open loop: requests a second, due at even intervals whatever the server does, sent by the first
 *              connection that is free; a request starts when it was due, so waiting in the generator counts too.
 * ANSWERS      how many protocol answers make up one: replies of a pipeline (resp), messages (nats); 1 for http.
 * REQUESTS     file of one or more requests, each after its length in 4 big-endian bytes; sent in turn.
 * HELLO        file sent by each connection before anything is timed.
 *
 * In requests and hello "%CCCCCCCCC" becomes a name of the connection, its own, and "%TTTTTTTTTTTTTTTTTTT" the time the request
 * started, in nanoseconds of CLOCK_MONOTONIC, so that a reader can tell how long a record took to reach it.
 *
 * The first WARM_UP_NS are not counted. A closed loop goes on after SECONDS until each connection has had two answers. Prints one line of JSON; percentiles are exact, in microseconds. An open loop
 * counts what was due and not answered as if answered at the end. An answer that is an error ends the run: exit 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP_NS 300000000L
#define SLOW_NS 200000000L
#define PATIENCE_NS 20000000000L
#define BUFFER (64 * 1024)
#define CONNECTION_MARK "%CCCCCCCCC"
#define NAME_LENGTH 10
#define TIME_MARK "%TTTTTTTTTTTTTTTTTTT"

typedef struct {
    char *bytes;
    size_t length;
    char *time_mark;     /* in bytes, or NULL */
    size_t *connections; /* where in bytes the number of the connection goes */
    size_t connection_count;
} Request;

typedef struct {
    int fd, number;
    char name[24]; /* unlike any of an earlier run, whose late answers must not come here */
    int busy, full;
    int64_t started;
    char *out; /* own copy of the request, where marks are filled in */
    size_t out_length, sent;
    char in[BUFFER];
    size_t have;      /* bytes in `in` not looked at yet */
    size_t skip;      /* bytes to come that are content */
    long left;        /* answers still expected */
    int chunked;
} Connection;

/* Takes what begins at c->in. Returns its bytes, or 0 if there is too little of it yet. */
typedef size_t Parser(Connection *c);

static Parser *parse;
static Request *requests;
static size_t request_count, turn;
static long answers_expected;
static int poller;
static int64_t *samples;
static size_t sample_count, sample_room;

__attribute__((noreturn)) static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void sample(int64_t took) {
    if (sample_count == sample_room) {
        sample_room = sample_room ? sample_room * 2 : 1 << 16;
        if (!(samples = realloc(samples, sample_room * sizeof *samples))) die("out of memory");
    }
    samples[sample_count++] = took;
}

/* -- the three protocols, as far as it takes to see where an answer ends and whether it is an error */

static char *line_end(Connection *c) { return memmem(c->in, c->have, "\r\n", 2); }

static size_t parse_http(Connection *c) {
    if (c->chunked) {
        char *end = line_end(c);
        if (!end) return 0;
        size_t size = strtoul(c->in, NULL, 16);
        c->skip = size + 2;
        if (size == 0) c->left = 0, c->chunked = 0;
        return end + 2 - c->in;
    }
    char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
    if (!end) return 0;
    if (c->in[9] != '2') die("the answer is an error: %.*s", (int)(c->have > 600 ? 600 : c->have), c->in);
    for (char *line = c->in; line < end;) {
        line = (char *)memmem(line, end + 2 - line, "\r\n", 2) + 2;
        if (!strncasecmp(line, "content-length:", 15)) c->skip = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding: chunked", 26)) c->chunked = 1;
    }
    if (!c->chunked) c->left = 0;
    return end + 4 - c->in;
}

static size_t parse_resp(Connection *c) {
    char *end = line_end(c);
    if (!end) return 0;
    long number = strtol(c->in + 1, NULL, 10);
    c->left--;
    switch (c->in[0]) {
    case '-': die("the answer is an error: %.*s", (int)(end - c->in), c->in);
    case '$':
        if (number >= 0) c->skip = number + 2;
        break;
    case '*':
        if (number > 0) c->left += number;
    }
    return end + 2 - c->in;
}

static size_t parse_nats(Connection *c) {
    char *end = line_end(c);
    if (!end) return 0;
    size_t taken = end + 2 - c->in;
    if (!strncmp(c->in, "-ERR", 4)) die("the answer is an error: %.*s", (int)(end - c->in), c->in);
    if (!strncmp(c->in, "PING", 4) && write(c->fd, "PONG\r\n", 6) != 6) die("cannot answer a ping");
    int headers = !strncmp(c->in, "HMSG", 4);
    if (!headers && strncmp(c->in, "MSG", 3)) return taken;
    char *last = end;
    while (last[-1] != ' ') last--;
    size_t size = strtoul(last, NULL, 10);
    if (size < 512) { /* an acknowledgement, or a status: they say whether all is well */
        if (c->have < taken + size + 2) return 0;
        char *content = end + 2;
        if (memmem(content, size, "\"error\"", 7) || (headers && content[8] == ' ' && content[9] != '2'))
            die("the answer is an error: %.*s", (int)size, content);
        taken += size + 2;
    } else {
        c->skip = size + 2;
    }
    c->left--;
    return taken;
}

/* -- connections */

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    unsigned char length[4];
    if (!file) die("cannot open %s", path);
    while (fread(length, 1, 4, file) == 4) {
        requests = realloc(requests, ++request_count * sizeof *requests);
        Request *r = &requests[request_count - 1];
        r->length = (size_t)length[0] << 24 | length[1] << 16 | length[2] << 8 | length[3];
        r->bytes = malloc(r->length);
        if (fread(r->bytes, 1, r->length, file) != r->length) die("%s is cut short", path);
        r->connections = NULL, r->connection_count = 0;
        for (char *at = r->bytes, *end = r->bytes + r->length; (at = memmem(at, end - at, CONNECTION_MARK, NAME_LENGTH)); at += NAME_LENGTH) {
            r->connections = realloc(r->connections, (r->connection_count + 1) * sizeof(size_t));
            r->connections[r->connection_count++] = at - r->bytes;
        }
        r->time_mark = memmem(r->bytes, r->length, TIME_MARK, strlen(TIME_MARK));
    }
    fclose(file);
    if (!request_count) die("%s holds no request", path);
}

static void watch(Connection *c, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void push(Connection *c) {
    ssize_t n = write(c->fd, c->out + c->sent, c->out_length - c->sent);
    if (n < 0 && errno != EAGAIN) die("cannot send: %s", strerror(errno));
    if (n > 0) c->sent += n;
    int full = c->sent < c->out_length; /* the socket took no more for now */
    if (full != c->full) watch(c, full ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
    c->full = full;
}

static void start(Connection *c, int64_t at) {
    Request *r = &requests[turn++ % request_count];
    char digits[24];
    if (r->connection_count || r->time_mark) {
        if (!(c->out = realloc(c->out, r->length))) die("out of memory");
        memcpy(c->out, r->bytes, r->length);
        for (size_t i = 0; i < r->connection_count; i++) memcpy(c->out + r->connections[i], c->name, NAME_LENGTH);
        if (r->time_mark) snprintf(digits, sizeof digits, "%020ld", (long)at),
            memcpy(c->out + (r->time_mark - r->bytes), digits, 20);
    } else {
        c->out = r->bytes;
    }
    c->out_length = r->length;
    c->sent = 0;
    c->started = at;
    c->left = answers_expected;
    c->busy = 1;
    push(c);
}

/* Returns 1 once the answer is whole. */
static int receive(Connection *c) {
    ssize_t n = read(c->fd, c->in + c->have, BUFFER - c->have);
    if (n == 0) die("the server closed connection %d", c->number);
    if (n < 0) {
        if (errno == EAGAIN) return 0;
        die("cannot receive: %s", strerror(errno));
    }
    c->have += n;
    size_t at = 0;
    char *begin = c->in;
    for (;;) {
        size_t skipped = c->skip < c->have ? c->skip : c->have;
        c->skip -= skipped, c->have -= skipped, at += skipped;
        if (c->skip || !c->have) break;
        if (at) memmove(begin, begin + at, c->have), at = 0;
        if (c->busy && c->left == 0 && !c->skip) break;
        size_t taken = parse(c);
        if (!taken) {
            if (c->have == BUFFER) die("an answer begins with more than %d bytes of head", BUFFER);
            break;
        }
        c->have -= taken, at += taken;
    }
    if (at && c->have) memmove(begin, begin + at, c->have);
    return c->busy && c->left == 0 && c->skip == 0;
}

static void greet(Connection *c, const char *path) {
    char hello[4096];
    FILE *file = fopen(path, "rb");
    size_t length = file ? fread(hello, 1, sizeof hello, file) : 0;
    char *mark = length ? memmem(hello, length, CONNECTION_MARK, NAME_LENGTH) : NULL;
    if (!file || !length) die("cannot read %s", path);
    fclose(file);
    if (mark) memcpy(mark, c->name, NAME_LENGTH);
    if (write(c->fd, hello, length) != (ssize_t)length) die("cannot send the hello");
}

static void connect_to(Connection *c, int port, const char *hello) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("cannot connect: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (hello) greet(c, hello);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
}

/* -- the run */

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double share) {
    size_t at = (size_t)(share * sample_count);
    return samples[at < sample_count ? at : sample_count - 1] / 1000.0;
}

static void report(double seconds, size_t answered) {
    if (!sample_count) die("no answer in %.1f seconds", seconds);
    qsort(samples, sample_count, sizeof *samples, by_size);
    printf("{\"answers\":%zu,\"seconds\":%.6f,\"rate\":%.3f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,"
           "\"max_us\":%.1f}\n",
           answered, seconds, answered / seconds, percentile(.5), percentile(.99), percentile(.999), percentile(1));
}

int main(int argc, char **argv) {
    if (argc < 8) die("see the top of load.c for the arguments");
    int port = atoi(argv[2]), count = atoi(argv[3]);
    double seconds = atof(argv[4]), rate = atof(argv[5]);
    parse = !strcmp(argv[1], "http") ? parse_http : !strcmp(argv[1], "resp") ? parse_resp : parse_nats;
    answers_expected = atol(argv[6]);
    read_requests(argv[7]);
    prctl(PR_SET_TIMERSLACK, 1L);
    poller = epoll_create1(0);
    Connection *connections = calloc(count, sizeof *connections), **idle = calloc(count, sizeof *idle);
    struct epoll_event *events = calloc(count, sizeof *events);
    int idle_count = 0;
    for (int i = count - 1; i >= 0; i--) {
        connections[i].number = i;
        snprintf(connections[i].name, sizeof connections[i].name, "%05d%05d", (int)getpid() % 100000, i);
        connect_to(&connections[i], port, argc > 8 ? argv[8] : NULL);
        idle[idle_count++] = &connections[i];
    }
    int64_t begin = nanoseconds(), counted_from = begin + WARM_UP_NS;
    int64_t end = counted_from + (int64_t)(seconds * 1e9), now = begin, due_at = begin;
    size_t due = 0, answered = 0;
    for (;; now = nanoseconds()) {
        while (idle_count && due_at <= now && now < end) {
            start(idle[--idle_count], rate ? due_at : now);
            if (rate) due_at = begin + (int64_t)(++due * (1e9 / rate));
        }
        if (now >= end) {
            if (rate || answered >= 2 * (size_t)count || now > end + PATIENCE_NS) break;
            end = now + SLOW_NS;
        }
        int64_t wait = (rate && idle_count && due_at < end ? due_at : end) - now;
        struct timespec timeout = {.tv_sec = wait / 1000000000L, .tv_nsec = wait % 1000000000L};
        int ready = epoll_pwait2(poller, events, count, &timeout, NULL);
        if (ready < 0 && errno != EINTR) die("epoll_pwait2: %s", strerror(errno));
        now = nanoseconds();
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) push(c);
            if (!(events[i].events & ~EPOLLOUT) || !receive(c)) continue;
            c->busy = 0;
            idle[idle_count++] = c;
            if (now < counted_from || now >= end) continue;
            answered++;
            if (c->started >= counted_from || !rate) sample(now - c->started);
        }
    }
    if (rate) { /* what was due and is not answered */
        for (int i = 0; i < count; i++)
            if (connections[i].busy && connections[i].started >= counted_from) sample(end - connections[i].started);
        for (; due_at < end; due_at = begin + (int64_t)(++due * (1e9 / rate)))
            if (due_at >= counted_from) sample(end - due_at);
    }
    report((end - counted_from) / 1e9, answered);
    return 0;
}
