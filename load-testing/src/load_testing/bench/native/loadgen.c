/* The benchmark's load: one thread, epoll, answers checked whole. Loopback only.
 *
 *   loadgen PORT closed  CONNECTIONS SECONDS BODY_BYTES [HEADER]   as many requests as come back
 *   loadgen PORT open    PER_SECOND  SECONDS CHUNKS     [HEADER]   streams at fixed due times, Poisson gaps
 *   loadgen PORT streams STREAMS     CHUNKS  ROUNDS     [HEADER]   that many streams at once
 *
 * A HEADER's `####` becomes another number in every request, 0000 to 9999 over and over.
 * Prints one JSON line. An answer counts only when it is 200 and whole (a stream: with [DONE] and the
 * terminating chunk). `late_ratio` is the share of open-loop sends over 1 ms behind their due time. */
#include "http.h"
#include <math.h>

enum { IDLE, HEAD, BODY };

typedef struct {
    int fd, state;
    size_t sent;
    Buffer in;
    bool chunked, stream, done_seen, first_seen;
    long left;          /* bytes of a sized body, or of the current chunk with its CRLF; -1: chunk line next */
    bool last_chunk;
    int status;
    int64_t due_us, previous_us;
} Conn;

typedef struct {
    double *v;
    size_t n, cap;
} Samples;

static int poller, port;
static Buffer request;
static char *numbered; /* the digits in the request's header that change, if any */
static unsigned numbers;
static Conn **idle_conns;
static size_t idle_count, idle_cap;
static long ok, failed, chunks, connected, active;
static Samples latency, ttft, gaps;

static void sample(Samples *s, double v) {
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 65536;
        s->v = realloc(s->v, s->cap * sizeof(double));
    }
    s->v[s->n++] = v;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(Samples *s, double q) { return s->n ? s->v[(size_t)(q * (s->n - 1))] : -1; }

static void report(const char *name, Samples *s) {
    qsort(s->v, s->n, sizeof(double), by_value);
    printf(",\"%s_ms\":{\"p50\":%.4f,\"p90\":%.4f,\"p99\":%.4f,\"max\":%.4f,\"n\":%zu}", name, quantile(s, .5),
           quantile(s, .9), quantile(s, .99), quantile(s, 1), s->n);
}

static void dial(Conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) {
        perror("connect");
        exit(1);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    nodelay(c->fd);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
    c->state = IDLE;
    c->in.len = 0;
    connected++;
}

static Conn *fresh(void) {
    Conn *c = calloc(1, sizeof *c);
    dial(c);
    return c;
}

static void put_idle(Conn *c) {
    if (idle_count == idle_cap) {
        idle_cap = idle_cap ? idle_cap * 2 : 1024;
        idle_conns = realloc(idle_conns, idle_cap * sizeof *idle_conns);
    }
    idle_conns[idle_count++] = c;
}

static void begin(Conn *c, int64_t due) {
    c->state = HEAD;
    c->chunked = c->stream = c->done_seen = c->first_seen = c->last_chunk = false;
    c->status = 0;
    c->due_us = due;
    c->previous_us = 0;
    active++;
    if (numbered) {
        char digits[8];
        snprintf(digits, sizeof digits, "%04u", numbers++ % 10000);
        memcpy(numbered, digits, 4);
    }
    size_t at = 0;
    while (at < request.len) { /* requests fit the socket buffer; a full one is waited for, not dropped */
        ssize_t n = send(c->fd, request.data + at, request.len - at, MSG_NOSIGNAL);
        if (n > 0) at += n;
        else if (errno != EAGAIN) break; /* the read side finds out */
    }
}

static bool finish(Conn *c, bool good) { /* true: the connection may be used again */
    active--;
    c->state = IDLE;
    if (good) ok++;
    else failed++;
    if (!good) {
        close(c->fd);
        dial(c);
    }
    return true;
}

static void body_bytes(Conn *c, const char *data, size_t len) {
    int64_t now = now_us();
    if (!c->first_seen) {
        c->first_seen = true;
        sample(&ttft, (now - c->due_us) / 1000.0);
    }
    if (c->stream) {
        chunks++;
        if (c->previous_us) sample(&gaps, (now - c->previous_us) / 1000.0);
        c->previous_us = now;
        if (memmem(data, len, "data: [DONE]", 12)) c->done_seen = true;
    }
}

/* Returns 1 when the answer is whole, 0 when more is needed, -1 when it is wrong. */
static int take(Conn *c) {
    if (c->state == HEAD) {
        char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
        if (!end) return 0;
        *end = 0;
        c->status = c->in.len > 12 ? atoi(c->in.data + 9) : 0;
        c->left = 0;
        for (char *line = strstr(c->in.data, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
            if (!strncasecmp(line + 2, "content-length:", 15)) c->left = strtol(line + 17, NULL, 10);
            if (!strncasecmp(line + 2, "transfer-encoding: chunked", 26)) c->chunked = true;
            if (!strncasecmp(line + 2, "content-type: text/event-stream", 31)) c->stream = true;
        }
        consume(&c->in, end + 4 - c->in.data);
        c->state = BODY;
        if (c->chunked) c->left = -1;
    }
    if (!c->chunked) {
        if (c->in.len && !c->first_seen) body_bytes(c, c->in.data, c->in.len);
        if ((long)c->in.len < c->left) return 0;
        consume(&c->in, c->left);
        return c->status == 200 ? 1 : -1;
    }
    for (;;) {
        if (c->left < 0) {
            char *line = memmem(c->in.data, c->in.len, "\r\n", 2);
            if (!line) return 0;
            long size = strtol(c->in.data, NULL, 16);
            consume(&c->in, line + 2 - c->in.data);
            c->last_chunk = size == 0;
            c->left = size + 2;
        }
        if ((long)c->in.len < c->left) return 0;
        if (!c->last_chunk) body_bytes(c, c->in.data, c->left - 2);
        consume(&c->in, c->left);
        c->left = -1;
        if (c->last_chunk) return c->status == 200 && (!c->stream || c->done_seen) ? 1 : -1;
    }
}

static bool readable(Conn *c) { /* true when an answer ended */
    reserve(&c->in, 65537);
    ssize_t n = recv(c->fd, c->in.data + c->in.len, 65536, 0);
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN) return false;
        if (c->state != IDLE) return finish(c, false);
        for (size_t i = 0; i < idle_count; i++)
            if (idle_conns[i] == c) idle_conns[i] = idle_conns[--idle_count];
        close(c->fd);
        free(c->in.data);
        free(c);
        return false;
    }
    if (c->state == IDLE) return false;
    c->in.len += n;
    int result = take(c);
    return result ? finish(c, result > 0) : false;
}

