/* A cheap engine: answers at once, or streams chunks at a fixed pace. It must never be what is
 * measured. Usage: backend PORT INTERVAL_MS CHUNK_TEXT_BYTES [ADDRESSES]
 * `"stream":true` in a body asks for a stream, `"max_tokens":N` for N chunks. Loopback only.
 * With ADDRESSES it is that many engines: it listens on 127.0.1.1 to 127.0.1.250, 127.0.2.1, ... SIGUSR1 takes
 * the first of them down (listener and connections), SIGUSR2 brings it back. */
#include "http.h"
#include <signal.h>

typedef struct Conn {
    int fd;
    Buffer in, out;
    long left;        /* chunks still to send; -1: no stream */
    int64_t due_us;
    bool writable_watched;
    struct Conn *next; /* in the queue of due times: the pace is the same for all, so it is sorted */
    bool queued, closed;
    bool listens, of_first; /* a listener; a connection to the first address */
    struct Conn *before, *after; /* open connections to the first address */
} Conn;

static int poller;
static int64_t interval_us;
static char chunk[8192], last[1024];
static size_t chunk_len, last_len;
static Conn *first, *final, *open_to_first, *first_listener;
static volatile sig_atomic_t signalled;

static const char MODELS[] =
    "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1,\"owned_by\":\"bench\"}]}";
static const char ANSWER[] =
    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"bench\",\"choices\":[{\"index\":0,"
    "\"message\":{\"role\":\"assistant\",\"content\":\"The capital of France is Paris.\"},\"finish_reason\":\"stop\"}],"
    "\"usage\":{\"prompt_tokens\":30,\"total_tokens\":38,\"completion_tokens\":8},\"metrics\":{\"time_to_first_token_ms\":1.5,"
    "\"generation_time_ms\":2.5,\"queue_time_ms\":0.05}}";

static void watch(Conn *c, bool write) {
    struct epoll_event e = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    c->writable_watched = write;
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void drop(Conn *c) {
    if (c->closed) return;
    c->closed = true;
    if (c->of_first && !c->listens) {
        if (c->before) c->before->after = c->after;
        else open_to_first = c->after;
        if (c->after) c->after->before = c->before;
    }
    close(c->fd);
    free(c->in.data);
    free(c->out.data);
    c->in = c->out = (Buffer){0};
    if (!c->queued) free(c);
}

static void flush(Conn *c) {
    while (c->out.len) {
        ssize_t n = send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                if (!c->writable_watched) watch(c, true);
                return;
            }
            drop(c);
            return;
        }
        consume(&c->out, n);
    }
    if (c->writable_watched) watch(c, false);
}

static void enqueue(Conn *c) {
    c->next = NULL;
    c->queued = true;
    if (final) final->next = c;
    else first = c;
    final = c;
}

static void not_modified(Conn *c) {
    static const char head[] = "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n";
    append(&c->out, head, sizeof head - 1);
    flush(c);
}

static void answer(Conn *c, const char *body) {
    char head[256];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"1\"\r\ncontent-length: %zu\r\n\r\n",
                     strlen(body));
    append(&c->out, head, n);
    append(&c->out, body, strlen(body));
    flush(c);
}

static void step(Conn *c) { /* one chunk, or the end of the stream */
    if (c->left > 0) {
        append(&c->out, chunk, chunk_len);
        c->left--;
        c->due_us += interval_us;
        enqueue(c);
    } else {
        append(&c->out, last, last_len);
        c->left = -1;
    }
    flush(c);
}

static void serve(Conn *c) {
    while (c->in.len && c->left < 0) {
        reserve(&c->in, 1);
        c->in.data[c->in.len] = 0;
        char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
        if (!end) return;
        size_t head = end + 4 - c->in.data, length = 0;
        for (char *line = c->in.data; line < end; line = strstr(line, "\r\n") + 2)
            if (!strncasecmp(line, "content-length:", 15)) length = strtoul(line + 15, NULL, 10);
        if (c->in.len < head + length) return;
        char *body = c->in.data + head;
        bool post = !memcmp(c->in.data, "POST", 4);
        bool models = memmem(c->in.data, head, "/v1/models", 10) != NULL;
        if (post && memmem(body, length, "\"stream\":true", 13)) {
            char *asked = memmem(body, length, "\"max_tokens\":", 13);
            c->left = asked ? strtol(asked + 13, NULL, 10) : 16;
            c->due_us = now_us();
            static const char start[] =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
            append(&c->out, start, sizeof start - 1);
            consume(&c->in, head + length);
            step(c);
            return;
        }
        bool known = !post && memmem(c->in.data, head, "if-none-match: \"1\"", 18) != NULL;
        consume(&c->in, head + length);
        if (known) not_modified(c);
        else answer(c, post ? ANSWER : models ? MODELS : "{\"status\":\"ok\",\"model_path\":\"bench\",\"state\":\"idle\"}");
        if (c->closed) return;
    }
}

