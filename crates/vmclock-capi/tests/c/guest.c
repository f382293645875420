/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A program in C in a real guest: `guest COUNT PAUSE` prints as many readings of the machine's own clock, as JSON, with
 * PAUSE microseconds between them: counter, earliest, TAI, latest in nanoseconds. The host judges them. */
#define _GNU_SOURCE

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <vmclock.h>

static void fail(const char *what, const char *text)
{
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

static int64_t ns(const struct vmclock_time *time)
{
    int64_t count;

    if (vmclock_time_ns(time, &count) != VMCLOCK_OK || time->scale != VMCLOCK_SCALE_TAI)
        fail("vmclock_time_ns", "no TAI");
    return count;
}

int main(int count, char **arguments)
{
    const long readings = count == 3 ? atol(arguments[1]) : 0;
    const struct timespec pause = {.tv_nsec = count == 3 ? atol(arguments[2]) * 1000 : 0};
    struct vmclock_clock *clock;
    struct vmclock_error error;
    struct vmclock_epoch epoch;
    struct vmclock_state state;

    if (vmclock_open(NULL, &clock, &error) != VMCLOCK_OK)
        fail("vmclock_open", error.text);
    if (vmclock_get_epoch(clock, &epoch, &error) != VMCLOCK_OK)
        fail("vmclock_get_epoch", error.text);
    if (vmclock_get_state(clock, &state, &error) != VMCLOCK_OK)
        fail("vmclock_get_state", error.text);
    printf("{\"path\": \"%s\", \"mapped\": %d, \"tai_offset\": %d, \"readings\": [", vmclock_path(clock),
           vmclock_is_mapped(clock), state.tai_offset);
    for (long index = 0; index < readings; index++) {
        struct vmclock_reading reading;
        struct vmclock_interval interval;
        struct vmclock_time tai;

        if (vmclock_now(clock, &reading, &error) != VMCLOCK_OK)
            fail("vmclock_now", error.text);
        if (vmclock_reading_tai_interval(&reading, &interval) != VMCLOCK_OK
            || vmclock_reading_tai(&reading, &tai) != VMCLOCK_OK)
            fail("vmclock_reading_tai_interval", "no TAI, or no bounds");
        printf("%s[%" PRIu64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]", index ? ", " : "",
               vmclock_reading_counter(&reading), ns(&interval.earliest), ns(&tai), ns(&interval.latest));
        nanosleep(&pause, NULL);
    }
    printf("], \"current\": %d, \"errors\": []}\n", vmclock_is_current(clock, &epoch));
    if (vmclock_check(clock, &error) != VMCLOCK_OK)
        fail("vmclock_check", error.text);
    vmclock_close(clock);
    return 0;
}
