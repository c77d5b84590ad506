/* A cheap iSCSI initiator (RFC 7143), so that the server and not the client is what is measured.
   Target: HOST:PORT/IQN/LUN. One connection, no authentication, error recovery level 0. */
#include "load.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NOP_OUT = 0x00, COMMAND = 0x01, LOGIN = 0x03, DATA_OUT = 0x05, LOGOUT = 0x06 };
enum { NOP_IN = 0x20, RESPONSE = 0x21, LOGIN_RESPONSE = 0x23, DATA_IN = 0x25, LOGOUT_RESPONSE = 0x26,
       R2T = 0x31 };
enum { IMMEDIATE = 0x40, FINAL = 0x80, READ = 0x40, WRITE = 0x20, SIMPLE = 0x01 };
enum { FIRST_TAG = 0x1000 }; /* the tag of slot 0; commands before the load have smaller ones */
static const uint32_t NO_TAG = 0xffffffff;

static uint32_t cmd_sn = 1, exp_stat_sn, max_cmd_sn = 1, next_tag = 1;
static uint32_t block_length = 512;
static int lun;
static char target_name[256];
/* As negotiated; the defaults of RFC 7143 until then. */
static uint32_t max_segment = 8192, first_burst = 65536;
static bool immediate_data = true, initial_r2t = true, digest_agreed;

static uint32_t get24(const uint8_t *at) { return at[0] << 16 | at[1] << 8 | at[2]; }
static uint32_t get32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return be32toh(v); }
static uint64_t get64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return be64toh(v); }
static void put32(uint8_t *at, uint32_t value) { value = htobe32(value); memcpy(at, &value, 4); }
static uint32_t padded(uint32_t length) { return (length + 3) & ~3u; }

static void put24(uint8_t *at, uint32_t value)
{
    at[0] = value >> 16;
    at[1] = value >> 8;
    at[2] = value;
}

static void start_header(uint8_t *header, uint8_t opcode, uint8_t flags, uint32_t tag)
{
    memset(header, 0, 48);
    header[0] = opcode;
    header[1] = flags;
    header[9] = lun;
    put32(header + 16, tag);
    put32(header + 28, exp_stat_sn);
}

/* -- before the load: login, and commands one at a time --------------------------------------- */

static void take_answers(const char *text, const char *end)
{
    for (; text < end && *text; text += strlen(text) + 1) {
        const char *value = strchr(text, '=');
        if (!value)
            return;
        size_t length = value++ - text;
#define KEY(name) (length == sizeof(name) - 1 && !memcmp(text, name, length))
        if (KEY("MaxRecvDataSegmentLength"))
            max_segment = atoi(value);
        else if (KEY("FirstBurstLength"))
            first_burst = atoi(value);
        else if (KEY("InitialR2T"))
            initial_r2t = *value == 'Y';
        else if (KEY("ImmediateData"))
            immediate_data = *value == 'Y';
        else if (KEY("DataDigest"))
            digest_agreed = !strcmp(value, "CRC32C");
#undef KEY
    }
}

static void login(int stage, int next_stage, const char *keys, size_t length)
{
    for (;;) {
        uint8_t header[48], padding[4] = {0};
        start_header(header, LOGIN | IMMEDIATE, FINAL | stage << 2 | next_stage, 0);
        put24(header + 5, length);
        memset(header + 8, 0, 8);
        header[8] = 0x80; /* ISID type "random"; LUN is no field of a login */
        put24(header + 9, getpid());
        put32(header + 24, cmd_sn);
        wire_write(header, 48);
        wire_write(keys, length);
        wire_write(padding, padded(length) - length);
        wire_read(header, 48);
        uint32_t answered = get24(header + 5);
        char *answers = calloc(1, answered + 8);
        wire_read(answers, padded(answered));
        if ((header[0] & 0x3f) != LOGIN_RESPONSE)
            die("login: answered with opcode %#x", header[0]);
        if (header[36])
            die("login refused: status %02x%02x", header[36], header[37]);
        take_answers(answers, answers + answered);
        free(answers);
        exp_stat_sn = get32(header + 24) + 1;
        max_cmd_sn = get32(header + 32);
        if (header[1] & FINAL)
            return;
        length = 0; /* the target has more to say */
    }
}