static Conn *listen_on(uint32_t address, int port) {
    Conn *made = calloc(1, sizeof *made);
    int one = 1;
    made->listens = true;
    made->left = -1;
    made->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(made->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address)};
    if (bind(made->fd, (struct sockaddr *)&at, sizeof at) || listen(made->fd, 4096)) perror("listen"), exit(1);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = made};
    epoll_ctl(poller, EPOLL_CTL_ADD, made->fd, &e);
    return made;
}

static void accept_all(Conn *listener) {
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        nodelay(fd);
        Conn *made = calloc(1, sizeof *made);
        made->fd = fd;
        made->left = -1;
        made->of_first = listener->of_first;
        if (made->of_first) {
            made->after = open_to_first;
            if (open_to_first) open_to_first->before = made;
            open_to_first = made;
        }
        struct epoll_event add = {.events = EPOLLIN, .data.ptr = made};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &add);
    }
}

static void note_signal(int number) { signalled = number; }

static void obey_signal(int port) {
    int number = signalled;
    signalled = 0;
    if (number == SIGUSR1 && first_listener) {
        drop(first_listener);
        first_listener = NULL;
        while (open_to_first) drop(open_to_first);
    } else if (number == SIGUSR2 && !first_listener) {
        first_listener = listen_on(0x7F000101, port);
        first_listener->of_first = true;
    }
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 5)
        return fprintf(stderr, "usage: backend PORT INTERVAL_MS CHUNK_TEXT_BYTES [ADDRESSES]\n"), 2;
    int port = atoi(argv[1]), addresses = argc > 4 ? atoi(argv[4]) : 0;
    raise_file_limit();
    interval_us = atof(argv[2]) * 1000;
    char data[4096], text[2048];
    size_t size = strtoul(argv[3], NULL, 10);
    if (size >= sizeof text) return 2;
    memset(text, 'x', size);
    text[size] = 0;
    int n = snprintf(data, sizeof data,
                     "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\","
                     "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"finish_reason\":null}],"
                     "\"usage\":{\"prompt_tokens\":30,\"total_tokens\":38,\"completion_tokens\":8}}\n\n", text);
    chunk_len = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", n, data);
    n = snprintf(data, sizeof data,
                 "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\","
                 "\"choices\":[],\"usage\":{\"prompt_tokens\":30,\"total_tokens\":94,\"completion_tokens\":64},"
                 "\"metrics\":{\"time_to_first_token_ms\":1.5,\"generation_time_ms\":2.5,\"queue_time_ms\":0.05}}\n\n"
                 "data: [DONE]\n\n");
    last_len = snprintf(last, sizeof last, "%x\r\n%s\r\n0\r\n\r\n", n, data);

    poller = epoll_create1(0);
    struct epoll_event events[512];
    first_listener = listen_on(addresses ? 0x7F000101 : INADDR_LOOPBACK, port);
    first_listener->of_first = true;
    for (int i = 1; i < addresses; i++) listen_on(0x7F000000 + ((1 + i / 250) << 8) + 1 + i % 250, port);
    struct sigaction on_signal = {.sa_handler = note_signal};
    sigaction(SIGUSR1, &on_signal, NULL);
    sigaction(SIGUSR2, &on_signal, NULL);
    for (;;) {
        int wait = -1;
        if (first) {
            int64_t left = first->due_us - now_us();
            wait = left <= 0 ? 0 : (int)((left + 999) / 1000);
        }
        int count = epoll_wait(poller, events, 512, wait);
        for (int i = 0; i < count; i++) {
            Conn *c = events[i].data.ptr;
            if (c->listens) {
                accept_all(c);
                continue;
            }
            if (events[i].events & EPOLLOUT) flush(c);
            if (c->closed) continue;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                reserve(&c->in, 65536);
                ssize_t got = recv(c->fd, c->in.data + c->in.len, 65535, 0);
                if (got <= 0) {
                    if (got == 0 || errno != EAGAIN) drop(c);
                    continue;
                }
                c->in.len += got;
                serve(c);
            }
        }
        if (signalled) obey_signal(port);
        int64_t now = now_us();
        while (first && first->due_us <= now) {
            Conn *c = first;
            first = c->next;
            if (!first) final = NULL;
            c->queued = false;
            if (c->closed) free(c);
            else step(c);  /* may queue it again, behind all others */
        }
    }
}
