/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What is measured of libvmclock: loops in C, which call it as any program does. Each gives 0, or a call's result. */
#include <stdint.h>

#include <vmclock.h>

/* Has a result put together in memory, though nobody looks at it. */
#define PUT_TOGETHER(result) __asm__ volatile("" : : "r"(&(result)) : "memory")

int rounds_open(const char *path, struct vmclock_clock **clock)
{
    return vmclock_open(path, clock, NULL);
}

int rounds_now(const struct vmclock_clock *clock, uint32_t calls)
{
    struct vmclock_reading reading;
    int result = VMCLOCK_OK;

    while (calls-- > 0 && result == VMCLOCK_OK) {
        result = vmclock_now(clock, &reading, NULL);
        PUT_TOGETHER(reading);
    }
    return result;
}

int rounds_now_unordered(const struct vmclock_clock *clock, uint32_t calls)
{
    struct vmclock_reading reading;
    int result = VMCLOCK_OK;

    while (calls-- > 0 && result == VMCLOCK_OK) {
        result = vmclock_now_unordered(clock, &reading, NULL);
        PUT_TOGETHER(reading);
    }
    return result;
}

int rounds_interval(const struct vmclock_clock *clock, uint32_t calls)
{
    struct vmclock_reading reading;
    struct vmclock_interval interval;
    int result = VMCLOCK_OK;

    while (calls-- > 0 && result == VMCLOCK_OK) {
        result = vmclock_now(clock, &reading, NULL);
        if (result == VMCLOCK_OK)
            result = vmclock_reading_interval(&reading, &interval);
        PUT_TOGETHER(interval);
    }
    return result;
}

int rounds_is_current(const struct vmclock_clock *clock, uint32_t calls)
{
    struct vmclock_epoch epoch;
    int result = vmclock_get_epoch(clock, &epoch, NULL);

    while (calls-- > 0 && result == VMCLOCK_OK) {
        if (!vmclock_is_current(clock, &epoch))
            result = VMCLOCK_ERROR_DISRUPTED;
    }
    return result;
}
