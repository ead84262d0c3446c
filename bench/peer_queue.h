/* The ring of the peer's one queue and what may be put into it; no I/O. Rules: ABI.md, 1 and 2. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

enum { RING = 4096, LONGEST = 127, KEYS = 64 };

/* Header of a record: type 0-23, subtype 24-31 | info, whose low 7 bits are the whole length. */
struct header { uint32_t type, info; };
struct slot { uint8_t length, lossy, bytes[LONGEST]; };

static struct slot ring[RING];
static unsigned head, queued, depth = RING;
static int sized, loss_due;
static struct { uint32_t id, length; char payload[256]; } keys[KEYS];

static void push(const uint8_t *record, size_t length)
{
    if (queued == depth) {
        ring[(head + queued - 1) % RING].lossy = 1;
        return;
    }
    struct slot *slot = &ring[(head + queued++) % RING];
    slot->length = length;
    slot->lossy = 0;
    memcpy(slot->bytes, record, length);
}

/* As many whole records as fit; 0 if there is none, -EMSGSIZE if the first does not fit. */
static ssize_t take(uint8_t *to, size_t size)
{
    size_t used = 0;
    for (;;) {
        if (loss_due) {
            const struct header loss = {1u << 24, sizeof loss};
            if (size - used < sizeof loss)
                return used ? (ssize_t)used : -EMSGSIZE;
            memcpy(to + used, &loss, sizeof loss);
            used += sizeof loss;
            loss_due = 0;
        }
        if (!queued)
            return used;
        struct slot *slot = &ring[head];
        if (slot->length > size - used)
            return used ? (ssize_t)used : -EMSGSIZE;
        memcpy(to + used, slot->bytes, slot->length);
        used += slot->length;
        loss_due = slot->lossy;
        head = (head + 1) % RING;
        queued--;
    }
}

static int post_records(const uint8_t *bytes, size_t size)
{
    struct header header;
    for (size_t at = 0, length; at < size; at += length) {
        if (size - at < sizeof header)
            return EINVAL;
        memcpy(&header, bytes + at, sizeof header);
        length = header.info & 0x7f;
        if (length < sizeof header || length > size - at)
            return EINVAL;
    }
    for (size_t at = 0, length; at < size; at += length) {
        length = bytes[at + 4] & 0x7f;
        push(bytes + at, length);
    }
    return 0;
}

/* `key update ID PAYLOAD`: remembers the payload, posts KEY_NOTIFY updated. */
static int run(char *line)
{
    char *rest = NULL, *end;
    char *noun = strtok_r(line, " \t\r", &rest);
    if (!noun || *noun == '#')
        return 0;
    char *verb = strtok_r(NULL, " \t\r", &rest), *id = strtok_r(NULL, " \t\r", &rest);
    char *payload = strtok_r(NULL, " \t\r", &rest);
    if (strcmp(noun, "key") || !verb || strcmp(verb, "update") || !id || !payload)
        return EINVAL;
    unsigned long number = strtoul(id, &end, 10);
    size_t length = strlen(payload);
    if (*end || number == 0 || number > UINT32_MAX || length > sizeof keys[0].payload)
        return EINVAL;
    keys[number % KEYS].id = number;
    keys[number % KEYS].length = length;
    memcpy(keys[number % KEYS].payload, payload, length);
    const uint32_t record[4] = {1 | 1u << 24, sizeof record, number, 0};
    push((const uint8_t *)record, sizeof record);
    return 0;
}

/* SET_SIZE: once, 1..512, rounded up to whole pages of 32 records as the kernel rounds. */
static int set_size(uintptr_t records)
{
    if (sized)
        return EBUSY;
    if (records < 1 || records > 512)
        return EINVAL;
    sized = 1;
    depth = (records + 31) / 32 * 32;
    return 0;
}