/* The status of a command that returns at most `room` bytes. */
static int run(const uint8_t *cdb, size_t cdb_length, uint8_t *data, uint32_t room)
{
    uint8_t header[48];
    start_header(header, COMMAND, FINAL | SIMPLE | (room ? READ : 0), next_tag++);
    put32(header + 20, room);
    put32(header + 24, cmd_sn++);
    memcpy(header + 32, cdb, cdb_length);
    wire_write(header, 48);
    for (;;) {
        wire_read(header, 48);
        uint32_t length = get24(header + 5), offset = get32(header + 40);
        uint8_t *segment = malloc(padded(length) + 4);
        wire_read(segment, padded(length) + (digest_agreed && length ? 4 : 0));
        int opcode = header[0] & 0x3f;
        max_cmd_sn = get32(header + 32);
        if (opcode == DATA_IN && (uint64_t)offset + length <= room)
            memcpy(data + offset, segment, length);
        free(segment);
        if (opcode == RESPONSE || (opcode == DATA_IN && header[1] & 1)) {
            exp_stat_sn = get32(header + 24) + 1;
            return header[3];
        }
    }
}

static void parse_target(const char *target, char *copy, size_t room)
{
    snprintf(copy, room, "%s", target);
    char *name = strchr(copy, '/'), *number = name ? strrchr(name + 1, '/') : NULL;
    if (!number)
        die("%s: not HOST:PORT/IQN/LUN", target);
    *name++ = *number++ = 0;
    snprintf(target_name, sizeof target_name, "%s", name);
    lun = atoi(number);
    char *port = strrchr(copy, ':');
    if (!port)
        die("%s: not HOST:PORT/IQN/LUN", target);
    *port++ = 0;
    wire_connect(copy, port);
}

