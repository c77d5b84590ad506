/* blkload: a closed loop of requests to one disk over one connection, in one thread.

     blkload ENGINE TARGET OPERATION SIZE DEPTH SECONDS
             [pid=N] [ramp=S] [span=BYTES] [verify] [digest] [structured]

   ENGINE     iscsi, to HOST:PORT/IQN/LUN; nbd, to HOST:PORT/EXPORT or unix:PATH@EXPORT
   OPERATION  rr, rw: random reads, writes; sr, sw: sequential; fill: write all of it once
   SIZE       bytes of a request, a multiple of 4096; DEPTH: requests in flight
   pid        the server, for the CPU time of it and its children
   ramp       seconds before the measurement (0.5); span: only the first BYTES of the disk
   verify     reads check the pattern
   digest     iscsi: with CRC32C data digests; structured: nbd: with structured replies

   Each 4 KiB of the disk begin with a word that depends on their address: every write writes it, and
   `verify` checks it (after a fill). Prints one line of JSON; exits with 1 if anything failed. */
#define _GNU_SOURCE
#include "load.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct slot *slots;
unsigned depth;
uint32_t request_size;
bool writing, data_digest, structured_replies;
uint64_t disk_size, completions;

static bool verifying, measuring;
static uint64_t errors, mismatches, span;
static unsigned *free_slots, free_count;

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("blkload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t nanoseconds(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now))
        return 0;
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* -- latencies: a histogram with 32 steps for each power of two nanoseconds -------------------- */

enum { BUCKETS = 2048 };
static uint64_t histogram[BUCKETS], slowest;

static int bucket_of(uint64_t ns)
{
    if (ns < 32)
        return ns;
    int exponent = 63 - __builtin_clzll(ns);
    int bucket = (exponent - 4) * 32 + ((ns >> (exponent - 5)) & 31);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static double bucket_ns(int bucket)
{
    return bucket < 32 ? bucket : (double)((uint64_t)(32 + bucket % 32) << (bucket / 32 - 1));
}

static double percentile_us(double fraction)
{
    uint64_t total = 0, sum = 0;
    for (int i = 0; i < BUCKETS; i++)
        total += histogram[i];
    for (int i = 0; i < BUCKETS; i++)
        if ((sum += histogram[i]) >= fraction * total)
            return bucket_ns(i) / 1000;
    return 0;
}

/* -- requests ---------------------------------------------------------------------------------- */

static uint64_t random_state, sequence;

static uint64_t random_number(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint64_t pattern(uint64_t offset)
{
    return (offset / 4096 + 1) * 0x9E3779B97F4A7C15ull;
}

static unsigned next_request(bool at_random)
{
    unsigned index = free_slots[--free_count];
    struct slot *slot = &slots[index];
    uint64_t places = span / request_size;
    slot->offset = (at_random ? random_number() : sequence++) % places * request_size;
    slot->received = 0;
    slot->failed = false;
    slot->started = nanoseconds(CLOCK_MONOTONIC);
    if (writing)
        for (uint32_t at = 0; at < request_size; at += 4096) {
            uint64_t word = pattern(slot->offset + at);
            memcpy(slot->data + at, &word, sizeof word);
        }
    return index;
}

void completed(unsigned index, bool good)
{
    struct slot *slot = &slots[index];
    if (!good) {
        if (++errors > 1000)
            die("more than 1000 requests failed");
    } else if (verifying && !writing) {
        for (uint32_t at = 0; at < request_size; at += 4096) {
            uint64_t word;
            memcpy(&word, slot->data + at, sizeof word);
            mismatches += word != pattern(slot->offset + at);
        }
    }
    if (measuring) {
        uint64_t took = nanoseconds(CLOCK_MONOTONIC) - slot->started;
        histogram[bucket_of(took)]++;
        if (took > slowest)
            slowest = took;
    }
    completions++;
    free_slots[free_count++] = index;
}

static void make_slots(void)
{
    slots = calloc(depth, sizeof *slots);
    free_slots = calloc(depth, sizeof *free_slots);
    for (unsigned index = depth; index--;) {
        uint64_t *data = mmap(NULL, request_size, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (data == MAP_FAILED)
            die("no memory");
        for (uint32_t word = 0; word < request_size / 8; word++)
            data[word] = random_number();
        slots[index].data = (uint8_t *)data;
        free_slots[free_count++] = index;
    }
}

/* -- accounting -------------------------------------------------------------------------------- */

struct usage {
    uint64_t at, operations;
    double server, client, machine; /* CPU seconds */
};

static double seconds_of(struct timeval time)
{
    return time.tv_sec + time.tv_usec / 1e6;
}

static struct usage usage_now(void)
{
    struct rusage self;
    getrusage(RUSAGE_SELF, &self);
    return (struct usage){
        .at = nanoseconds(CLOCK_MONOTONIC),
        .operations = completions,
        .server = server_cpu(),
        .client = seconds_of(self.ru_utime) + seconds_of(self.ru_stime),
        .machine = machine_cpu(),
    };
}

static void report(struct usage from, struct usage to)
{
    double seconds = (to.at - from.at) / 1e9;
    double server = to.server - from.server, client = to.client - from.client;
    double others = to.machine - from.machine - server - client;
    uint64_t operations = to.operations - from.operations;
    printf("{\"seconds\": %.4f, \"operations\": %llu, \"iops\": %.1f, \"mib_s\": %.2f, "
           "\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.1f, "
           "\"server_cpu_s\": %.4f, \"client_cpu_s\": %.4f, \"other_cpu_s\": %.2f, "
           "\"errors\": %llu, \"mismatches\": %llu}\n",
           seconds, (unsigned long long)operations, operations / seconds,
           operations / seconds * request_size / 1048576, percentile_us(.5), percentile_us(.99),
           percentile_us(.999), slowest / 1e3, server, client, others > 0 ? others : 0,
           (unsigned long long)errors, (unsigned long long)mismatches);
}

static const struct engine *engine_named(const char *name)
{
    if (!strcmp(name, iscsi_engine.name))
        return &iscsi_engine;
    if (!strcmp(name, nbd_engine.name))
        return &nbd_engine;
    die("%s: the engines are iscsi and nbd", name);
}

static void check_operation(const char *name)
{
    static const char *const names[] = {"rr", "rw", "sr", "sw", "fill"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i]))
            return;
    die("%s: the operations are rr, rw, sr, sw and fill", name);
}

int main(int count, char **arguments)
{
    if (count < 7)
        die("usage: ENGINE TARGET OPERATION SIZE DEPTH SECONDS"
            " [pid=N] [ramp=S] [span=BYTES] [verify] [digest] [structured]");
    const struct engine *engine = engine_named(arguments[1]);
    const char *operation = arguments[3];
    request_size = strtoul(arguments[4], NULL, 0);
    depth = strtoul(arguments[5], NULL, 0);
    double seconds = atof(arguments[6]), ramp = 0.5;
    int pid = 0;
    for (int i = 7; i < count; i++) {
        const char *word = arguments[i];
        if (!strncmp(word, "pid=", 4))
            pid = atoi(word + 4);
        else if (!strncmp(word, "ramp=", 5))
            ramp = atof(word + 5);
        else if (!strncmp(word, "span=", 5))
            span = strtoull(word + 5, NULL, 0);
        else if (!strcmp(word, "verify"))
            verifying = true;
        else if (!strcmp(word, "digest"))
            data_digest = true;
        else if (!strcmp(word, "structured"))
            structured_replies = true;
        else
            die("%s: no such option", word);
    }
    if (!request_size || request_size % 4096)
        die("SIZE must be a multiple of 4096");
    if (!depth || depth > 1024)
        die("DEPTH must be from 1 to 1024");
    check_operation(operation);
    bool filling = !strcmp(operation, "fill"), at_random = operation[0] == 'r';
    writing = filling || operation[1] == 'w';
    random_state = (nanoseconds(CLOCK_REALTIME) ^ (uint64_t)getpid() << 40) | 1;

    engine->open(arguments[2]);
    if (!span || span > disk_size)
        span = disk_size;
    span -= span % request_size;
    if (!span)
        die("the disk is smaller than a request");
    make_slots();
    if (pid)
        watch_server(pid);
    uint64_t total = filling ? span / request_size : UINT64_MAX, issued = 0;
    uint64_t started = nanoseconds(CLOCK_MONOTONIC);
    struct usage from = usage_now();
    measuring = filling;
    while (completions < total) {
        for (; free_count && issued < total && engine->may_submit(); issued++)
            engine->submit(next_request(at_random));
        engine->wait();
        uint64_t now = nanoseconds(CLOCK_MONOTONIC);
        if (!measuring && now - started >= ramp * 1e9) {
            measuring = true;
            from = usage_now();
        } else if (!filling && measuring && now - from.at >= seconds * 1e9) {
            break;
        }
    }
    struct usage to = usage_now();
    measuring = false;
    while (free_count < depth)
        engine->wait();
    engine->close();
    report(from, to);
    return errors || mismatches;
}
