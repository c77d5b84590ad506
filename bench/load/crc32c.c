/* CRC32C, by the processor's instruction where there is one. */
#include "load.h"

#include <string.h>

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t by_instruction(const uint8_t *data, size_t length)
{
    uint64_t crc = 0xffffffff;
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        crc = __builtin_ia32_crc32di(crc, word);
    }
    while (length--)
        crc = __builtin_ia32_crc32qi((uint32_t)crc, *data++);
    return (uint32_t)crc ^ 0xffffffff;
}
#endif

static uint32_t by_table(const uint8_t *data, size_t length)
{
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t n = 0; n < 256; n++) {
            uint32_t crc = n;
            for (int bit = 0; bit < 8; bit++)
                crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
            table[n] = crc;
        }
    uint32_t crc = 0xffffffff;
    while (length--)
        crc = crc >> 8 ^ table[(crc ^ *data++) & 255];
    return crc ^ 0xffffffff;
}

uint32_t crc32c(const void *data, size_t length)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return by_instruction(data, length);
#endif
    return by_table(data, length);
}
