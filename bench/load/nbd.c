/* An NBD client: fixed newstyle handshake, simple or structured replies.
   Target: HOST:PORT/EXPORT or unix:PATH@EXPORT. */
#include "load.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

enum { CMD_READ, CMD_WRITE, CMD_DISC };
enum { OPT_GO = 7, OPT_STRUCTURED_REPLY = 8, REP_ACK = 1, REP_INFO = 3 };
enum { CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_ERROR = 1 << 15, CHUNK_DONE = 1 };
static const uint64_t OPTION_MAGIC = 0x49484156454F5054;
static const uint32_t REQUEST_MAGIC = 0x25609513, REPLY_MAGIC = 0x67446698,
                      CHUNK_MAGIC = 0x668E33EF;

static uint16_t get16(const uint8_t *at) { uint16_t v; memcpy(&v, at, 2); return be16toh(v); }
static uint32_t get32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return be32toh(v); }
static uint64_t get64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return be64toh(v); }
static void put32(uint8_t *at, uint32_t value) { value = htobe32(value); memcpy(at, &value, 4); }
static void put64(uint8_t *at, uint64_t value) { value = htobe64(value); memcpy(at, &value, 8); }

static const char *connect_to(const char *target)
{
    static char copy[512];
    snprintf(copy, sizeof copy, "%s", target);
    char *export;
    if (!strncmp(copy, "unix:", 5)) {
        if ((export = strchr(copy, '@')))
            *export++ = 0;
        wire_connect_unix(copy + 5);
    } else {
        if ((export = strchr(copy, '/')))
            *export++ = 0;
        char *port = strrchr(copy, ':');
        if (!port)
            die("%s: not HOST:PORT/EXPORT", target);
        *port++ = 0;
        wire_connect(copy, port);
    }
    return export ? export : "";
}

static void ask(uint32_t option, const void *data, uint32_t length)
{
    uint8_t head[16];
    put64(head, OPTION_MAGIC);
    put32(head + 8, option);
    put32(head + 12, length);
    wire_write(head, sizeof head);
    wire_write(data, length);
}

/* Takes what the server says of an option, up to its acknowledgement. */
static void await_acknowledgement(const char *option)
{
    for (;;) {
        uint8_t reply[20], data[4096];
        wire_read(reply, sizeof reply);
        uint32_t type = get32(reply + 12), size = get32(reply + 16);
        if (size > sizeof data)
            die("an option reply of %u bytes", size);
        wire_read(data, size);
        if (type == REP_ACK)
            return;
        if (type & 0x80000000)
            die("%s refused (%#x): %.*s", option, type, (int)size, data);
        if (type == REP_INFO && size >= 12 && get16(data) == 0)
            disk_size = get64(data + 2);
    }
}

static void nbd_open(const char *target)
{
    const char *export = connect_to(target);
    uint32_t length = strlen(export);
    uint8_t hello[18], wanted[4 + 512 + 2] = {0};
    wire_read(hello, sizeof hello);
    if (memcmp(hello, "NBDMAGICIHAVEOPT", 16))
        die("not an NBD server with the newstyle handshake");
    uint8_t flags[4];
    put32(flags, 3); /* fixed newstyle, no zeroes */
    wire_write(flags, sizeof flags);
    if (structured_replies) {
        ask(OPT_STRUCTURED_REPLY, NULL, 0);
        await_acknowledgement("NBD_OPT_STRUCTURED_REPLY");
    }
    put32(wanted, length);
    memcpy(wanted + 4, export, length);
    ask(OPT_GO, wanted, 4 + length + 2);
    await_acknowledgement("NBD_OPT_GO");
}

static bool nbd_may_submit(void)
{
    return true;
}

static void put_request(uint8_t *request, uint32_t command, uint64_t tag, uint64_t offset,
                        uint32_t length)
{
    put32(request, REQUEST_MAGIC);
    put32(request + 4, command);
    put64(request + 8, tag);
    put64(request + 16, offset);
    put32(request + 24, length);
}

static void nbd_submit(unsigned index)
{
    struct slot *slot = &slots[index];
    put_request(wire_queue(28), writing ? CMD_WRITE : CMD_READ, index, slot->offset, request_size);
    if (writing)
        wire_queue_data(slot->data, request_size);
}

static unsigned slot_of(uint64_t tag)
{
    if (tag >= depth)
        die("a reply to nothing: %#llx", (unsigned long long)tag);
    return tag;
}

static void take_simple(void)
{
    const uint8_t *reply = wire_next(12);
    uint32_t error = get32(reply);
    unsigned index = slot_of(get64(reply + 4));
    if (!writing && !error) {
        if (structured_replies)
            die("a simple reply to a read, though structured replies were agreed on");
        wire_into(slots[index].data, request_size);
    }
    completed(index, error == 0);
}

/* Where a chunk's content goes; it must be a part of what was asked for. */
static uint8_t *place_of(struct slot *slot, uint64_t offset, uint32_t length)
{
    if (writing || offset < slot->offset || offset - slot->offset > request_size ||
        length > request_size - (offset - slot->offset))
        die("a chunk of %u bytes at %llu is no part of the request", length,
            (unsigned long long)offset);
    slot->received += length;
    return slot->data + (offset - slot->offset);
}

static void take_chunk(void)
{
    const uint8_t *chunk = wire_next(16);
    uint16_t flags = get16(chunk), type = get16(chunk + 2);
    unsigned index = slot_of(get64(chunk + 4));
    uint32_t length = get32(chunk + 12);
    struct slot *slot = &slots[index];
    if (type == CHUNK_DATA && length > 8) {
        uint64_t offset = get64(wire_next(8));
        wire_into(place_of(slot, offset, length - 8), length - 8);
    } else if (type == CHUNK_HOLE && length == 12) {
        const uint8_t *hole = wire_next(12);
        uint32_t size = get32(hole + 8);
        memset(place_of(slot, get64(hole), size), 0, size);
    } else if (type & CHUNK_ERROR) {
        wire_next(length);
        slot->failed = true;
    } else if (type != CHUNK_NONE || length) {
        die("a chunk of type %u with %u bytes", type, length);
    }
    if (flags & CHUNK_DONE)
        completed(index, !slot->failed && (writing || slot->received == request_size));
}

static void nbd_wait(void)
{
    uint64_t before = completions;
    do {
        wire_flush();
        do {
            uint32_t magic = get32(wire_next(4));
            if (magic == REPLY_MAGIC)
                take_simple();
            else if (magic == CHUNK_MAGIC && structured_replies)
                take_chunk();
            else
                die("not a reply: %#x", magic);
        } while (wire_buffered() >= 16);
    } while (completions == before);
}

static void nbd_close(void)
{
    uint8_t request[28];
    put_request(request, CMD_DISC, 0, 0, 0);
    wire_write(request, sizeof request);
    wire_close();
}

const struct engine nbd_engine = {"nbd", nbd_open, nbd_may_submit, nbd_submit, nbd_wait, nbd_close};
