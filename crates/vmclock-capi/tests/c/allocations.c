/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The reading path allocates nothing: this program's malloc counts. Without it (COUNT_ALLOCATIONS) nothing is checked, as
 * valgrind and the sanitizers bring their own. */
#define _GNU_SOURCE

#include <stdio.h>
#include <stdlib.h>

#include "check.h"

#ifdef COUNT_ALLOCATIONS
static long allocations;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    allocations++;
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    allocations++;
    return __libc_realloc(old, size);
}

int posix_memalign(void **place, size_t alignment, size_t size)
{
    allocations++;
    *place = __libc_memalign(alignment, size);
    return *place ? 0 : 12; /* ENOMEM */
}
#endif

void check_allocations(const char *folder)
{
#ifdef COUNT_ALLOCATIONS
    struct vmclock_clock *clock;
    struct vmclock_reading reading, last;
    struct vmclock_interval interval;
    struct vmclock_epoch epoch;
    struct vmclock_error error;
    struct vmclock_time time;
    uint8_t page[PAGE_SIZE];
    char path[4096], text[64];
    long before = allocations;

    snprintf(path, sizeof path, "%s/allocations", folder);
    good_page(page);
    write_page(path, page, sizeof page);
    EXPECT(VMCLOCK_OK, vmclock_open(path, &clock, &failure));
    CHECK(allocations > before); /* they are counted */
    EXPECT(VMCLOCK_OK, vmclock_now(clock, &last, &failure));

    before = allocations;
    for (int round = 0; round < 1000; round++) {
        EXPECT(VMCLOCK_OK, vmclock_now(clock, &reading, &error));
        EXPECT(VMCLOCK_OK, vmclock_now_unordered(clock, &reading, NULL));
        EXPECT(VMCLOCK_OK, vmclock_get_epoch(clock, &epoch, &error));
        CHECK(vmclock_is_current(clock, &epoch));
        EXPECT(VMCLOCK_OK, vmclock_reading_tai_interval(&reading, &interval));
        EXPECT(VMCLOCK_OK, vmclock_reading_utc(&reading, &time));
        CHECK(vmclock_time_format(&time, text, sizeof text) == 30);
        CHECK(!vmclock_certainly_before(&reading, &last));
    }
    update(path, STATUS, VMCLOCK_STATUS_INITIALIZING, 1);
    CHECK(vmclock_now(clock, &reading, &error) == VMCLOCK_ERROR_NO_TIME);
    CHECK(allocations == before);
    vmclock_close(clock);
    printf("allocations: none\n");
#else
    (void)folder;
    printf("allocations: not counted\n");
#endif
}