static void iscsi_open(const char *target)
{
    char copy[512], keys[512];
    parse_target(target, copy, sizeof copy);
    int length = snprintf(keys, sizeof keys,
                          "InitiatorName=iqn.2026-11.io.userdisk:load%cTargetName=%s%c"
                          "SessionType=Normal%cAuthMethod=None%c",
                          0, target_name, 0, 0, 0);
    login(0, 1, keys, length);
    length = snprintf(keys, sizeof keys,
                      "HeaderDigest=None%cDataDigest=%s%cInitialR2T=No%cImmediateData=Yes%c"
                      "MaxRecvDataSegmentLength=1048576%cMaxBurstLength=1048576%c"
                      "FirstBurstLength=262144%cMaxOutstandingR2T=1%cMaxConnections=1%c"
                      "ErrorRecoveryLevel=0%cDataPDUInOrder=Yes%cDataSequenceInOrder=Yes%c"
                      "DefaultTime2Wait=2%cDefaultTime2Retain=0%c",
                      0, data_digest ? "CRC32C" : "None", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    login(1, 3, keys, length);
    if (data_digest && !digest_agreed)
        die("the target has no data digests");

    static const uint8_t test_unit_ready[6] = {0};
    for (int tries = 0; run(test_unit_ready, 6, NULL, 0);) /* unit attentions come first */
        if (++tries == 10)
            die("TEST UNIT READY is never good");
    static const uint8_t read_capacity_16[16] = {0x9e, 0x10, [13] = 32};
    uint8_t capacity[32];
    if (run(read_capacity_16, 16, capacity, sizeof capacity))
        die("READ CAPACITY (16) failed");
    block_length = get32(capacity + 8);
    if (!block_length)
        die("READ CAPACITY (16) returned nothing");
    uint64_t blocks = get64(capacity) + 1; /* of which READ (10) and WRITE (10) reach the first */
    disk_size = (blocks < 1ull << 32 ? blocks : 1ull << 32) * block_length;
}

/* -- the load --------------------------------------------------------------------------------- */

static bool iscsi_may_submit(void)
{
    return (int32_t)(max_cmd_sn - cmd_sn) >= 0;
}

static void queue_segment(const uint8_t *data, uint32_t length)
{
    wire_queue_data(data, length);
    if (digest_agreed && length) {
        uint32_t digest = htole32(crc32c(data, length)); /* requests are multiples of four bytes */
        memcpy(wire_queue(4), &digest, 4);
    }
}

static void queue_data_out(unsigned index, uint32_t transfer_tag, uint32_t offset, uint32_t length)
{
    for (uint32_t data_sn = 0; length; data_sn++) {
        uint32_t part = length < max_segment ? length : max_segment;
        uint8_t *header = wire_queue(48);
        start_header(header, DATA_OUT, part == length ? FINAL : 0, FIRST_TAG + index);
        put24(header + 5, part);
        put32(header + 20, transfer_tag);
        put32(header + 36, data_sn);
        put32(header + 40, offset);
        queue_segment(slots[index].data + offset, part);
        offset += part;
        length -= part;
    }
}

static void iscsi_submit(unsigned index)
{
    struct slot *slot = &slots[index];
    uint32_t immediate = 0, unsolicited = 0;
    if (writing) {
        uint32_t burst = request_size < first_burst ? request_size : first_burst;
        if (immediate_data)
            immediate = burst < max_segment ? burst : max_segment;
        if (!initial_r2t)
            unsolicited = burst - immediate;
    }
    uint8_t *header = wire_queue(48);
    uint8_t flags = SIMPLE | (writing ? WRITE : READ) | (unsolicited ? 0 : FINAL);
    start_header(header, COMMAND, flags, FIRST_TAG + index);
    put24(header + 5, immediate);
    put32(header + 20, request_size);
    put32(header + 24, cmd_sn++);
    uint32_t blocks = request_size / block_length;
    header[32] = writing ? 0x2a : 0x28; /* WRITE (10), READ (10) */
    put32(header + 34, slot->offset / block_length);
    header[39] = blocks >> 8;
    header[40] = blocks;
    queue_segment(slot->data, immediate);
    queue_data_out(index, NO_TAG, immediate, unsolicited);
}

static unsigned slot_of(uint32_t tag)
{
    if (tag - FIRST_TAG >= depth)
        die("a PDU for the unknown task %#x", tag);
    return tag - FIRST_TAG;
}

static void skip_segment(uint32_t length)
{
    if (length)
        wire_next(padded(length) + (digest_agreed ? 4 : 0));
}

static void take_data_in(const uint8_t *header)
{
    unsigned index = slot_of(get32(header + 16));
    struct slot *slot = &slots[index];
    uint32_t length = get24(header + 5), offset = get32(header + 40);
    if ((uint64_t)offset + length > request_size)
        die("more data than was asked for");
    wire_into(slot->data + offset, length);
    if (padded(length) > length)
        wire_next(padded(length) - length);
    if (digest_agreed && length) {
        uint32_t digest;
        memcpy(&digest, wire_next(4), 4);
        if (le32toh(digest) != crc32c(slot->data + offset, length))
            die("a wrong data digest");
    }
    slot->received += length;
    if (header[1] & 1) { /* this PDU carries the status too */
        exp_stat_sn = get32(header + 24) + 1;
        completed(index, header[3] == 0 && slot->received == request_size);
    }
}

static void take_pdu(void)
{
    uint8_t header[48];
    memcpy(header, wire_next(48), 48);
    uint32_t length = get24(header + 5), tag = get32(header + 16), window = get32(header + 32);
    if ((int32_t)(window - max_cmd_sn) > 0)
        max_cmd_sn = window;
    switch (header[0] & 0x3f) {
    case DATA_IN:
        take_data_in(header);
        break;
    case RESPONSE:
        skip_segment(length);
        exp_stat_sn = get32(header + 24) + 1;
        unsigned index = slot_of(tag);
        bool complete = writing || slots[index].received == request_size;
        completed(index, header[2] == 0 && header[3] == 0 && complete);
        break;
    case R2T:
        queue_data_out(slot_of(tag), get32(header + 20), get32(header + 40), get32(header + 44));
        break;
    case NOP_IN:
        skip_segment(length);
        if (get32(header + 20) != NO_TAG) {
            uint8_t *answer = wire_queue(48);
            start_header(answer, NOP_OUT | IMMEDIATE, FINAL, NO_TAG);
            memcpy(answer + 8, header + 8, 8);
            memcpy(answer + 20, header + 20, 4);
            put32(answer + 24, cmd_sn);
        }
        break;
    default:
        die("an unexpected PDU with opcode %#x", header[0]);
    }
}

static void iscsi_wait(void)
{
    uint64_t before = completions;
    do {
        wire_flush();
        do
            take_pdu();
        while (wire_buffered() >= 48);
    } while (completions == before);
}

static void iscsi_close(void)
{
    uint8_t header[48];
    start_header(header, LOGOUT | IMMEDIATE, FINAL, next_tag++);
    header[9] = 0;
    put32(header + 24, cmd_sn);
    wire_write(header, 48);
    do {
        memcpy(header, wire_next(48), 48);
        skip_segment(get24(header + 5));
    } while ((header[0] & 0x3f) != LOGOUT_RESPONSE);
    wire_close();
}

const struct engine iscsi_engine = {"iscsi",      iscsi_open, iscsi_may_submit,
                                    iscsi_submit, iscsi_wait, iscsi_close};