static void compose(const char *header, bool stream, long chunk_count, size_t body_bytes_wanted) {
    static char filler[1 << 20];
    memset(filler, 'a', sizeof filler);
    for (size_t i = 7; i < sizeof filler; i += 8) filler[i] = ' ';
    Buffer body = {0};
    char piece[512];
    int n = snprintf(piece, sizeof piece,
                     "{\"model\":\"bench\",\"max_tokens\":%ld,\"temperature\":0.7,%s\"messages\":[{\"role\":\"user\",\"content\":\"",
                     chunk_count, stream ? "\"stream\":true,\"stream_options\":{\"include_usage\":true}," : "");
    append(&body, piece, n);
    size_t fill = body_bytes_wanted > body.len + 4 ? body_bytes_wanted - body.len - 4 : 1;
    if (fill > sizeof filler) fill = sizeof filler;
    append(&body, filler, fill);
    append(&body, "\"}]}", 4);
    n = snprintf(piece, sizeof piece,
                 "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
                 "accept: */*\r\nuser-agent: bench\r\n%s%scontent-length: %zu\r\n\r\n",
                 port, header, *header ? "\r\n" : "", body.len);
    append(&request, piece, n);
    append(&request, body.data, body.len);
    if (strstr(header, "####")) numbered = memmem(request.data, n, "####", 4);
}

int main(int argc, char **argv) {
    if (argc < 6) return fprintf(stderr, "usage: see the first lines of loadgen.c\n"), 2;
    raise_file_limit();
    port = atoi(argv[1]);
    const char *mode = argv[2], *header = argc > 6 ? argv[6] : "";
    double a = atof(argv[3]), b = atof(argv[4]);
    long c3 = atol(argv[5]);
    poller = epoll_create1(0);
    struct epoll_event events[1024];
    int64_t began = now_us();
    long offered = 0, late = 0, rounds_left = 0;
    bool closed = !strcmp(mode, "closed"), open = !strcmp(mode, "open");
    compose(header, !closed, closed ? 16 : open ? c3 : (long)b, closed ? (size_t)c3 : 1024);
    double gap_us = 0;
    int64_t due = began, stop;
    srand48(42);
    if (closed) {
        stop = began + (int64_t)(b * 1e6);
        for (long i = 0; i < (long)a; i++) begin(fresh(), now_us());
    } else if (open) {
        stop = began + (int64_t)(b * 1e6);
        gap_us = 1e6 / a;
        for (int i = 0; i < 32; i++) put_idle(fresh());
    } else {
        stop = INT64_MAX;
        rounds_left = c3 * (long)a;
        for (long i = 0; i < (long)a; i++) put_idle(fresh());
        began = now_us();
        for (long i = 0; i < (long)a; i++) begin(idle_conns[i], now_us()), rounds_left--;
        idle_count = 0;
    }
    int64_t hard_stop = began + 120 * 1000000LL;
    for (;;) {
        int64_t now = now_us();
        if (now > hard_stop) break;
        if (open) {
            while (due <= now && due < stop) {
                Conn *c = idle_count ? idle_conns[--idle_count] : fresh();
                int64_t sending = now_us();
                offered++;
                if (sending - due > 1000) late++;
                begin(c, due);
                due += (int64_t)(-log(1 - drand48()) * gap_us) + 1;
            }
            if (due >= stop && !active) break;
        } else if (closed ? now >= stop : !active) break;
        /* Epoll counts in milliseconds: close to a due time it is polled, so that no send is late. */
        int wait = 100;
        if (open && due < stop) wait = due - now > 2000 ? (int)((due - now) / 1000) - 1 : 0;
        if (closed && stop - now < 100000) wait = (int)((stop - now) / 1000) + 1;
        int count = epoll_wait(poller, events, 1024, wait);
        for (int i = 0; i < count; i++) {
            Conn *c = events[i].data.ptr;
            int64_t started = c->due_us;
            if (!readable(c)) continue;
            sample(&latency, (now_us() - started) / 1000.0);
            if (closed) begin(c, now_us());
            else if (open) put_idle(c);
            else if (rounds_left > 0) begin(c, now_us()), rounds_left--;
        }
    }
    double seconds = (now_us() - began) / 1e6;
    long unfinished = closed ? 0 : active;
    printf("{\"seconds\":%.4f,\"ok\":%ld,\"failed\":%ld,\"per_second\":%.1f,\"chunks\":%ld,\"offered\":%ld,\"late_ratio\":%.5f,"
           "\"connections\":%ld", seconds, ok, failed + unfinished, ok / seconds, chunks, offered,
           offered ? (double)late / offered : 0.0, connected);
    report("latency", &latency);
    report("ttft", &ttft);
    report("gap", &gaps);
    printf("}\n");
    return 0;
}
