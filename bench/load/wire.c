/* One connected socket: buffered input, and output that goes out in one call for a whole batch. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { INPUT = 1 << 19, DIRECT = 1 << 16, VECTORS = 4096, HEADERS = 48 * VECTORS };

static int fd = -1;
static uint8_t input[INPUT];
static size_t input_start, input_end;
static struct iovec vectors[VECTORS];
static int vector_count;
static uint8_t headers[HEADERS];
static size_t headers_used;

void wire_connect(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(host, port, &hints, &found))
        die("cannot resolve %s:%s", host, port);
    fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen))
        die("cannot connect to %s:%s: %s", host, port, strerror(errno));
    freeaddrinfo(found);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

void wire_connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (void *)&address, sizeof address))
        die("cannot connect to %s: %s", path, strerror(errno));
}

void wire_close(void)
{
    close(fd);
}

void wire_write(const void *data, size_t length)
{
    const uint8_t *next = data;
    while (length) {
        ssize_t sent = send(fd, next, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            die("send: %s", strerror(errno));
        next += sent;
        length -= sent;
    }
}

static size_t receive(uint8_t *data, size_t length)
{
    ssize_t got;
    do
        got = recv(fd, data, length, 0);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        die("receive: %s", got ? strerror(errno) : "the server closed the connection");
    return got;
}

void wire_read(void *data, size_t length)
{
    for (uint8_t *next = data; length;) {
        size_t got = receive(next, length);
        next += got;
        length -= got;
    }
}

size_t wire_buffered(void)
{
    return input_end - input_start;
}

static void fill(void)
{
    if (input_start == input_end) {
        input_start = input_end = 0;
    } else if (input_start > INPUT / 2) {
        memmove(input, input + input_start, input_end - input_start);
        input_end -= input_start;
        input_start = 0;
    }
    input_end += receive(input + input_end, INPUT - input_end);
}

const uint8_t *wire_next(size_t length)
{
    if (length > INPUT / 2)
        die("the server sent %zu bytes where none were expected", length);
    while (wire_buffered() < length)
        fill();
    const uint8_t *data = input + input_start;
    input_start += length;
    return data;
}

void wire_into(uint8_t *data, size_t length)
{
    for (;;) {
        size_t part = wire_buffered() < length ? wire_buffered() : length;
        memcpy(data, input + input_start, part);
        input_start += part;
        data += part;
        length -= part;
        if (!length)
            return;
        if (length >= DIRECT) {
            wire_read(data, length);
            return;
        }
        fill();
    }
}

uint8_t *wire_queue(size_t length)
{
    if (vector_count >= VECTORS - 2 || headers_used + length > HEADERS)
        wire_flush();
    uint8_t *room = headers + headers_used;
    headers_used += length;
    vectors[vector_count++] = (struct iovec){room, length};
    return room;
}

void wire_queue_data(const void *data, size_t length)
{
    if (length)
        vectors[vector_count++] = (struct iovec){(void *)data, length};
}

void wire_flush(void)
{
    struct iovec *next = vectors;
    while (vector_count) {
        struct msghdr message = {
            .msg_iov = next, .msg_iovlen = vector_count > 1024 ? 1024 : vector_count};
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            die("send: %s", strerror(errno));
        for (; vector_count && (size_t)sent >= next->iov_len; vector_count--)
            sent -= next++->iov_len;
        if (vector_count) {
            next->iov_base = (uint8_t *)next->iov_base + sent;
            next->iov_len -= sent;
        }
    }
    headers_used = 0;
}
