/* An NBD client: fixed newstyle handshake, simple replies.
   Target: HOST:PORT/EXPORT or unix:PATH@EXPORT. */
#include "load.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

enum { CMD_READ, CMD_WRITE, CMD_DISC };
enum { OPT_GO = 7, REP_ACK = 1, REP_INFO = 3 };
static const uint64_t OPTION_MAGIC = 0x49484156454F5054;
static const uint32_t REQUEST_MAGIC = 0x25609513, REPLY_MAGIC = 0x67446698;

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

static void nbd_open(const char *target)
{
    const char *export = connect_to(target);
    uint32_t length = strlen(export);
    uint8_t hello[18], option[22 + 512] = {0};
    wire_read(hello, sizeof hello);
    if (memcmp(hello, "NBDMAGICIHAVEOPT", 16))
        die("not an NBD server with the newstyle handshake");
    put32(option, 3); /* fixed newstyle, no zeroes */
    wire_write(option, 4);
    put64(option, OPTION_MAGIC);
    put32(option + 8, OPT_GO);
    put32(option + 12, 4 + length + 2);
    put32(option + 16, length);
    memcpy(option + 20, export, length);
    memset(option + 20 + length, 0, 2);
    wire_write(option, 22 + length);
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
            die("NBD_OPT_GO refused (%#x): %.*s", type, (int)size, data);
        if (type == REP_INFO && size >= 12 && get16(data) == 0)
            disk_size = get64(data + 2);
    }
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

static void nbd_wait(void)
{
    uint64_t before = completions;
    do {
        wire_flush();
        do {
            const uint8_t *reply = wire_next(16);
            if (get32(reply) != REPLY_MAGIC)
                die("not a simple reply: %#x", get32(reply));
            uint32_t error = get32(reply + 4);
            uint64_t tag = get64(reply + 8);
            if (tag >= depth)
                die("a reply to nothing: %#llx", (unsigned long long)tag);
            if (!writing && !error)
                wire_into(slots[tag].data, request_size);
            completed(tag, error == 0);
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
