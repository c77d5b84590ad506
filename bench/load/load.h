/* What the parts of the load generator share: the slots of a closed loop, and buffered sockets. */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One request in flight; its index is the tag that comes back with the answer. */
struct slot {
    uint8_t *data;
    uint64_t offset;   /* bytes from the start of the disk */
    uint64_t started;  /* ns */
    uint32_t received; /* bytes, of a read */
    bool failed;       /* a part of it */
};

/* A protocol. submit() queues a request; wait() sends what is queued and returns after at least one
   completion, having taken everything that one receive brought. */
struct engine {
    const char *name;
    void (*open)(const char *target);
    bool (*may_submit)(void);
    void (*submit)(unsigned slot);
    void (*wait)(void);
    void (*close)(void);
};

extern const struct engine iscsi_engine, nbd_engine;

/* Set by main before open(), except disk_size, which open() finds out. */
extern struct slot *slots;
extern unsigned depth;
extern uint32_t request_size;
extern bool writing, data_digest, structured_replies;
extern uint64_t disk_size, completions;

void completed(unsigned slot, bool good);
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* wire.c: one connected socket with an input buffer and a queue of output buffers. */
void wire_connect(const char *host, const char *port);
void wire_connect_unix(const char *path);
void wire_close(void);
void wire_write(const void *data, size_t length);       /* at once, not queued */
void wire_read(void *data, size_t length);              /* only while nothing is buffered */
size_t wire_buffered(void);
const uint8_t *wire_next(size_t length);                /* the next bytes; valid until the next call */
void wire_into(uint8_t *data, size_t length);           /* the next bytes, to where they belong */
uint8_t *wire_queue(size_t length);                     /* room for a header in the output queue */
void wire_queue_data(const void *data, size_t length);  /* not copied */
void wire_flush(void);

/* usage.c: CPU seconds, of the server's processes and of everything on the machine (with what a
   hypervisor kept from it). */
void watch_server(int pid); /* with its children; to be called once the connection is there */
double server_cpu(void);
double machine_cpu(void);

uint32_t crc32c(const void *data, size_t length);

#endif
